"""Every loss against that of an earlier revision: `python -m benchmarks.before REVISION`.

The package of that revision is taken from git and imported under another name. The programs of a cell, one of each
package, run interleaved on the device at hand, at the sizes for a host. A cell is the time now divided by the time
before; above the limit are those that take longer than `--limit` times it, by the quartile of the rounds that speaks
for them, or that store what was not stored before. Those come first, and the exit status is 1 if there are any.

`python -m benchmarks.before HEAD --no-domains` says what it costs that a value outside its domain gives NaN.
"""

from __future__ import annotations

import argparse
import functools
import gc
import importlib
import io
import itertools
import re
import subprocess
import sys
import tarfile
import tempfile
import unittest.mock
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

from benchmarks import cells
from benchmarks.tables import megabytes, spread, table
from benchmarks.timing import interleaved, ratio

ROOT = Path(__file__).resolve().parent.parent
SLACK = 1e5  # bytes


def package(revision: str, folder: Path) -> ModuleType:
    """jaxloss as it was, imported as jaxloss_before."""
    archive = subprocess.run(["git", "archive", revision, "jaxloss"], cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    (folder / "jaxloss").rename(folder / "jaxloss_before")
    for path in (folder / "jaxloss_before").rglob("*.py"):
        text = re.sub(r"^( *)import jaxloss$", r"\1import jaxloss_before as jaxloss", path.read_text(), flags=re.M)
        path.write_text(re.sub(r"^( *(?:from|import) )jaxloss\b(?!_)", r"\1jaxloss_before", text, flags=re.M))
    sys.path.insert(0, str(folder))
    return importlib.import_module("jaxloss_before")


def in_place_of_jaxloss(before: ModuleType) -> Any:
    return unittest.mock.patch.object(cells, "jaxloss", before)


def absent(*_: Any, **__: Any) -> Any:
    raise TypeError("This loss was not there before.")


def pairs(before: ModuleType) -> dict[str, tuple[cells.Cell, cells.Cell]]:
    """The cells of both by name."""
    for name in cells.jaxloss.LOSSES:
        if not hasattr(before, name):
            setattr(before, name, absent)
    # Its own has no loss of a package of another name.
    before.LOSSES = {name: getattr(before, name) for name in cells.jaxloss.LOSSES}  # pyright: ignore
    now = {cell.key: cell for cell in cells.cells(cells.SIZES["host"])}
    with in_place_of_jaxloss(before):
        then = {cell.key: cell for cell in cells.cells(cells.SIZES["host"])}
    return {key: (now[key], then[key]) for key in now}


def compared(
    before: ModuleType, now: cells.Cell, then: cells.Cell, what: str, operands: Sequence[Any], rounds: int
) -> tuple[tuple[float, float, float], list[int]]:
    """Time now over that before, with its quartiles; the bytes that each stores."""
    programs = [jax.jit(now.program("jaxloss", what)).lower(*operands).compile()]
    with in_place_of_jaxloss(before):
        programs.append(jax.jit(then.program("jaxloss", what)).lower(*operands).compile())
    names = ("now", "before")
    calls = {name: functools.partial(program, *operands) for name, program in zip(names, programs, strict=True)}
    samples = interleaved(calls, rounds)
    stored: list[Any] = [program.memory_analysis() for program in programs]
    return ratio(samples["now"], samples["before"]), [x.temp_size_in_bytes for x in stored]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.before", description=__doc__)
    parser.add_argument("revision", help="as git names it")
    parser.add_argument("--only", default="", metavar="REGEX", help="of the names, as in benchmarks.accelerators")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--limit", type=float, default=1.05)
    parser.add_argument("--no-domains", action="store_true", help="before, no domain was looked after")
    options = parser.parse_args(argv)
    dtypes: list[str] = options.dtypes
    rows: list[tuple[float, list[str]]] = []
    unknown: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        before = package(options.revision, Path(folder))
        if options.no_domains:
            mapping: Any = importlib.import_module("jaxloss_before._contract.map")
            mapping.guarded = lambda formula, *_: formula
        chosen = [pair for key, pair in pairs(before).items() if re.search(options.only, key)]
        for (now, then), dtype, what in itertools.product(chosen, dtypes, cells.WHATS):
            try:
                times, stored = compared(before, now, then, what, now.operands(dtype), options.rounds)
            except TypeError:  # not there, or not with these options
                unknown.add(now.loss)
                continue
            above = times[1] > options.limit or stored[0] > stored[1] + SLACK
            row = ["ABOVE" * above, f"{now.key} {dtype} {what}", spread(times), *map(megabytes, stored)]
            rows.append((times[0] + 100 * above, row))
            print(*row, flush=True)
            gc.collect()
            jax.clear_caches()
    rows.sort(key=lambda row: -row[0])
    print(f"\n{jax.devices()[0].device_kind}, jax {jax.__version__}, time now / time at {options.revision}\n")
    print(table(["", "cell", "time (quartiles)", "MB", "MB before"], [row for _, row in rows]))
    bad = sum(bool(row[0]) for _, row in rows)
    print(f"\n{len(rows) - bad} of {len(rows)} cells within {options.limit} of what they were")
    if unknown:
        print("Not there before, or not with these options:", ", ".join(sorted(unknown)))
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
