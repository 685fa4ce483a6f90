"""The registry of backends: which there are, which can run here, and which one a call takes.

A backend is a module that exports the functions of `fastpool.backends.interface`, or those of the ops that it can do.
"""

import errno
import os
import sys
import warnings
from contextlib import AbstractContextManager, ContextDecorator
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

from fastpool.arguments import shown
from fastpool.threads import fork_before_logging, importing, in_a_thread_of_its_own

_MODULES = {
    "numba": "fastpool.backends.numba",
    "cython": "fastpool.backends.cython",
    "numpy": "fastpool.backends.numpy",
    "naive": "fastpool.backends.naive",
    "cuda": "fastpool.backends.cuda",
}
_REMEDY = {
    "numba": 'pip install "fastpool[numba]"',
    "cython": "reinstall fastpool where a C compiler is at hand",
    "cuda": 'pip install "fastpool[cuda]", on a machine with a GPU and a driver of NVIDIA\'s',
}
_PREFERRED = ("numba", "cython", "numpy")

# The names of the `use_backend` blocks that this thread or task is in, the innermost first.
_in_context: ContextVar[tuple[str, ...]] = ContextVar("fastpool_backend", default=())


class BackendStatus(NamedTuple):
    """Whether a backend can run here, and if not, why."""

    available: bool
    reason: str = ""


# The modules, or the lasting reasons why there is none.
_loaded: dict[str, ModuleType | str] = {}

_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
_SHORTAGE_WORDS = (*map(os.strerror, _SHORTAGES), "failed to map segment")


def _is_transient(error: BaseException) -> bool:
    """Whether the same import may work later, since the process is short of something at this moment."""
    if isinstance(error, (RecursionError, MemoryError, Warning)) or not isinstance(error, Exception):
        return True
    # The dynamic loader tells its reason in words only.
    return getattr(error, "errno", None) in _SHORTAGES or (
        isinstance(error, (ImportError, OSError)) and any(words in str(error) for words in _SHORTAGE_WORDS)
    )


def _forget_partial_imports(before: set[str]) -> None:
    """Forget the submodules of a package whose import failed. A later attempt would find them, and fail again."""
    for name in sorted(set(sys.modules) - before):
        parent = name.rpartition(".")[0]
        if parent and parent not in sys.modules:
            del sys.modules[name]


def _import(name: str) -> None:
    """Enter the backend into `_loaded`, or raise what may not happen again."""
    if name == "cuda":
        fork_before_logging()
    before = set(sys.modules)
    try:
        with importing:
            module = import_module(_MODULES[name])
        getattr(module, "check", lambda: None)()
        _loaded[name] = module
    except BaseException as error:  # a broken installation of a dependency may raise anything
        if _is_transient(error):
            _forget_partial_imports(before)
            raise
        own = str(getattr(error, "name", None)).startswith(f"{__name__}.")  # a module that was not compiled
        remedy = _REMEDY.get("cython" if own else name, "reinstall fastpool")
        _loaded[name] = f"{type(error).__name__}: {str(error).rstrip('.')}; remedy: {remedy}"


def _load(name: str) -> ModuleType | str:
    """The backend's module, or the lasting reason why there is none."""
    if name not in _loaded:
        in_a_thread_of_its_own(_import, name)
    return _loaded[name]


def check_name(name: Any, source: str) -> str:
    if isinstance(name, str):
        name = str.__str__(name)  # plans are looked up by it, and a subclass may equal anything
    if type(name) is not str or name not in _MODULES:
        raise ValueError(f"{source} must be one of {', '.join(map(repr, _MODULES))}, got {shown(name)}")
    return name


def backends() -> dict[str, BackendStatus]:
    """Every backend by name, with whether it can run here and, where not, why not.

    Returns
    -------
    dict of str to BackendStatus
        In the order in which the default is chosen. `naive` is never chosen by itself, and `cuda` only for arrays that
        lie on a GPU.

    Examples
    --------
    >>> import fastpool as fp
    >>> fp.backends()["numpy"].available
    True
    """
    loaded = {name: _load(name) for name in _MODULES}
    return {n: BackendStatus(False, m) if isinstance(m, str) else BackendStatus(True) for n, m in loaded.items()}


