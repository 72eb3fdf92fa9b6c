"""What four devices say to each other: `python -m benchmarks.collectives`.

Every loss is compiled ahead of time for four devices that are not there (see `benchmarks.accelerators`), value and
gradient, with its inputs laid out as trainers do:

  batch          the first axis over all four
  vocabulary     the classes over all four, for the cross-entropies of large vocabularies
  both           the batch over two and the classes over two
  fully sharded  linear_cce: the tokens over all four, and so the features of the kernel

A collective may carry a few numbers for each entry of the first axis, and those of linear_cce together what they carry
for the plain formula, which has to add up the gradients of kernel and hidden states, too. Cells above that come first,
and the exit status is 1 if there are any.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from benchmarks import hlo
from benchmarks.accelerators import DTYPES, bytes_per_cycle, devices
from benchmarks.cells import SIZES, WHATS, Cell, Shape, cells
from benchmarks.tables import megabytes, table

A_FEW = 8  # numbers of float32
LARGE_VOCABULARY = 10_000
SHARDED = ("cce", "sparse_cce", "nll", "multi_margin", "categorical_focal", "kl_divergence", "distillation")

Layout = Callable[[int, Shape], PartitionSpec]  # of the operand of this number and shape


EVERYWHERE = PartitionSpec()
ALL = ("data", "model")  # the axes of the mesh


def over(*axes: Any) -> Callable[[Shape], PartitionSpec]:
    """The first axes of an array over these, as many as it has."""
    return lambda shape: PartitionSpec(*axes[: len(shape)])


def layouts(cell: Cell) -> Iterator[tuple[str, Layout]]:
    batch, classes = over(ALL), PartitionSpec(None, ALL)
    if cell.loss == "linear_cce":  # labels, hidden, kernel
        yield "batch", lambda n, shape: EVERYWHERE if n == 2 else batch(shape)
        yield "vocabulary", lambda n, shape: classes if n == 2 else EVERYWHERE
        yield "both", lambda n, shape: PartitionSpec(None, "model") if n == 2 else over("data")(shape)
        yield "fully sharded", lambda n, shape: batch(shape)
        return
    yield "batch", lambda n, shape: batch(shape)
    if cell.loss in SHARDED and cell.inputs[1][0][1] > LARGE_VOCABULARY:
        yield "vocabulary", lambda n, shape: classes if len(shape) == 2 else EVERYWHERE
        yield "both", lambda n, shape: over(*ALL)(shape)


@dataclasses.dataclass(frozen=True)
class Found:
    collectives: tuple[hlo.Collective, ...] = ()
    temporaries: int = 0
    error: str = ""

    @property
    def bytes(self) -> int:
        return sum(c.bytes * c.times for c in self.collectives)

    @property
    def largest(self) -> int:
        return max((c.bytes for c in self.collectives), default=0)

    def __str__(self) -> str:
        return self.error or ", ".join(f"{c.times} x {c.opcode} {c.shape}" for c in self.collectives) or "none"


def find(cell: Cell, contender: str, dtype: str, what: str, layout: Layout, mesh: Mesh, target: str) -> Found:
    def place(n: int, shape: Shape) -> NamedSharding:
        return NamedSharding(mesh, layout(n, shape))

    specs = cell.specs(dtype, place)
    explicit = AxisType.Explicit in mesh.axis_types
    results = NamedSharding(mesh, PartitionSpec())
    if what == "value+grad":
        results = results, tuple(specs[n].sharding for n in cell.by)
    program = cell.program(contender, what)
    try:
        with jax.set_mesh(mesh) if explicit else contextlib.nullcontext():
            jitted = jax.jit(program) if explicit else jax.jit(program, out_shardings=results)
            compiled: Any = jitted.lower(*specs).compile()
    except Exception as error:
        return Found(error=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    cost = hlo.cost(compiled.as_text(), bytes_per_cycle(target))
    return Found(cost.collectives, compiled.memory_analysis().temp_size_in_bytes)


def above(cell: Cell, mine: Found, plain: Found) -> bool:
    few = 4 * A_FEW * cell.inputs[0][0][0]
    if mine.error:
        return True
    if cell.loss == "linear_cce":
        return mine.bytes > plain.bytes + few
    return mine.largest > few


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.collectives", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--target", default="tpu", metavar="TARGET", help="as in benchmarks.accelerators")
    parser.add_argument(
        "--only",
        metavar="REGEX",
        type=re.compile,
        default=re.compile(""),
        help="cells, as in 'linear_cce.*fully sharded'",
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="default float32")
    parser.add_argument("--what", choices=WHATS, default="value+grad", help="default value+grad")
    parser.add_argument("--sizes", choices=SIZES, default="usual", help="default usual")
    parser.add_argument("--where", action="store_true", help="the cells with a mask, too")
    parser.add_argument("--explicit", action="store_true", help="a mesh of explicit axes")
    parser.add_argument("--all", action="store_true", help="print the cells within the limit, too")
    options = parser.parse_args(argv)
    four = np.array(devices(options.target, 4)[:4]).reshape(2, 2)
    kinds = (AxisType.Explicit if options.explicit else AxisType.Auto, AxisType.Auto)
    meshes = [Mesh(four, ALL, axis_types=(kind, kind)) for kind in kinds]  # the plain formula knows nothing of axes
    rows = []
    for cell in cells(SIZES[options.sizes]):
        for name, layout in layouts(cell) if options.where or not cell.masked else ():
            key = f"{cell.key}, {name}"
            if options.only.search(key):
                mine, plain = (
                    find(cell, who, options.dtype, options.what, layout, mesh, options.target)
                    for who, mesh in zip(("jaxloss", "plain"), meshes, strict=True)
                )
                missed = above(cell, mine, plain)
                print(f"{key}: {mine}", file=sys.stderr, flush=True)
                rows.append(["ABOVE" * missed, key, megabytes(mine.bytes), megabytes(plain.bytes), str(mine)])
    rows.sort(key=lambda row: not row[0])
    print(f"{options.target}, jax {jax.__version__}, {options.dtype}, {options.what}\n")
    if shown := [row for row in rows if row[0] or options.all]:
        print(table(("", "cell", "MB", "plain's MB", "collectives"), shown) + "\n")
    count = sum(bool(row[0]) for row in rows)
    print(f"{len(rows) - count} of {len(rows)} cells within the limit")
    raise SystemExit(count > 0)


if __name__ == "__main__":
    main()
