"""PTX, the assembly language of NVIDIA's GPUs, run on the CPU.

All threads of a grid run together, one basic block at a time. Each instruction is one NumPy operation on all active
threads, which are those whose next block is the current one. Every access is checked: it must be aligned to its size
and lie within one of the arrays of the launch. `Counts` holds the instructions and the memory requests of the warps.

"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from typing import NamedTuple

import ml_dtypes
import numpy as np

WARP, SECTOR = 32, 32  # threads of a warp, and bytes of the smallest access to memory
HALVES = {"f16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
MAX_STEPS = 100_000  # basic blocks, after which a kernel counts as an endless loop


class Fault(Exception):
    """An access outside the arrays of a launch, or one that is not aligned."""


class Instruction(NamedTuple):
    """`@predicate name.modifiers operands`"""

    name: str
    modifiers: tuple[str, ...]
    operands: tuple[str, ...]
    predicate: str | None
    negated: bool

    def __str__(self):
        return f"{'.'.join((self.name, *self.modifiers))} {', '.join(self.operands)}"


class Region(NamedTuple):
    """Memory that a kernel may use: a flat array of bytes at an address."""

    address: int
    memory: np.ndarray


class Counts:
    """Instructions and memory requests, summed over the warps of a run."""

    def __init__(self):
        self.warps, self.instructions, self.requests, self.sectors = 0, Counter(), Counter(), Counter()

    def of_a_warp(self):
        """Instructions, and requests to memory, of a warp."""
        return self.instructions.total() / self.warps, self.requests.total() / self.warps


@cache
def dtype_of(name):
    """The NumPy dtype of a PTX type. Untyped bits are unsigned integers."""
    if name == "pred":
        return np.dtype(bool)
    kind = {"f": "f", "s": "i"}.get(name[0], "u")
    return np.dtype(f"{kind}{int(name.lstrip('bfsu')) // 8}")


def unsigned(dtype):
    return np.dtype(f"u{dtype.itemsize}")


def type_of(instruction):
    return dtype_of(instruction.modifiers[-1])


def halves_of(values, name):
    """float32 values of the two-byte floats that lie in words: two in each where the type is "f16x2" or "bf16x2"."""
    parts = np.ascontiguousarray(values)[..., None].view(np.uint16)[..., : 2 if name.endswith("x2") else 1]
    return parts.view(HALVES[name.removesuffix("x2")]).astype(np.float32)


def as_halves(values, name):
    """The inverse of `halves_of`, rounded to nearest."""
    parts = values.astype(HALVES[name.removesuffix("x2")]).view(np.uint16).astype(np.uint32)
    return np.bitwise_or.reduce(parts << np.arange(0, 16 * parts.shape[-1], 16, dtype=np.uint32), axis=-1)


class Program:
    """The one kernel of a PTX module, as basic blocks of instructions."""

    def __init__(self, ptx):
        ptx = re.sub(r"//.*", "", ptx)
        entry = ptx.index(".entry")
        begin = ptx.index("{", entry)
        self.parameters = re.findall(r"\.param (?:\.align \d+ )?\.(\w+) ([\w$]+)", ptx[entry:begin])
        self.shared, self.shared_bytes = {}, 0
        for align, name, size in re.findall(r"\.shared \.align (\d+) \.b8 ([\w$]+)\[(\d+)\]", ptx):
            self.shared[name] = -(-self.shared_bytes // int(align)) * int(align)
            self.shared_bytes = self.shared[name] + int(size)
        self.blocks, self.labels = [[]], {}
        for statement in re.findall(r"\$L\w+:|[^;:]+;", _statements(ptx[begin + 1 : ptx.rindex("}")])):
            self._append(statement.strip())
        self.blocks.append([])

    def _append(self, statement):
        if statement.endswith(":"):
            self.blocks.append([])
            self.labels[statement[:-1]] = len(self.blocks) - 1
            return
        found = re.fullmatch(r"(?:@(!?)(%\w+)\s+)?([\w.:]+)\s*(.*);", statement, re.DOTALL)
        negated, predicate, name, rest = found.groups()
        operands = tuple(o.strip() for o in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*", rest))
        first, *modifiers = name.split(".")
        modifiers = tuple(m for m in modifiers if m not in ("uni", "sync", "aligned", "volatile", "nc"))
        self.blocks[-1].append(Instruction(first, modifiers, operands, predicate, negated == "!"))
        if first in ("bra", "ret", "bar", "barrier"):
            self.blocks.append([])


def _statements(body):
    """The instructions and labels of a kernel, without declarations and the braces of scopes."""
    body = re.sub(r"(?m)^\s*[{}]\s*$", "", body)
    return re.sub(r"(?m)^\s*\{?\s*\.(?:reg|shared|local|pragma|loc|file)\b[^;]*;", "", body)


class Run:
    """One launch: the registers of all threads as words of 64 bits, and the basic block at which each thread is."""

    def __init__(self, program, grid, block, arguments, regions, counts=None):
        self.program, self.counts, self.block = program, counts, block
        self.regions = sorted(regions, key=lambda region: region.address)
        self.arguments = {
            name: (dtype_of(kind), v) for (kind, name), v in zip(program.parameters, arguments, strict=True)
        }
        self.count = grid * block
        threads = np.arange(self.count)
        self.warp = threads // WARP
        self.block_index = np.zeros(self.count, np.int64)
        self.waiting = np.zeros(self.count, bool)
        self.shared = np.zeros((grid, program.shared_bytes), np.uint8)
        self.registers = {
            "%tid.x": (threads % block).astype(np.uint64),
            "%ctaid.x": (threads // block).astype(np.uint64),
            "%ntid.x": np.full(self.count, block, np.uint64),
            "%nctaid.x": np.full(self.count, grid, np.uint64),
        }
        self.active = self.mask = self.next = None

    def __call__(self):
        if self.counts is not None:
            self.counts.warps += self.warp[-1] + 1
        end = len(self.program.blocks) - 1
        for _ in range(MAX_STEPS):
            ready = ~self.waiting & (self.block_index < end)
            if not ready.any():
                if not self.waiting.any():
                    return
                self.waiting[:] = False  # all threads have reached the barrier
                continue
            current = self.block_index[ready].min()
            self.active = np.flatnonzero(ready & (self.block_index == current))
            self.next = np.full(len(self.active), current + 1)
            for instruction in self.program.blocks[current]:
                self._execute(instruction)
            self.block_index[self.active] = self.next
        raise Fault("an endless loop")

    def _execute(self, instruction):
        self.mask = None
        if instruction.predicate:
            self.mask = self.get(instruction.predicate, np.dtype(bool)) != instruction.negated
        if self.counts is not None:
            warps = self.warp[self.active if self.mask is None else self.active[self.mask]]
            self.counts.instructions[instruction.name, instruction.modifiers] += len(np.unique(warps))
        try:
            operation = OPERATIONS[instruction.name]
        except KeyError:
            raise NotImplementedError(str(instruction)) from None
        operation(self, instruction)

    def get(self, operand, dtype):
        """The values of an operand in a dtype: one for each active thread, or one for all."""
        if operand.startswith("%"):
            words = self.registers[operand][self.active]
            return words.astype(bool) if dtype.kind == "b" else words.astype(unsigned(dtype)).view(dtype)
        if operand[:2] in ("0f", "0d"):
            return np.array(int(operand[2:], 16), f"u{len(operand[2:]) // 2}").view(dtype)[()]
        value = self.program.shared[operand] if operand in self.program.shared else int(operand, 0)
        if dtype.kind == "b":
            return np.bool_(value)
        return np.array(value & (1 << 8 * dtype.itemsize) - 1, unsigned(dtype)).view(dtype)[()]

    def put(self, operand, values):
        """Write a register of the active threads whose predicate holds."""
        if operand == "_":
            return
        if operand not in self.registers:
            self.registers[operand] = np.zeros(self.count, np.uint64)
        values = np.asarray(values)
        words = np.broadcast_to(values.view(unsigned(values.dtype)).astype(np.uint64), self.active.shape)
        if self.mask is None:
            self.registers[operand][self.active] = words
        else:
            self.registers[operand][self.active[self.mask]] = words[self.mask]

    def selected(self):
        """The active threads whose predicate holds, as indices into `active`."""
        return np.arange(len(self.active)) if self.mask is None else np.flatnonzero(self.mask)

    def memory(self, instruction, operand, size, selected):
        """The memory of an access: an array of bytes, and the offset at which each thread's access begins."""
        base, _, offset = operand.strip("[]").partition("+")
        addresses = np.broadcast_to(self.get(base.strip(), np.dtype("u8")), self.active.shape)[selected]
        addresses = (addresses + np.uint64(int(offset or "0", 0) & (1 << 64) - 1)).astype(np.uint64)
        if (addresses % np.uint64(size)).any():
            raise Fault(f"not aligned to {size} bytes: {instruction}")
        if "shared" in instruction.modifiers:
            offsets = addresses.astype(np.int64)
            if (offsets < 0).any() or (offsets + size > self.shared.shape[1]).any():
                raise Fault(f"beyond shared memory: {instruction}")
            return self.shared.reshape(-1), self.active[selected] // self.block * self.shared.shape[1] + offsets
        if self.counts is not None:
            self._count_request(instruction.name, addresses, size, selected)
        low, high = int(addresses.min()), int(addresses.max()) + size
        for address, memory in self.regions:
            if address <= low and high <= address + len(memory):
                return memory, (addresses - np.uint64(address)).astype(np.int64)
        raise Fault(f"{low:#x} to {high:#x} lie in no array: {instruction}")

    def _count_request(self, name, addresses, size, selected):
        warps = self.warp[self.active[selected]].astype(np.uint64)
        first, last = addresses // SECTOR, (addresses + np.uint64(size - 1)) // SECTOR
        pairs = np.concatenate([np.stack([warps, first]), np.stack([warps, last])], axis=1)
        self.counts.requests[name] += len(np.unique(warps))
        self.counts.sectors[name] += np.unique(pairs, axis=1).shape[1]