def use_backend(name: str) -> AbstractContextManager[None]:
    """Within the `with` block, calls in this thread (or task) take the backend `name`.

    Raises
    ------
    ValueError
        If there is no backend of this name.
    RuntimeError
        If it cannot run here; the message says why, and what would help.

    Examples
    --------
    >>> import fastpool as fp
    >>> with fp.use_backend("numpy"):
    ...     fp.max_pool1d([1, 3, 2, 5], 2)
    array([3, 5])
    """
    name = check_name(name, "backend")
    _named(name)
    return _Using(name)


_PAUSES = 0x20 | 0x80 | 0x200  # of code objects: generators, coroutines and asynchronous generators


class _Using(AbstractContextManager[None], ContextDecorator):
    """It keeps nothing of its own, so that it may be entered again within itself, and in several threads."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        _in_context.set((self._name, *_in_context.get()))

    def __exit__(self, *_: object) -> None:
        entered = list(_in_context.get())
        if self._name in entered:  # blocks of generators may end in any order
            entered.remove(self._name)
            _in_context.set(tuple(entered))

    def __call__(self, function: Any) -> Any:
        """The decorator of a function."""
        code = getattr(function, "__code__", None)
        if code is not None and code.co_flags & _PAUSES:
            raise TypeError("use_backend decorates no coroutine or generator; use a with block inside of it")
        return super().__call__(function)


def _named(name: str) -> ModuleType:
    module = _load(name)
    if isinstance(module, str):
        raise RuntimeError(f"backend {name!r} cannot run here: {module}")
    return module


@cache
def _from_environment() -> str | None:
    name = os.environ.get("FASTPOOL_BACKEND")
    return check_name(name, "FASTPOOL_BACKEND") if name else None


@cache
def _default(op: str) -> ModuleType:
    """The first preferred backend that is installed and has the op."""
    reasons = []
    for name in _PREFERRED:
        module = _load(name)
        if isinstance(module, str):
            reasons.append(f"{name}: {module}")
        elif not hasattr(module, op):
            reasons.append(f"{name}: it has no {op}")
        else:
            if name == "numpy" and reasons:
                _warn_of_numpy("; ".join(reasons))
            return module
    raise NotImplementedError(f"no backend that is installed here has {op}")


@cache
def _warn_of_numpy(reasons: str) -> None:
    """Warn, once. Where the warning is an error nothing is cached, and the next call raises it again."""
    warnings.warn(
        f"fastpool takes its numpy backend, which is many times slower than a compiled one, since none can run it. "
        f'{reasons}. To take numpy without this warning: FASTPOOL_BACKEND=numpy, or use_backend("numpy")',
        RuntimeWarning,
        stacklevel=2,
    )


def chosen(backend: str | None) -> str | None:
    """The backend named in the call, else in `use_backend`, else in the environment; None for the default."""
    if backend is None:
        in_context = _in_context.get()
        return in_context[0] if in_context else _from_environment()
    return backend if type(backend) is str else check_name(backend, "backend")


def backend_for(op: str, name: str | None, device: Any = "cpu") -> ModuleType:
    """The backend that `chosen` names, which must have the op, for arrays on a device: "cpu", or the index of a GPU."""
    if device != "cpu":
        if name not in (None, "cuda"):
            raise ValueError(f"backend {name!r} takes arrays in main memory, got one on CUDA device {device}")
        name = "cuda"
    if name is None:
        return _default(op)
    module = _named(check_name(name, "backend"))
    if not hasattr(module, op):
        have = [n for n in _MODULES if hasattr(_load(n), op)]
        raise NotImplementedError(f"backend {name!r} has no {op}; these have: {', '.join(have)}")
    return module


def kernel(op: str, backend: str | None, device: Any = "cpu") -> Any:
    """The function that does `op`, of the chosen backend, for arrays that lie on a device."""
    return getattr(backend_for(op, chosen(backend), device), op)


class _CallablePackage(ModuleType):
    """`fastpool.backends` is a public function and, as for any import of `fastpool.backends.numba`, this package."""

    def __call__(self) -> dict[str, BackendStatus]:
        return backends()

    def __reduce__(self) -> tuple[Any, ...]:
        return import_module, (self.__name__,)


sys.modules[__name__].__class__ = _CallablePackage
