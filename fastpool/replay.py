"""Replaying calls on a GPU: the allocations and launches of an earlier call, with other addresses.

Calls on arrays of the same signatures make the same allocations and launches. Replaying them takes a sixth of the time
of reading the arrays and running their plan, which is most of a call on small arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from operator import itemgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastpool.device_arrays import DeviceArray


class Recorder:
    """Records what a call allocates and launches.

    Each array has a slot: the caller's first, which are the inputs and then those of `out`, and then the arrays that
    the call allocates, in their order.
    """

    def __init__(self, inputs: list[DeviceArray], outs: list[DeviceArray]) -> None:
        self.originals, self.inputs = [*inputs, *outs], len(inputs)
        self.slots = {a.pointer: slot for slot, a in enumerate(self.originals)}
        self.arrays: list[DeviceArray] = []
        self.launches: list[tuple[Any, list[int]]] = []
        self.results: list[DeviceArray] = []
        self.replayable = True

    def record_allocation(self, a: DeviceArray) -> None:
        self.slots[a.pointer] = len(self.originals) + len(self.arrays)
        self.arrays.append(a)

    def record_launch(self, launch: Any, addresses: Sequence[int]) -> None:
        """`launch` can be called again with other addresses in place of these, and with a stream."""
        try:
            self.launches.append((launch, [self.slots[address] for address in addresses]))
        except KeyError:  # an address inside an array
            self.replayable = False

    def replay(self) -> Replay | None:
        """The recorded call; None if it did something that was not recorded."""
        count = len(self.originals)
        slots = [self.slots.get(r.pointer, -1) for r in self.results]
        # Arrays that name several streams wait for each other, which is not recorded.
        has_one_stream = len({a.named_stream for a in self.originals}) == 1
        if not (self.replayable and self.launches and has_one_stream) or min(slots, default=count) < count:
            return None
        # A result may be a view of its allocation, in another shape.
        views = dict(zip(slots, self.results, strict=True))
        allocations = [views.get(slot, a) for slot, a in enumerate(self.arrays, count)]
        return Replay(self.originals, self.inputs, allocations, self.launches, [*range(self.inputs, count), *slots])


def _picker(slots: Sequence[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """A function that gives the elements of a sequence at `slots`."""
    if len(slots) > 1:
        return itemgetter(*slots)
    (slot,) = slots
    return lambda sequence: (sequence[slot],)


class Replay:
    """A recorded call, for the caller's arrays of the same signatures: inputs, and then those of `out`.

    `slots` are those of its results.
    """

    def __init__(
        self,
        originals: list[DeviceArray],
        inputs: int,
        allocations: list[DeviceArray],
        launches: list[Any],
        slots: list[int],
    ) -> None:
        self._launches = [(launch, _picker(of_launch)) for launch, of_launch in launches]
        self._results, self._has_one_result = _picker(slots), len(slots) == 1
        like = originals[0]
        self._library, self._inputs = like.library, inputs
        self._allocators = [like.library.allocator(a) for a in allocations]
        self._on_device = like.without_memory()  # enough to ask for the current stream
        # Where the memory of each array begins and ends, from its address on.
        self._extents = [(low - a.pointer, high - a.pointer) for a in originals for low, high in [a.extent()]]

    def suits(self, pointers: Sequence[int]) -> bool:
        """Whether arrays at these addresses may be written to: whether those of `out` share no memory."""
        spans = [(p + low, p + high) for p, (low, high) in zip(pointers, self._extents, strict=True)]
        return all(
            high <= begin or end <= low
            for at, (low, high) in enumerate(spans[self._inputs :], self._inputs)
            for begin, end in spans[:at]
        )

    def __call__(self, originals: Sequence[Any], pointers: Sequence[int]) -> Any:
        address_of = self._library.address
        arrays, addresses = list(originals), list(pointers)
        for allocate in self._allocators:
            a = allocate()
            arrays.append(a)
            addresses.append(address_of(a))
        stream = self._on_device.stream()
        for launch, of_launch in self._launches:
            launch(of_launch(addresses), stream)
        for out in originals[self._inputs :]:
            self._library.written(out)
        results = self._results(arrays)
        return results[0] if self._has_one_result else results


recording: ContextVar[Recorder | None] = ContextVar("fastpool_recording", default=None)
