"""What `import jaxloss` adds to `import jax`: `python -m benchmarks.import_time`.

Fresh interpreters, one after the other and interleaved; medians over the rounds. optax is there for comparison.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Sequence

LIMIT = 60  # milliseconds
MODULES = ("jaxloss", "optax", "chex")  # each on top of jax
HEAVY = ("chex", "optax")

PROGRAM = """
import sys, time
start = time.perf_counter()
import {modules}
print(time.perf_counter() - start, *(m for m in {heavy!r} if m in sys.modules))
"""


def import_once(modules: str) -> tuple[float, list[str]]:
    """Milliseconds, and which heavy modules came along."""
    program = PROGRAM.format(modules=modules, heavy=HEAVY)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if run.returncode:
        raise ImportError(run.stderr.strip().rpartition("\n")[2])
    seconds, *heavy = run.stdout.split()
    return 1e3 * float(seconds), heavy


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.import_time", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=7, help="fresh interpreters for each line (default 7)")
    rounds = parser.parse_args(argv).rounds
    if rounds < 1:
        parser.error("--rounds must be at least 1")

    heavy: dict[str, list[str]] = {}
    for modules in ("jax", *(f"jax, {module}" for module in MODULES)):  # warms the disk cache, too
        try:
            heavy[modules] = import_once(modules)[1]
        except ImportError as error:
            print(f"import {modules}: left out, {error}")
    contenders = list(heavy)
    times = [{modules: import_once(modules)[0] for modules in contenders} for _ in range(rounds)]
    for modules in contenders:
        added = [row[modules] - row["jax"] for row in times]
        line = f"import {modules:<13} {statistics.median(row[modules] for row in times):6.0f} ms"
        if modules != "jax":
            line += f", adds {statistics.median(added):4.0f} ms ({min(added):.0f}..{max(added):.0f})"
        print(line + f"; imports {', '.join(heavy[modules]) or 'neither chex nor optax'}")
        if modules == "jax, jaxloss":
            fine = statistics.median(added) < LIMIT and not heavy[modules]
            print(f"  target: less than {LIMIT} ms, and neither chex nor optax: {'ok' if fine else 'MISSED'}")


if __name__ == "__main__":
    main()
