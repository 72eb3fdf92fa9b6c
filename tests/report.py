"""What the library was tried on, in figures: `python -m tests.report`, from the root of the repository.

Each figure is of a run that this command makes: all hard inputs in every dtype, every law with every loss, and the
tests of other libraries. The exit status is 1 if anything failed. `python -m tests.report hard` makes only that part.
"""

# ruff: noqa: E402  # the settings of conftest must stand before jax is imported

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS))  # the tests import one another by their plain names, as pytest has them
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=3")  # compiled as users have it, not as the tests

import conftest
import contract
import hard_inputs
import jax.numpy as jnp
import numpy as np
from cases import ROWS, Row

import jaxloss

DISTRIBUTIONS = ("jax", "jaxlib", "numpy", "mpmath", "hypothesis", "optax", "keras", "torch")


def named(row_id: str) -> tuple[Row, Callable[..., object]]:
    """A row, which cannot be pickled, and the loss as the checks call it."""
    (row,) = (row for row in ROWS if row.id == row_id)
    return row, row.judged(jaxloss.LOSSES[row.name])


def judged(row_id: str) -> hard_inputs.Result:
    """A row at its hard inputs, in all dtypes."""
    conftest.pytest_runtest_setup()
    row, loss = named(row_id)
    results = [hard_inputs.judge(row, loss), hard_inputs.judge(row, loss, (jnp.bfloat16,))]
    if row is next(other for other in ROWS if other.hard and other.name == row.name):  # in float64 one row of each loss
        with contract.x64():
            results.append(hard_inputs.judge(row, loss, (np.float64,)))
    whole = hard_inputs.Result()
    for result in results:
        whole.tried += result.tried
        whole.missed += result.missed
        whole.excused += result.excused
    return whole


def mixed(row_id: str) -> list[str]:
    conftest.pytest_runtest_setup()
    return hard_inputs.mixed(*named(row_id))


def hard() -> bool:
    rows: list[Row] = [row for row in ROWS if row.hard]
    free = [row for row in rows if contract.entries_are_free(row)]
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        results = list(zip(rows, pool.map(judged, [row.id for row in rows]), strict=True))
        found = list(zip(free, pool.map(mixed, [row.id for row in free]), strict=True))
    tried = sum(r.tried for _, r in results)
    missed = [f"{row.id}: {message}" for row, r in results for message in r.missed]
    excused = Counter(
        (row.name, dict(row.excused).get(pattern, pattern)) for row, r in results for pattern, _ in r.excused
    )
    passed = tried - len(missed) - excused.total()
    nans = sum(map(hard_inputs.is_nan, missed))
    print(
        f"hard inputs: {tried} tried, {passed} passed, {excused.total()} excused (no NaN), "
        f"{len(missed)} failed ({nans} NaN)"
    )
    print(f"  of {len({row.name for row in rows})} losses in {len(rows)} configurations, value and gradient,")
    print("  in float32, float16 and bfloat16, one of each loss in float64, against exact arithmetic")
    for (name, reason), count in excused.items():
        print(f"  excused: {name}, {count}: {reason}")
    for message in missed:
        print(f"  FAILED {message}")
    nans = [f"{row.id}: {message}" for row, messages in found for message in messages]
    print(
        f"mixtures: {hard_inputs.MIXED} of the same numbers for each of {len(free)} configurations, at random, value, "
        f"gradient and second derivative: {len(nans)} kinds of NaN"
    )
    for message in nans:
        print(f"  FAILED {message}")
    return not missed and not nans


def properties() -> bool:
    counts = pytest_counts("test_properties.py")
    cells = importlib.import_module("test_properties").table()
    laws, losses = {law for law, _ in cells}, {id.partition("-")[0] for _, id in cells}
    print(f"properties: {len(laws)} laws, {len(losses)} losses, {len(cells)} pairs; {shown(counts)}")
    return not counts["failed"]


def peers() -> bool:
    counts = pytest_counts("test_peers.py")
    print(f"peers' tests: {shown(counts)}")
    for row in importlib.import_module("peers").summary():
        print(
            f"  {row['peer']} {row['version']}: {row['run']} run, {row['agree']} agree, "
            f"{row['differ']} differ as listed, {row['not ours']} ask for what is not ours"
        )
    return not counts["failed"]


def pytest_counts(file: str) -> Counter[str]:
    """How many tests of a file passed and failed, all of them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "",
            f"--junitxml={path}",
            f"tests/{file}",
        ]
        run = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True)
        if not path.exists():
            raise RuntimeError(run.stdout + run.stderr)
        counts = Counter()
        for test in ElementTree.parse(path).iter("testcase"):
            outcomes = {child.tag for child in test}
            counts[
                "failed" if outcomes & {"failure", "error"} else "skipped" if "skipped" in outcomes else "passed"
            ] += 1
    if counts["failed"]:
        print(run.stdout)
    return counts


def shown(counts: Counter[str]) -> str:
    return f"{counts['passed']} tests passed, {counts['failed']} failed, {counts['skipped']} skipped or known to fail"


def versions() -> bool:
    known = {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}
    listed = [f"{name} {known.get(name, 'not installed')}" for name in DISTRIBUTIONS]
    print(f"versions: Python {platform.python_version()}, {', '.join(listed)}")
    return True


PARTS: dict[str, Callable[[], bool]] = {
    "hard": hard,
    "properties": properties,
    "peers": peers,
    "versions": versions,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.report", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="which parts; all if none is named")
    good = True
    for name in parser.parse_args().parts or PARTS:
        good &= PARTS[name]()
        sys.stdout.flush()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