OPERATIONS = {}


def operation(*names):
    def register(function):
        OPERATIONS.update(dict.fromkeys(names, function))
        return function

    return register


@operation("bra", "ret")
def _branch(run, ins):
    target = run.program.labels[ins.operands[-1]] if ins.name == "bra" else len(run.program.blocks) - 1
    run.next[run.selected()] = target


@operation("bar", "barrier")
def _barrier(run, ins):
    run.waiting[run.active] = True


def _width(ins):
    """How many elements an access moves in each thread."""
    return next((int(m[1:]) for m in ins.modifiers if re.fullmatch(r"v\d", m)), 1)


@operation("ld")
def _load(run, ins):
    dtype, (into, source) = type_of(ins), ins.operands
    if "param" in ins.modifiers:
        _, value = run.arguments[source.strip("[]")]
        run.put(into, np.array(value & (1 << 8 * dtype.itemsize) - 1, unsigned(dtype)))
        return
    selected = run.selected()
    if not len(selected):
        return
    memory, offsets = run.memory(ins, source, dtype.itemsize * _width(ins), selected)
    for k, register in enumerate(into.strip("{}").split(",")):
        byte_indices = offsets[:, None] + k * dtype.itemsize + np.arange(dtype.itemsize)
        values = np.zeros(len(run.active), dtype)
        values[selected] = memory[byte_indices].view(dtype)[:, 0]
        if dtype.kind == "i":  # the register is wider than the element, whose sign it extends
            values = values.astype(np.int64)
        run.put(register.strip(), values)


