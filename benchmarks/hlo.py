"""What a compiled program does, read from its text (`compiled.as_text()`): kernels, bytes, cycles, collectives.

Bytes are those that cross the border of the main memory: what stays in a TPU's fast memory is free, and an array is as
large as its tiles. A kernel that only slices or gathers from an array reads what it takes; one that updates a slice in
place writes the slice. A loop counts as often as it runs, and of a conditional the costliest branch. Cycles are those
that a TPU's compiler estimates; a kernel without an estimate (a sort, a custom call) counts what its bytes take, and
copies that run beside the kernels count none.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator

ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")  # f32[8192,1024]{1,0:T(8,128)S(1)}
HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)")
VIEWS = ("bitcast", "reshape")
NO_KERNEL = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier", "add-dependency"),
    *("partition-id", "replica-id"),
}
NO_CALL = re.compile(r'custom_call_target="(AllocateBuffer|ConcatBitcast)"')
COLLECTIVES = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all"),
    *("collective-permute", "collective-broadcast"),
)


# ---------------------------------------------------------------------------------------------------------------------
# the text


@dataclasses.dataclass(frozen=True)
class ArrayType:
    dtype: str
    dims: tuple[int, ...]
    layout: str

    @property
    def in_main_memory(self) -> bool:
        space = re.search(r"S\((\d+)\)", self.layout)
        return space is None or space[1] == "0"

    @property
    def bytes(self) -> int:
        """With the padding of its tiles."""
        if self.dtype in ("token", "opaque"):
            return 0
        bits = 8 if self.dtype == "pred" else int(re.findall(r"\d+", self.dtype)[0])
        order, _, rest = self.layout.partition(":")
        dims = [self.dims[int(n)] for n in order.split(",") if n] or list(self.dims)  # from the fastest to the slowest
        tile = re.search(r"T\(([\d,]+)\)", rest)
        if tile and dims:
            sides = [int(n) for n in reversed(tile[1].split(","))]
            dims = [-(-n // side) * side for n, side in zip(dims, sides, strict=False)] + dims[len(sides) :]
        return math.prod(dims) * bits // 8


def arrays(shape: str) -> list[ArrayType]:
    """Of an array, or of a tuple however deep."""
    return [
        ArrayType(dtype, tuple(int(n) for n in dims.split(",") if n), layout)
        for dtype, dims, layout in ARRAY.findall(shape)
    ]


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    shape: str
    opcode: str
    inside: str  # between the parentheses
    attributes: str

    @functools.cached_property
    def arrays(self) -> list[ArrayType]:
        return arrays(self.shape)

    @functools.cached_property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.inside)

    def refers(self, attribute: str) -> str:
        """The computation that an attribute names, or nothing."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return found[1] if found else ""

    def number(self, pattern: str) -> int | None:
        found = re.search(pattern, self.attributes)
        return int(found[1]) if found else None


@dataclasses.dataclass
class Computation:
    instructions: dict[str, Instruction] = dataclasses.field(default_factory=dict)
    root: str = ""

    def operands(self, instruction: Instruction) -> Iterator[Instruction | None]:
        return (self.instructions.get(name) for name in instruction.operands)

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        users = collections.defaultdict(list)
        for instruction in self.instructions.values():
            for operand in dict.fromkeys(instruction.operands):
                users[operand].append(instruction)
        return users


def closing(text: str) -> int:
    """Where the parenthesis closes that the text opens with."""
    depth = 0
    for n, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return n
    raise ValueError(f"no closing parenthesis in {text[:200]!r}")


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """Computations by name, and the name of the entry."""
    computations: dict[str, Computation] = {}
    entry, current = "", Computation()
    for line in text.splitlines():
        if head := HEAD.match(line):
            current = computations[head[2]] = Computation()
            entry = head[2] if head[1] else entry
        elif found := INSTRUCTION.match(line):
            root, name, rest = found.groups()
            end = closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
            shape, rest = rest[:end], rest[end:].lstrip()
            opcode, _, _ = rest.partition("(")
            rest = rest[len(opcode) :]
            end = closing(rest)
            current.instructions[name] = Instruction(name, shape, opcode, rest[1:end], rest[end + 1 :])
            current.root = name if root else current.root
    if not entry:
        raise ValueError(f"expected the text of an HLO module with an ENTRY, got {text[:80]!r}")
    return computations, entry


# ---------------------------------------------------------------------------------------------------------------------
# bytes

Measure = Callable[[list[ArrayType]], int]


def in_main_memory(shapes: list[ArrayType]) -> int:
    return sum(array.bytes for array in shapes if array.in_main_memory)


def everywhere(shapes: list[ArrayType]) -> int:
    return sum(array.bytes for array in shapes)


def updates(instruction: Instruction, computation: Computation) -> Instruction | None:
    """What an instruction writes into its first operand, if it leaves the rest of it alone."""
    place = {"dynamic-update-slice": 1, "scatter": 2}.get(instruction.opcode)
    if place is None or len(instruction.operands) <= place:
        return None
    return computation.instructions.get(instruction.operands[place])


def taken(name: str, computation: Computation) -> int | None:
    """Bytes that a fused kernel reads of an array, or None for all: fewer if it only slices or gathers from it."""
    total = 0
    for user in computation.users[name]:
        first = user.operands[0] == name and name not in user.operands[1:]
        if first and user.opcode in ("dynamic-slice", "gather", "slice"):
            total += everywhere(user.arrays)
        elif first and updates(user, computation) is not None:
            pass  # in place: overwritten unread
        elif user.opcode in VIEWS and (part := taken(user.name, computation)) is not None:
            total += part
        else:
            return None
    return total


