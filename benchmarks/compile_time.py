"""What a loss costs before it runs: `python -m benchmarks.compile_time`.

Value and gradient in float32, at the sizes of `benchmarks.cells`: time to trace them to StableHLO, its lines, and the
time that XLA takes to compile these for the CPU, beside the plain formula and optax. A trace starts from empty caches,
those of jax.numpy included, as the first one of a process does; times are medians, interleaved in random order.
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
import time
from collections.abc import Sequence

import jax
from jax.stages import Lowered

from benchmarks.cells import SIZES, Cell, cells
from benchmarks.tables import shown, table
from jaxloss._platform import choice

PEERS = ("plain", "optax")
LINES, TRACE = 3.0, 1.5  # goals: at most so many times the plain formula's


def trace(cell: Cell, contender: str) -> tuple[float, Lowered]:
    specs = cell.specs("float32")
    jax.clear_caches()
    choice.forget()
    start = time.perf_counter()
    lowered = jax.jit(cell.program(contender, "value+grad")).lower(*specs)
    return time.perf_counter() - start, lowered


def compile_once(lowered: Lowered) -> float:
    start = time.perf_counter()
    lowered.compile()
    return time.perf_counter() - start


def measure(cell: Cell, rounds: int, compiles: int) -> dict[str, dict[str, float]]:
    """Of each contender "trace" and "compile" in seconds, and "lines"."""
    samples: dict[str, list[float]] = {name: [] for name in cell.contenders}
    order = list(samples)
    shuffle = random.Random(0).shuffle
    figures: dict[str, dict[str, float]] = {}
    for name in order:
        lowered = trace(cell, name)[1]
        figures[name] = {"lines": len(lowered.as_text().splitlines())}
        if compiles:
            figures[name]["compile"] = statistics.median(compile_once(lowered) for _ in range(compiles))
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            samples[name].append(trace(cell, name)[0])
    for name, times in samples.items():
        figures[name]["trace"] = statistics.median(times)
    return figures


def ratio(figures: dict[str, dict[str, float]], peer: str, what: str) -> float | None:
    mine, theirs = figures["jaxloss"].get(what), figures.get(peer, {}).get(what)
    return mine / theirs if mine and theirs else None


def row(key: str, figures: dict[str, dict[str, float]]) -> list[str]:
    cells = [key]
    for what, unit, form in (("trace", 1e3, ".0f"), ("lines", 1, ".0f"), ("compile", 1e3, ".0f")):
        mine = figures["jaxloss"].get(what)
        cells.append(shown(unit * mine if mine else None, form))
        cells += [shown(ratio(figures, peer, what)) for peer in PEERS]
    return cells


HEAD = (
    "cell",
    *("trace ms", "/ plain", "/ optax"),
    *("lines", "/ plain", "/ optax"),
    *("compile ms", "/ plain", "/ optax"),
)


def goal(what: str, limit: float, measured: dict[str, dict[str, dict[str, float]]]) -> str:
    ratios = {key: found for key, figures in measured.items() if (found := ratio(figures, "plain", what))}
    within = sum(found <= limit for found in ratios.values())
    middle = f", median {statistics.median(ratios.values()):.1f}" if ratios else ""
    return f"{what} within {limit:g} times the plain formula's: {within} of {len(ratios)}{middle}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compile_time", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--only", metavar="REGEX", type=re.compile, default=re.compile(""), help="of these cells")
    parser.add_argument("--sizes", choices=SIZES, default="usual", help="default usual")
    parser.add_argument("--where", action="store_true", help="the cells with a mask instead")
    parser.add_argument("--rounds", type=int, default=5, help="traces of each (default 5)")
    parser.add_argument("--compiles", type=int, default=1, help="compilations of each (default 1; 0 leaves them out)")
    options = parser.parse_args(argv)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    jax.config.update("jax_platforms", "cpu")
    measured = {}
    for cell in cells(SIZES[options.sizes]):
        if cell.masked == options.where and options.only.search(cell.key):
            measured[cell.key] = measure(cell, options.rounds, options.compiles)
            print(f"{cell.key}: done", flush=True)
    print(f"\njax {jax.__version__}, value and gradient, float32\n")
    print(table(HEAD, [row(key, figures) for key, figures in measured.items()]))
    print(f"\n{goal('lines', LINES, measured)}; {goal('trace', TRACE, measured)}")


if __name__ == "__main__":
    main()