@operation("st")
def _store(run, ins):
    dtype, (target, source) = type_of(ins), ins.operands
    selected = run.selected()
    if not len(selected):
        return
    memory, offsets = run.memory(ins, target, dtype.itemsize * _width(ins), selected)
    for k, register in enumerate(source.strip("{}").split(",")):
        values = np.broadcast_to(run.get(register.strip(), dtype), run.active.shape)[selected]
        byte_indices = offsets[:, None] + k * dtype.itemsize + np.arange(dtype.itemsize)
        memory[byte_indices] = np.ascontiguousarray(values)[:, None].view(np.uint8)


@operation("atom", "red")
def _atomic(run, ins):
    dtype, target = type_of(ins), ins.operands[-2]
    assert "max" in ins.modifiers
    selected = run.selected()
    memory, offsets = run.memory(ins, target, dtype.itemsize, selected)
    values = np.broadcast_to(run.get(ins.operands[-1], dtype), run.active.shape)[selected]
    np.maximum.at(
        memory[: len(memory) // dtype.itemsize * dtype.itemsize].view(dtype), offsets // dtype.itemsize, values
    )


@operation("mov", "cvta")
def _move(run, ins):
    dtype, (into, source) = type_of(ins), ins.operands
    if source.startswith("{"):
        parts = source.strip("{}").split(",")
        part = np.dtype(f"u{dtype.itemsize // len(parts)}")
        run.put(
            into,
            sum(run.get(p.strip(), part).astype(np.uint64) << (8 * part.itemsize * k) for k, p in enumerate(parts)),
        )
    elif into.startswith("{"):
        parts, words = into.strip("{}").split(","), run.get(source, unsigned(dtype))
        part = np.dtype(f"u{dtype.itemsize // len(parts)}")
        for k, p in enumerate(parts):
            run.put(p.strip(), (words >> words.dtype.type(8 * part.itemsize * k)).astype(part))
    else:
        run.put(into, run.get(source, dtype))


@operation("cvt")
def _convert(run, ins):
    *modifiers, to, of = ins.modifiers
    if to in ("f16x2", "bf16x2"):
        high, low = (np.broadcast_to(run.get(o, np.dtype("f4")), run.active.shape) for o in ins.operands[1:])
        run.put(ins.operands[0], as_halves(np.stack([low, high], axis=-1), to))
        return
    values, to = np.asarray(run.get(ins.operands[1], dtype_of(of))), dtype_of(to)
    if "sat" in modifiers:
        values = np.where(np.isnan(values), 0, np.clip(values, 0, 1)).astype(values.dtype)
    for modifier, rounded in (("rzi", np.trunc), ("rni", np.rint), ("rmi", np.floor), ("rpi", np.ceil)):
        if modifier in modifiers:
            values = rounded(values)
    run.put(ins.operands[0], values.astype(to))


COMPARISONS = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
}  # fmt: skip
COMBINATIONS = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


