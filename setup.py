"""The compiled modules. Everything else about the package is in pyproject.toml."""

import os
import sysconfig

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel

msvc = sysconfig.get_platform().startswith("win")
here = "fastpool/backends"
modules = [
    Extension(
        "fastpool.backends._columns",
        [f"{here}/_columns.pyx"],
        extra_compile_args=["/O2"] if msvc else ["-O3"],
    ),
    Extension(
        "fastpool.backends._passes",
        [f"{here}/_passes.pyx"],
        include_dirs=[numpy.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
        extra_compile_args=["/O2"] if msvc else ["-O2"],
    ),
    Extension(
        "fastpool.backends.numba._launch",
        [f"{here}/numba/_launch.pyx"],
        include_dirs=[numpy.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
        depends=[f"{here}/numba/team.h", f"{here}/numba/cpu.h"],
        extra_compile_args=["/O2", "/std:c11", "/experimental:c11atomics"] if msvc else ["-O2", "-std=gnu11"],
    ),
]
directives = {"language_level": 3, "boundscheck": False, "wraparound": False, "cdivision": True}
modules = cythonize(modules, compiler_directives=directives)
# Without a C compiler the rest installs, and fastpool.backends() says what is missing. cythonize drops this option.
for module in modules:
    module.optional = True


class Wheel(bdist_wheel):
    """A wheel that is tagged by what was built: without the compiled module it is one for every system."""

    def run(self):
        self.run_command("build_ext")
        build_ext = self.get_finalized_command("build_ext")
        if not any(map(os.path.exists, build_ext.get_outputs())):
            self.distribution.ext_modules = []
            self.distribution.package_data = {"fastpool": ["py.typed"]}  # and no kernels, which nothing could call
            self.root_is_pure = True
        super().run()


setup(ext_modules=modules, cmdclass={"bdist_wheel": Wheel})