def written_by(root: Instruction, computation: Computation, size: Measure) -> int:
    """Bytes, where `root` is a kernel or a result of one."""
    source = root
    while source.opcode in VIEWS and source.operands[0] in computation.instructions:
        source = computation.instructions[source.operands[0]]
    update = updates(source, computation)
    whole = size(root.arrays)
    return min(whole, everywhere(update.arrays)) if update else whole


def copied(start: Instruction) -> int:
    """Bytes of a copy beside the kernels, of type (to, from, context) or ((from), to, context)."""
    places = [array for array in start.arrays if array.dims][:2]
    return min((place.bytes for place in places), default=0) * sum(place.in_main_memory for place in places)


def moved(
    instruction: Instruction, computation: Computation, computations: dict[str, Computation], size: Measure
) -> int:
    """Bytes that a kernel reads and writes, by the measure of main memory or of all memory."""
    fused = computations.get(instruction.refers("calls")) if instruction.opcode == "fusion" else None
    parameters = {i.inside: i.name for i in fused.instructions.values() if i.opcode == "parameter"} if fused else {}
    read = 0
    for n, operand in enumerate(computation.operands(instruction)):
        if operand is None or (fused is None and operand.name in instruction.operands[:n]):
            continue
        part = None
        if fused:
            part = taken(parameters[str(n)], fused) if str(n) in parameters else None
        elif n == 0 and instruction.opcode in ("dynamic-slice", "gather", "slice"):
            part = everywhere(instruction.arrays)
        elif n == 0 and updates(instruction, computation):
            part = 0
        whole = size(operand.arrays)
        read += whole if part is None else min(whole, part)
    if fused:
        root = fused.instructions[fused.root]
        results = [root] if root.opcode != "tuple" else [i for i in fused.operands(root) if i is not None]
        written = sum(written_by(result, fused, size) for result in results)
    elif instruction.opcode == "custom-call":  # bytes among its results are its workspace
        written = size([array for array in instruction.arrays if array.dtype not in ("s8", "u8")])
    else:
        written = written_by(instruction, computation, size)
    return read + written


# ---------------------------------------------------------------------------------------------------------------------
# the whole program


@dataclasses.dataclass(frozen=True)
class Collective:
    opcode: str
    shape: str
    bytes: int  # of operands or results on one device, whichever are more
    times: int = 1


@dataclasses.dataclass(frozen=True)
class Cost:
    kernels: int = 0
    bytes: int = 0
    cycles: int = 0  # 0 where the compiler estimates none
    collectives: tuple[Collective, ...] = ()

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.kernels + other.kernels,
            self.bytes + other.bytes,
            self.cycles + other.cycles,
            self.collectives + other.collectives,
        )

    def times(self, n: int) -> Cost:
        repeated = tuple(dataclasses.replace(c, times=n * c.times) for c in self.collectives)
        return Cost(n * self.kernels, n * self.bytes, n * self.cycles, repeated)


def repetitions(loop: Instruction, computations: dict[str, Computation]) -> int:
    """As the compiler noted it, or the constant in the condition of a loop."""
    known = loop.number(r'"known_trip_count":\{"n":"(\d+)"')
    if known is not None:
        return known
    condition = computations[loop.refers("condition")].instructions.values()
    bounds = [int(i.inside) for i in condition if i.opcode == "constant" and re.fullmatch(r"\d+", i.inside)]
    if len(bounds) != 1:
        raise ValueError(f"{loop.name}: expected one constant in the condition of the loop, found {bounds}")
    return bounds[0]


def cost(text: str, bytes_per_cycle: float = 0.0) -> Cost:
    """Of a whole program. `bytes_per_cycle` is what a TPU reads from its main memory in a cycle."""
    computations, entry = parse(text)

    @functools.cache
    def of(name: str) -> Cost:
        parts = (of_instruction(i, computations[name]) for i in computations[name].instructions.values())
        return sum(parts, Cost())

    def of_instruction(instruction: Instruction, computation: Computation) -> Cost:
        opcode = instruction.opcode
        if opcode in NO_KERNEL or opcode.endswith(("-done", "-update")) or NO_CALL.search(instruction.attributes):
            return Cost()
        if opcode == "while":
            return of(instruction.refers("body")).times(repetitions(instruction, computations))
        if opcode == "call":
            return of(instruction.refers("to_apply"))
        if opcode == "conditional":
            branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
            names = re.findall(r"%([\w.\-]+)", branches[1]) if branches else []
            names = names or [instruction.refers("true_computation"), instruction.refers("false_computation")]
            return max((of(name) for name in names), key=lambda cost: (cost.cycles, cost.bytes))
        if opcode.removesuffix("-start") in COLLECTIVES:
            bare = re.sub(r"\{[^}]*\}|/\*.*?\*/", "", instruction.shape)
            given = sum(everywhere(i.arrays) for i in computation.operands(instruction) if i is not None)
            results = everywhere(instruction.arrays)
            if opcode.endswith("-start") and opcode != "all-reduce-start":
                results -= given  # its type is (operands, results)
            size = max(given, results)
            return Cost(collectives=(Collective(opcode.removesuffix("-start"), bare, size),))
        involved = [*instruction.arrays, *(a for i in computation.operands(instruction) if i for a in i.arrays)]
        if not any(array.dims for array in involved):
            return Cost()  # scalars: the counter of a loop
        if opcode.endswith("-start"):
            return Cost(bytes=copied(instruction))
        cycles = instruction.number(r'"estimated_cycles":"(\d+)"')
        if cycles is None and bytes_per_cycle:
            cycles = round(moved(instruction, computation, computations, everywhere) / bytes_per_cycle)
        return Cost(1, moved(instruction, computation, computations, in_main_memory), cycles or 0)

    return of(entry)
