"""How every op is called: a plan is made once for the signatures of the arrays and the arguments, kept, and run.

The signature of an array is what a plan depends on: its dtype, shape, strides and alignment. All that follows from the
signatures and the arguments is checked when the plan is made; what depends on the elements is checked in each run.
"""

from collections.abc import Callable, Hashable
from math import prod
from typing import Any

from numpy import empty, ndarray

from fastpool import arrays
from fastpool.backends import chosen
from fastpool.device_arrays import DeviceArray
from fastpool.forms import Operand, Result, Target
from fastpool.interop import library_of
from fastpool.out import check_apart, check_out, split_out
from fastpool.replay import Recorder, recording


class Plan:
    """How a call runs on arrays of the signatures that the plan was made for.

    `operands` say how each input becomes what the kernel takes. `run` takes the inputs in that form, the arrays to fill
    and the call's options; it is not called where the results are empty. `check_option` converts an option to what
    `run` takes, or raises.
    """

    __slots__ = ("_check_option", "_is_empty", "_operands", "_results", "_run", "_shapes")

    def __init__(
        self,
        operands: tuple[Operand | None, ...],
        results: tuple[Result, ...],
        run: Callable[..., None],
        check_option: Callable[[Any], Any] | None = None,
    ) -> None:
        self._check_option = check_option
        self._operands = operands if any(operands) else None
        self._results, self._run = results, run
        self._is_empty = prod(results[0].shape) == 0
        # The shapes and dtypes of new results, where kernels fill them in the form that the caller gets.
        plain = all(result.is_plain for result in results)
        self._shapes = [(result.shape, result.dtype) for result in results] if plain else None

    def reshaped(self, shape: tuple[int, ...]) -> "Plan":
        """The same plan, with results of another shape in C order."""
        results = [result._replace(shape=shape, axes=None, out_axes=None) for result in self._results]
        return Plan(self._operands or (), tuple(results), self._run, self._check_option)

    def __call__(self, inputs: tuple[Any, ...], out: Any, original: Any, options: tuple[Any, ...]) -> Any:
        """One result or a tuple. `original` is the first input as the caller passed it: `out` is of its library."""
        if self._check_option is not None:
            options = tuple(map(self._check_option, options))
        targets: list[Any]
        if out is not None:
            targets = self._within(out, inputs, original)
            in_place = Target not in map(type, targets)
        elif self._shapes is None or type(inputs[0]) is not ndarray:
            targets, in_place = [result.new(inputs[0]) for result in self._results], False
        else:
            targets, in_place = [], True
            for shape, dtype in self._shapes:  # before Python 3.12 a comprehension would be a call
                targets.append(empty(shape, dtype))
        if not self._is_empty:
            if self._operands is not None:
                pairs = zip(self._operands, inputs, strict=True)
                inputs = tuple([x if operand is None else operand(x) for operand, x in pairs])
            filled = targets if in_place else [_canonical(target) for target in targets]
            self._run(*inputs, *filled, *options)
        if not in_place:
            targets = [target.done() if type(target) is Target else target for target in targets]
        return targets[0] if len(targets) == 1 else tuple(targets)

    def _within(self, out: Any, inputs: tuple[Any, ...], original: Any) -> list[Any]:
        """The caller's arrays, checked, and new ones in the place of None."""
        targets: list[Any] = []
        earlier: tuple[Any, ...] = ()
        for result, target in zip(self._results, split_out(out, len(self._results)), strict=True):
            if target is None:
                targets.append(result.new(inputs[0]))
            elif (
                self._shapes is not None
                and type(target) is type(original) is ndarray
                and target.dtype is result.dtype
                and target.shape == result.shape
                and target.flags.carray
            ):  # the usual case: a kernel can fill it directly
                check_apart(target, inputs, earlier)
                earlier += (target,)
                targets.append(target)
            else:
                view = check_out(target, result.shape, result.dtype, inputs, original, earlier)
                earlier += (view,)
                targets.append(result.within(view, target))
        return targets


def _canonical(target: Any) -> Any:
    """The array that a kernel fills."""
    return target.canonical if type(target) is Target else target


