"""Every loss against that of an earlier revision: `python -m benchmarks.before REVISION`.

The package of that revision is taken from git and imported under another name. The programs of a cell, one of each
package, run interleaved on the device at hand, at the sizes below. A cell is the time now divided by the time before;
above the limit are those that take longer than `--limit` times it, by the quartile of the rounds that speaks for them,
or that store what was not stored before. Those come first, and the exit status is 1 if there are any.

`python -m benchmarks.before HEAD --no-domains` says what it costs that a value outside its domain gives NaN.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import importlib
import io
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

from benchmarks import cells
from benchmarks.tables import megabytes, spread, table
from benchmarks.timing import interleaved, ratio

ROOT = Path(__file__).resolve().parent.parent
SIZES = cells.Sizes(
    numbers=(2000, 1000),
    classes=(2000, 1000),
    vocabulary=(500, 50257),
    labels=(250, 128),
    boxes=65000,
    pixels=(4, 250, 250, 4),
    ctc=(8, 100, 64, 20),
    rnnt=(4, 50, 64, 20),
    linear=(1000, 512, 32000),
    members=(500, 128),
)
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


@contextlib.contextmanager
def in_place_of_jaxloss(other: ModuleType) -> Iterator[None]:
    now, cells.jaxloss = cells.jaxloss, other  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        cells.jaxloss = now


def absent(*_: Any, **__: Any) -> Any:
    raise TypeError("This loss was not there before.")


def pairs(before: ModuleType) -> dict[str, tuple[cells.Cell, cells.Cell]]:
    """The cells of both by name."""
    for name in cells.jaxloss.LOSSES:
        if not hasattr(before, name):
            setattr(before, name, absent)
    # Its own has no loss of a package of another name.
    before.LOSSES = {name: getattr(before, name) for name in cells.jaxloss.LOSSES}  # pyright: ignore
    now = {cell.key: cell for cell in cells.cells(SIZES)}
    with in_place_of_jaxloss(before):
        then = {cell.key: cell for cell in cells.cells(SIZES)}
    return {key: (now[key], then[key]) for key in now}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.before", description=__doc__)
    parser.add_argument("revision", help="as git names it")
    parser.add_argument("--only", default="", metavar="REGEX", help="of the names, as in benchmarks.accelerators")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--limit", type=float, default=1.05)
    parser.add_argument("--no-domains", action="store_true", help="before, no domain was looked after")
    options = parser.parse_args(argv)
    rows: list[tuple[float, list[str]]] = []
    unknown: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        before = package(options.revision, Path(folder))
        if options.no_domains:
            mapping: Any = importlib.import_module("jaxloss_before._contract.map")
            mapping.guarded = lambda formula, *_: formula
        for key, (now, then) in pairs(before).items():
            if not re.search(options.only, key):
                continue
            for dtype in options.dtypes:
                operands = now.operands(dtype)
                for what in cells.WHATS:
                    name = f"{key} {dtype} {what}"
                    programs: dict[str, Any] = {"now": jax.jit(now.program("jaxloss", what)).lower(*operands).compile()}
                    try:
                        with in_place_of_jaxloss(before):
                            programs["before"] = jax.jit(then.program("jaxloss", what)).lower(*operands).compile()
                    except TypeError:  # not there, or not with these options
                        unknown.add(now.loss)
                        continue
                    calls = {x: functools.partial(program, *operands) for x, program in programs.items()}
                    samples = interleaved(calls, options.rounds)
                    times = ratio(samples["now"], samples["before"])
                    stored = [programs[x].memory_analysis().temp_size_in_bytes for x in ("now", "before")]
                    above = times[1] > options.limit or stored[0] > stored[1] + SLACK
                    row = ["ABOVE" * above, name, spread(times), *map(megabytes, stored)]
                    rows.append((times[0] + 100 * above, row))
                    print(*row, flush=True)
                    del programs, calls
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
