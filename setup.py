"""The one compiled module. Everything else about the package is in pyproject.toml."""

import os
import sysconfig

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel

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


class Wheel(bdist_wheel):
    """A wheel that is tagged by what was built: without the compiled module it is one for every system."""

    def run(self):
        self.run_command("build_ext")
        build_ext = self.get_finalized_command("build_ext")
        if not any(map(os.path.exists, build_ext.get_outputs())):
            self.distribution.ext_modules = []
            self.root_is_pure = True
        super().run()


setup(ext_modules=[columns], cmdclass={"bdist_wheel": Wheel})
