"""The one compiled module. Everything else about the package is in pyproject.toml."""

import sysconfig

from Cython.Build import cythonize
from setuptools import Extension, setup

msvc = sysconfig.get_platform().startswith("win")
columns = Extension(
    "fastpool.backends._columns",
    ["fastpool/backends/_columns.pyx"],
    extra_compile_args=["/O2"] if msvc else ["-O3"],
)
directives = {"language_level": 3, "boundscheck": False, "wraparound": False, "cdivision": True}
(columns,) = cythonize([columns], compiler_directives=directives)
# Without a C compiler the rest installs, and fastpool.backends() says what is missing. cythonize drops this option.
columns.optional = True
setup(ext_modules=[columns])
