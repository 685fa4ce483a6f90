"""Replaying calls on a GPU: the allocations and launches of an earlier call, with other addresses.

Calls on inputs of the same signatures make the same allocations and launches. Replaying them takes a sixth of the time
of planning them again, and planning is most of a call on small arrays.
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

    Each array has a slot: the inputs first, then the arrays that the call allocates, in their order.
    """

    def __init__(self, inputs: Sequence[int]) -> None:
        self.slots = {pointer: slot for slot, pointer in enumerate(inputs)}
        self.inputs = len(inputs)
        self.arrays: list[DeviceArray] = []
        self.launches: list[tuple[Any, list[int]]] = []
        self.results: list[DeviceArray] = []
        self.replayable = True

    def record_allocation(self, a: DeviceArray) -> None:
        self.slots[a.pointer] = self.inputs + len(self.arrays)
        self.arrays.append(a)

    def record_launch(self, launch: Any, addresses: Sequence[int]) -> None:
        """`launch` can be called again with other addresses in place of these, and with a stream."""
        try:
            self.launches.append((launch, [self.slots[address] for address in addresses]))
        except KeyError:  # an address inside an array
            self.replayable = False

    def replay(self) -> Replay | None:
        """The recorded call; None if it did something that was not recorded."""
        slots = [self.slots.get(r.pointer, -1) for r in self.results]
        if not self.replayable or not self.launches or min(slots, default=-1) < self.inputs:
            return None
        # A result may be a view of its allocation, in another shape.
        views = dict(zip(slots, self.results, strict=True))
        allocations = [views.get(slot, a) for slot, a in enumerate(self.arrays, self.inputs)]
        return Replay(allocations, self.launches, slots)


def _picker(slots: Sequence[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """A function that gives the elements of a sequence at `slots`."""
    if len(slots) > 1:
        return itemgetter(*slots)
    (slot,) = slots
    return lambda sequence: (sequence[slot],)


class Replay:
    """A recorded call, for inputs of the same signatures. `slots` are those of its results."""

    def __init__(self, allocations: list[DeviceArray], launches: list[Any], slots: list[int]) -> None:
        self._launches = [(launch, _picker(of_launch)) for launch, of_launch in launches]
        self._results, self._has_one_result = _picker(slots), len(slots) == 1
        like = allocations[0]
        self._library = like.library
        self._allocators = [like.library.allocator(a) for a in allocations]
        self._on_device = like.without_memory()  # enough to ask for the current stream

    def __call__(self, inputs: Sequence[Any], pointers: Sequence[int]) -> Any:
        address_of = self._library.address
        arrays, addresses = list(inputs), list(pointers)
        for allocate in self._allocators:
            a = allocate()
            arrays.append(a)
            addresses.append(address_of(a))
        stream = self._library.stream(self._on_device)
        for launch, of_launch in self._launches:
            launch(of_launch(addresses), stream)
        results = self._results(arrays)
        return results[0] if self._has_one_result else results


recording: ContextVar[Recorder | None] = ContextVar("fastpool_recording", default=None)