@operation("setp", "set")
def _compare(run, ins):
    dtype = type_of(ins)
    a, b = run.get(ins.operands[1], dtype), run.get(ins.operands[2], dtype)
    name = ins.modifiers[0]
    unordered = np.isnan(a) | np.isnan(b) if dtype.kind == "f" else np.bool_(False)
    if name in ("num", "nan"):
        result = unordered if name == "nan" else ~unordered
    elif dtype.kind == "f" and name.endswith("u"):
        result = COMPARISONS[name[:-1]](a, b) | unordered
    else:
        result = COMPARISONS[name](a, b) & ~unordered
    if len(ins.operands) > 3:
        result = COMBINATIONS[ins.modifiers[1]](result, run.get(ins.operands[3], np.dtype(bool)))
    if ins.name == "set":
        raise NotImplementedError(str(ins))
    run.put(ins.operands[0], result)


@operation("selp")
def _select(run, ins):
    into, a, b, which = ins.operands
    dtype = type_of(ins)
    run.put(into, np.where(run.get(which, np.dtype(bool)), run.get(a, dtype), run.get(b, dtype)))


def _shifted(ins, values, by):
    bits = 8 * values.dtype.itemsize
    amount = np.minimum(by, bits - 1).astype(values.dtype)
    if ins.name == "shl":
        return np.where(by >= bits, 0, values << amount).astype(values.dtype)
    right = values >> amount
    return right if values.dtype.kind == "i" else np.where(by >= bits, 0, right).astype(values.dtype)


@operation("shl", "shr")
def _shift(run, ins):
    values = np.asarray(run.get(ins.operands[1], type_of(ins)))
    run.put(ins.operands[0], _shifted(ins, values, run.get(ins.operands[2], np.dtype("u4"))))


UNARY = {
    "not": np.invert,
    "neg": np.negative,
    "abs": np.abs,
    "rcp": lambda a: a.dtype.type(1) / a,
    "ex2": lambda a: np.exp2(a.astype(np.float64)).astype(a.dtype),
}


@operation(*UNARY)
def _unary(run, ins):
    dtype = type_of(ins)
    a = np.asarray(run.get(ins.operands[1], dtype))
    run.put(ins.operands[0], ~a if ins.name == "not" else UNARY[ins.name](a).astype(dtype))


