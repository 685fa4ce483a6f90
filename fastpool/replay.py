"""Calls on a GPU that replay what an earlier one launched, with other addresses.

Inputs of one signature need the same allocations and launches. Replaying them takes a sixth of the time of planning
them anew, which for small arrays is most of a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastpool.device_arrays import DeviceArray


class Recorder:
    """What a call allocates and launches."""

    def __init__(self, inputs: Sequence[int]) -> None:
        self.slots = {pointer: slot for slot, pointer in enumerate(inputs)}
        self.inputs = len(inputs)
        self.arrays: list[DeviceArray] = []
        self.launches: list[tuple[Any, list[int]]] = []
        self.results: list[DeviceArray] = []
        self.whole = True

    def made(self, a: DeviceArray) -> None:
        self.slots[a.pointer] = self.inputs + len(self.arrays)
        self.arrays.append(a)

    def launched(self, launch: Any, addresses: Sequence[int]) -> None:
        """A launch, which can be called with addresses in place of these and with a stream."""
        try:
            self.launches.append((launch, [self.slots[address] for address in addresses]))
        except KeyError:  # inside an array, not at its beginning
            self.whole = False

    def replay(self) -> Replay | None:
        """The call as it can be replayed; None if not all that it did is known."""
        slots = [self.slots.get(r.pointer, -1) for r in self.results]
        if not self.whole or not self.launches or min(slots, default=-1) < self.inputs:
            return None
        # A result may be seen in another shape than it was made.
        seen = dict(zip(slots, self.results, strict=True))
        made = [seen.get(slot, a) for slot, a in enumerate(self.arrays, self.inputs)]
        return Replay(made, self.launches, slots)


class Replay:
    """A call on arrays of the same signatures as those of a recorded one."""

    def __init__(self, made: list[DeviceArray], launches: list[Any], slots: list[int]) -> None:
        self._launches, self._slots = launches, slots
        like = made[0]
        self._library = like.library
        self._allocators = [like.library.allocator(a) for a in made]
        self._place = like.without_memory()  # enough to ask for a stream

    def __call__(self, inputs: Sequence[Any], pointers: Sequence[int]) -> Any:
        address_of = self._library.address
        arrays, addresses = list(inputs), list(pointers)
        for allocate in self._allocators:
            a = allocate()
            arrays.append(a)
            addresses.append(address_of(a))
        stream = self._library.stream(self._place)
        for launch, slots in self._launches:
            launch([addresses[slot] for slot in slots], stream)
        if len(self._slots) == 1:
            return arrays[self._slots[0]]
        return tuple([arrays[slot] for slot in self._slots])


recording: ContextVar[Recorder | None] = ContextVar("fastpool_recording", default=None)