class Op:
    """An op: the names of its inputs, which of them must be floating, and how it is planned.

    `plan` takes the inputs as `arrays.read` returns them, the strides of contiguous ones being those that follow from
    their shape; then the static arguments, and the name of the backend or None.
    """

    __slots__ = ("floats", "inputs", "name", "plan")

    def __init__(self, name: str, inputs: tuple[str, ...], floats: tuple[str, ...], plan: Callable[..., Plan]) -> None:
        self.name, self.inputs, self.floats, self.plan = name, inputs, floats, plan

    def read(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(arrays.read(name, x, name in self.floats) for name, x in zip(self.inputs, inputs, strict=True))


_MOST_PLANS = 4096
_plans: dict[Any, Any] = {}


def _keep(key: Any, plan: Any) -> Any:
    if len(_plans) >= _MOST_PLANS:
        _plans.clear()
    _plans[key] = plan
    return plan


def forget_plans() -> None:
    """For tests, which change what plans are made of."""
    _plans.clear()


def call(
    op: Op,
    inputs: tuple[Any, ...],
    static: tuple[Hashable, ...],
    out: Any,
    backend: str | None,
    options: tuple[Any, ...] = (),
) -> Any:
    """Run an op.

    `static` are the arguments that plans depend on and are looked up by: ints, strings, bools and None of exactly these
    types, and tuples of them. `options` are further arguments of the kernel, which the plan does not depend on.
    """
    backend = chosen(backend)
    key: tuple[Any, ...] = op.name, static, backend
    for x in inputs:
        if type(x) is not ndarray:
            return _call_of_other_libraries(op, inputs, static, out, backend, options)
        key += (x.dtype, x.shape if x.flags.carray else (x.shape, x.strides, x.flags.aligned))
    plan = _plans.get(key)
    if plan is None:
        plan = _keep(key, op.plan(tuple(map(_of_its_shape, op.read(inputs))), *static, backend))
    return plan(inputs, out, inputs[0], options)


def _has_a_key(option: Any) -> bool:
    """Whether calls may be replayed with this option: NaNs cannot be told apart."""
    return type(option) is int or (type(option) is float and option == option)


def _key_of(option: Any) -> Any:
    return option if type(option) is int else repr(option)  # 0.0 is not -0.0, nor 0


def _of_its_shape(x: ndarray) -> ndarray:
    """A contiguous array with the strides that follow from its shape: those of axes of size 1 may be any.

    The plan is found by the shape, and so may depend on nothing else.
    """
    return x.reshape(-1).reshape(x.shape) if x.flags.carray else x


def _call_of_other_libraries(op, inputs, static, out, backend, options) -> Any:
    """A call on arrays of other libraries, subclasses of NumPy's, or sequences."""
    original = inputs[0]
    library = library_of(original)
    if library is not None:
        deferred = library.deferred(op.name)
        if deferred is not None:
            return deferred(*inputs, *static, *options, out, backend)
    if library is None or not all(map(_has_a_key, options)):
        return _call_once(op, inputs, static, out, backend, options)
    outs = () if out is None else out if type(out) is tuple else (out,)
    originals = inputs + outs
    key: tuple[Any, ...] = op.name, static, backend, type(out) is tuple, len(outs), *map(_key_of, options)
    pointers = []
    for x in originals:
        same_library = (library.has_types and type(x) is type(original)) or library_of(x) is library
        signature = library.signature(x) if same_library else None
        if signature is None or signature[1] == 0:  # the address of what has no memory
            return _call_once(op, inputs, static, out, backend, options)
        # Addresses may differ between the calls, but not their alignment.
        key += (signature[0], signature[1] % 16)
        pointers.append(signature[1])
    replay = _plans.get(key)
    if replay is not None and (not outs or replay.suits(pointers)):
        return replay(originals, pointers)
    if key in _plans or len(set(pointers)) < len(pointers):
        return _call_once(op, inputs, static, out, backend, options)
    names = *op.inputs, *["out"] * len(outs)
    read: list[Any] = [library.read(name, x) for name, x in zip(names, originals, strict=True)]
    recorder = Recorder(read[: len(inputs)], read[len(inputs) :])
    token = recording.set(recorder)
    try:
        found = _call_once(op, inputs, static, out, backend, options)
    finally:
        recording.reset(token)
    _keep(key, recorder.replay())
    return found


def _call_once(op, inputs, static, out, backend, options) -> Any:
    original, inputs = inputs[0], op.read(inputs)
    key = (op.name, static, backend, *map(_signature, inputs))
    plan = _plans.get(key)
    if plan is None:
        plan = _keep(key, op.plan(inputs, *static, backend))
    return arrays.to_library(plan(inputs, out, original, options), original, out)


def _signature(x: Any) -> tuple[Any, ...]:
    """What a plan depends on in an array."""
    if isinstance(x, DeviceArray):
        return type(x.library), x.device, x.dtype, x.shape, x.strides, x.pointer % 16
    return x.dtype, x.shape, x.strides, x.flags.aligned