def _divide(a, b):
    """a / b, rounded towards zero for integers. The quotient by an integer 0 is a, which no kernel uses."""
    if a.dtype.kind == "f":
        return a / b
    b = np.where(b == 0, 1, b).astype(a.dtype)
    if a.dtype.kind == "u":
        return a // b
    return (np.abs(a) // np.abs(b) * (np.sign(a) * np.sign(b))).astype(a.dtype)


def _minimum(a, b):
    return np.fmin(a, b) if a.dtype.kind == "f" else np.minimum(a, b)


def _maximum(a, b):
    return np.fmax(a, b) if a.dtype.kind == "f" else np.maximum(a, b)


BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": _divide,
    "rem": lambda a, b: a - _divide(a, b) * b,
    "min": _minimum,
    "max": _maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


@operation(*BINARY)
def _binary(run, ins):
    if ins.modifiers[-1].removesuffix("x2") in HALVES:
        assert (ins.name, ins.modifiers[0]) == ("max", "NaN")
        a, b = (halves_of(run.get(o, np.dtype("u4")), ins.modifiers[-1]) for o in ins.operands[1:3])
        run.put(ins.operands[0], as_halves(np.maximum(a, b), ins.modifiers[-1]))
        return
    dtype = type_of(ins)
    a, b = (np.asarray(run.get(operand, dtype)) for operand in ins.operands[1:3])
    if "wide" in ins.modifiers:
        run.put(ins.operands[0], _wide(a) * _wide(b))
    elif "hi" in ins.modifiers:
        run.put(ins.operands[0], _high_half(a, b))
    elif "NaN" in ins.modifiers:
        run.put(ins.operands[0], np.maximum(a, b) if ins.name == "max" else np.minimum(a, b))
    else:
        run.put(ins.operands[0], BINARY[ins.name](a, b).astype(dtype))


def _wide(a):
    return a.astype(f"{a.dtype.kind}{2 * a.dtype.itemsize}")


def _high_half(a, b):
    if a.dtype.itemsize < 8:
        return (_wide(a) * _wide(b) >> 8 * a.dtype.itemsize).astype(a.dtype)
    products = np.asarray(a.astype(object) * b.astype(object))
    return np.array([(int(p) >> 64) for p in products.ravel()], a.dtype).reshape(products.shape)


@operation("mad")
def _multiply_add(run, ins):
    dtype = type_of(ins)
    a, b = (np.asarray(run.get(operand, dtype)) for operand in ins.operands[1:3])
    if "wide" in ins.modifiers:
        run.put(ins.operands[0], _wide(a) * _wide(b) + run.get(ins.operands[3], _wide(a).dtype))
    else:
        product = _high_half(a, b) if "hi" in ins.modifiers else a * b
        run.put(ins.operands[0], (product + run.get(ins.operands[3], dtype)).astype(dtype))


@operation("fma")
def _fused(run, ins):
    dtype = type_of(ins)
    wider = np.float64 if dtype.itemsize < 8 else np.longdouble
    a, b, c = (np.asarray(run.get(operand, dtype)).astype(wider) for operand in ins.operands[1:])
    exact = a * b + c
    result = exact.astype(dtype)
    if "rm" in ins.modifiers:
        result = np.where(result > exact, np.nextafter(result, dtype.type(-np.inf)), result)
    run.put(ins.operands[0], np.clip(result, 0, 1) if "sat" in ins.modifiers else result)


@operation("prmt")
def _permute(run, ins):
    into, *sources = ins.operands
    a, b, which = (np.broadcast_to(run.get(s, np.dtype("u4")), run.active.shape) for s in sources)
    eight = np.ascontiguousarray(np.stack([a, b], axis=1)).view(np.uint8)
    result = np.zeros((len(run.active), 4), np.uint8)
    for k in range(4):
        code = which >> np.uint32(4 * k) & np.uint32(15)
        byte = eight[np.arange(len(eight)), code & 7]
        result[:, k] = np.where(code & 8, np.where(byte & 128, 255, 0), byte)
    run.put(into, result.view(np.uint32)[:, 0])


@operation("bfe")
def _extract(run, ins):
    dtype = type_of(ins)
    a = np.asarray(run.get(ins.operands[1], dtype))
    first, count = (int(run.get(operand, np.dtype("u4"))) for operand in ins.operands[2:])
    bits = (a >> dtype.type(first)) & dtype.type((1 << count) - 1)
    if dtype.kind == "i":
        sign = dtype.type(1 << count - 1)
        bits = (bits ^ sign) - sign
    run.put(ins.operands[0], bits.astype(dtype))


@operation("bfi")
def _insert(run, ins):
    dtype = type_of(ins)
    into, *sources = ins.operands
    a, b = (np.asarray(run.get(operand, dtype)) for operand in sources[:2])
    first, count = (int(run.get(operand, np.dtype("u4"))) for operand in sources[2:])
    ones = dtype.type((1 << count) - 1 << first)
    run.put(into, b & ~ones | a << dtype.type(first) & ones)


@operation("shf")
def _funnel(run, ins):
    into, low, high, by = ins.operands
    low, high, by = (np.asarray(run.get(o, np.dtype("u4"))).astype(np.uint64) for o in (low, high, by))
    by = by & np.uint64(31) if "wrap" in ins.modifiers else np.minimum(by, np.uint64(32))
    both = high << np.uint64(32) | low
    shifted = both << by >> np.uint64(32) if "l" in ins.modifiers else both >> by
    run.put(into, shifted.astype(np.uint32))


def run(program, grid, block, arguments, regions, counts=None):
    """Run a kernel. `arguments` are integers of their bits; `regions` is the memory that the kernel may access."""

    with np.errstate(all="ignore"):
        Run(program, grid, block, arguments, regions, counts)()
