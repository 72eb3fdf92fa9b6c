"""What a TPU or a GPU will run, beside the plain formula and optax: `python -m benchmarks.accelerators`.

XLA compiles ahead of time, with its real compiler, for a machine that is not there. This compiles every loss (those of
`benchmarks.cells`) for a TPU v5e or an NVIDIA H100, and reads from the compiled text (`benchmarks.hlo`) how many
kernels run, what they move, what they store meanwhile and, for a TPU, the cycles that its compiler estimates. The
figures do not change from run to run. A cell is the cost of jaxloss divided by that of its best peer, in cycles for a
TPU and in bytes for a GPU; it is above the limit also if it stores a megabyte more than that peer. Those come first,
and the exit status is 1 if there are any.

`--target tpu` needs `pip install -e ".[tpu]"`, `--target h100` needs `pip install "jax[cuda12]"`; neither needs the
device. `--cache FILE` remembers what was compiled by the hash of the program, so a later run compiles what changed.

`--time` compiles for the device at hand instead, a CPU with `--sizes host` or a GPU, and runs the programs in
interleaved rounds: a cell is a time divided by that of the fastest peer, beside the share of the bandwidth of a copy.
At its end it says in how many cells bytes predict the ratio. No GPU has run it yet.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gc
import hashlib
import json
import os
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jaxlib.version
import numpy as np
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import hlo
from benchmarks.cells import SIZES, WHATS, Cell, cells
from benchmarks.tables import table
from benchmarks.timing import interleaved
from jaxloss import LOSSES

CONTENDERS = ("jaxloss", "plain", "optax")
DTYPES = ("float32", "bfloat16")
SLACK = 1e6  # bytes of temporaries above those of the best peer

# Bytes a second and cycles a second, of the data sheets.
TPU = {"v5e": (819e9, 1.5e9), "v6e": (1640e9, 1.75e9), "v5p": (2765e9, 1.75e9)}

# For CI: a dozen, value and gradient in float32, in a minute and a half.
QUICK_SIZES = dataclasses.replace(SIZES["usual"], linear=(4096, 1024, 32768))
QUICK = re.compile(
    r"(mse|mse where|huber|bce logits|kl_divergence|cosine_distance|gaussian_nll) 8192x10\d\d "
    r"|(cce|sparse_cce) logits 4096|(dice|giou|linear_cce) \d"
)


# ---------------------------------------------------------------------------------------------------------------------
# machines that are not there


def tpu_devices(topology: str) -> Sequence[Any]:
    # libtpu asks the cloud what it runs on, and there is no cloud.
    settings = {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost"}
    os.environ.update({**settings, **os.environ})
    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices


def gpu_devices(count: int = 1) -> Sequence[Any]:
    from jax._src import xla_bridge

    def canonical(platform: str, known: Any = xla_bridge.canonicalize_platform) -> str:
        return "cuda" if platform in ("gpu", "cuda") else known(platform)

    # Where there is no GPU, jax refuses to lower for the platform "gpu" (jax-ml/jax#23971).
    xla_bridge.canonicalize_platform = canonical
    described = Path(__file__).with_name("h100.txtpb").read_text()
    return topologies.get_topology_desc(platform="cuda", target_config=described, topology=f"1x1x{count}").devices


def devices(target: str, count: int = 1) -> Sequence[Any]:
    """`count` of them or more. A target that is neither "tpu" nor "h100" is a topology, such as "v6e:2x2"."""
    jax.config.update("jax_platforms", "cpu")  # none of this machine's own
    found = gpu_devices(count) if target == "h100" else tpu_devices("v5e:2x2" if target == "tpu" else target)
    if len(found) < count:
        raise ValueError(f"--target {target} has {len(found)} devices, expected at least {count}")
    return found


def bytes_per_cycle(target: str) -> float:
    """0 where the compiler estimates no cycles."""
    name = "v5e" if target == "tpu" else target.partition(":")[0]
    bandwidth, clock = TPU.get(name, (0, 1))
    return bandwidth / clock


# ---------------------------------------------------------------------------------------------------------------------
# programs


@dataclasses.dataclass(frozen=True)
class Program:
    kernels: int
    bytes: int
    cycles: int
    temporaries: int
    error: str = ""
    seconds: float = 0  # where it was run
    share: float = 0  # of the bandwidth of a copy there

    @property
    def cost(self) -> float:
        return self.seconds or self.cycles or self.bytes


def read(compiled: Any, target: str) -> Program:
    cost = hlo.cost(compiled.as_text(), bytes_per_cycle(target))
    return Program(cost.kernels, cost.bytes, cost.cycles, compiled.memory_analysis().temp_size_in_bytes)


class Compiler:
    """Compiles for one device, and remembers in a file what came out."""

    def __init__(self, target: str, device: Any, cache: Path | None):
        self.target = target
        self.sharding = NamedSharding(jax.sharding.Mesh(np.array([device]), ("x",)), PartitionSpec())
        self.cache = cache
        self.known: dict[str, Program] = {}
        if cache and cache.exists():
            for line in cache.read_text().splitlines():
                entry = json.loads(line)
                self.known[entry["hash"]] = Program(**entry["program"])

    def lower(self, cell: Cell, contender: str, dtype: str, what: str) -> Any:
        specs = cell.specs(dtype, lambda n, shape: self.sharding)
        return jax.jit(cell.program(contender, what)).lower(*specs)

    def __call__(self, cell: Cell, contenders: Sequence[str], dtype: str, what: str) -> dict[str, Program]:
        return {name: self.program(cell, name, dtype, what) for name in contenders}

    def program(self, cell: Cell, contender: str, dtype: str, what: str) -> Program:
        lowered = self.lower(cell, contender, dtype, what)
        versions = (self.target, jax.__version__, jaxlib.version.__version__)
        key = hashlib.sha256("\n".join((*versions, lowered.as_text())).encode()).hexdigest()
        if key not in self.known:
            try:
                self.known[key] = read(lowered.compile(), self.target)
            except jax.errors.JaxRuntimeError as error:  # out of memory, say
                self.known[key] = Program(0, 0, 0, 0, " ".join(str(error).split())[:300])
            if self.cache:
                name = f"{cell.key} {dtype} {what}: {contender}"
                entry = {"name": name, "hash": key, "program": dataclasses.asdict(self.known[key])}
                with self.cache.open("a") as file:
                    file.write(json.dumps(entry) + "\n")
        return self.known[key]


# ---------------------------------------------------------------------------------------------------------------------
# the table


@dataclasses.dataclass(frozen=True)
class Result:
    key: str
    programs: Mapping[str, Program]

    @property
    def best(self) -> str | None:
        """The best peer."""
        costs = {p: x.cost for p, x in self.programs.items() if p != "jaxloss" and not x.error}
        return min(costs, key=costs.__getitem__, default=None)

    @property
    def loss(self) -> str:
        return self.key.split(" ")[0]

    @property
    def counts(self) -> bool:
        return "jaxloss" in self.programs and self.best is not None

    @property
    def ratio(self) -> float:
        mine, peer = self.programs["jaxloss"], self.programs[self.best or ""]
        return float("inf") if mine.error else mine.cost / peer.cost

    @property
    def stores(self) -> bool:
        """Whether it stores more than the best peer."""
        return self.programs["jaxloss"].temporaries - self.programs[self.best or ""].temporaries > SLACK

    def above(self, limit: float) -> bool:
        return self.ratio > limit or self.stores

    @property
    def known(self) -> bool:
        """Whether it is no worse than what `KNOWN` admits."""
        return not self.above(KNOWN.get(self.loss, 0))

    def row(self, limit: float) -> list[str]:
        mine, peer = self.programs["jaxloss"], self.programs[self.best or ""]
        return [
            ("known" if self.known else "ABOVE") if self.above(limit) else "",
            self.key,
            f"{self.ratio:.2f}",
            self.best or "",
            f"{mine.kernels} / {peer.kernels}",
            f"{mine.bytes / 1e6:.1f} / {peer.bytes / 1e6:.1f}",
            f"{mine.temporaries / 1e6:.1f} / {peer.temporaries / 1e6:.1f}",
            f"{1e3 * mine.seconds:.2f} / {1e3 * peer.seconds:.2f}" if mine.seconds else "-",
            f"{mine.share:.0%} / {peer.share:.0%}" if mine.seconds else "-",
            f"{mine.cycles / 1e3:.0f} / {peer.cycles / 1e3:.0f}" if mine.cycles else "-",
        ]


# Losses that miss the limit, by how much at most, and why: RESULTS.md. A cell that is worse fails all the same.
KNOWN = {"linear_cce": 1.25}

HEAD = ("", "cell", "ratio", "best peer", "kernels", "MB moved", "MB stored", "ms", "of a copy", "kilocycles")


def report(results: Sequence[Result], limit: float, everything: bool) -> int:
    """Prints the table and returns how many cells are above the limit and not among the known ones."""
    counted = [result for result in results if result.counts]
    for result in results:
        for name, program in result.programs.items():
            if program.error:
                print(f"- {result.key}: {name}: {program.error}")
    ordered = sorted(counted, key=lambda result: (not result.above(limit), -result.ratio))
    shown = [result for result in ordered if everything or result.above(limit)]
    if shown:
        lines = [HEAD, *(result.row(limit) for result in shown)]
        columns = [column for column in zip(*lines, strict=True) if set(column[1:]) != {"-"}]
        head, *rows = zip(*columns, strict=True)
        print(f"jaxloss / best peer\n\n{table(head, rows)}\n")
    families: dict[str, list[Result]] = {}
    for result in counted:
        families.setdefault(LOSSES[result.loss].__module__.removeprefix("jaxloss."), []).append(result)
    rows = []
    for family, found in families.items():
        worst = max(found, key=lambda result: result.ratio)
        within = sum(result.ratio <= limit for result in found)
        lean = sum(not result.stores for result in found)
        rows.append([family, f"{within} of {len(found)}", f"{lean}", f"{worst.ratio:.2f}", worst.key])
    print(f"{table(('family', f'within {limit}', 'store no more', 'worst', 'of'), rows)}\n")
    above = [result for result in counted if result.above(limit)]
    within, lean = sum(result.ratio <= limit for result in counted), sum(not result.stores for result in counted)
    both = len(counted) - len(above)
    print(
        f"Of {len(counted)} cells {within} are within {limit} of the best peer, {lean} store no more, {both} are both"
    )
    return sum(not result.known for result in above)


# ---------------------------------------------------------------------------------------------------------------------
# the device at hand


def copy_bandwidth(rounds: int) -> float:
    """Bytes a second, read and written."""
    x = jax.numpy.ones(2**28, "float32")
    negate = jax.jit(lambda x: -x)
    times = interleaved({"copy": functools.partial(finish, negate, [x])}, rounds)["copy"]
    return 2 * x.nbytes / statistics.median(times)


def finish(program: Callable[..., Any], operands: Sequence[Any]) -> None:
    jax.block_until_ready(program(*operands))


class Timer:
    """Compiles for the device at hand, and runs there."""

    def __init__(self, rounds: int):
        self.rounds, self.bandwidth = rounds, copy_bandwidth(rounds)

    def __call__(self, cell: Cell, contenders: Sequence[str], dtype: str, what: str) -> dict[str, Program]:
        operands = cell.operands(dtype)
        compiled = {name: jax.jit(cell.program(name, what)).lower(*operands).compile() for name in contenders}
        calls = {name: functools.partial(finish, program, operands) for name, program in compiled.items()}
        samples = interleaved(calls, self.rounds)
        return {name: self.program(program, samples[name]) for name, program in compiled.items()}

    def program(self, compiled: Any, samples: Sequence[float]) -> Program:
        found, seconds = read(compiled, "here"), statistics.median(samples)
        return dataclasses.replace(found, seconds=seconds, share=found.bytes / seconds / self.bandwidth)


def predicted(results: Sequence[Result]) -> str:
    """In how many cells the times have the ratio of the bytes."""
    pairs = [(result.programs["jaxloss"], result.programs[result.best or ""]) for result in results if result.counts]
    near = sum(abs(mine.seconds / peer.seconds * peer.bytes / mine.bytes - 1) <= 0.1 for mine, peer in pairs)
    return f"{near} of {len(pairs)} times within 10 % of what bytes predict"


# ---------------------------------------------------------------------------------------------------------------------
# the command


def choose(options: argparse.Namespace) -> Iterator[tuple[Cell, str, str]]:
    """Each cell once, with dtype and what."""
    seen = set()
    dtypes, whats = (("float32",), ("value+grad",)) if options.quick else (options.dtypes, options.whats)
    for size in [QUICK_SIZES] if options.quick else [SIZES[name] for name in options.sizes]:
        for cell in cells(size):
            for dtype in dtypes:
                for what in whats:
                    key = f"{cell.key} {dtype} {what}"
                    wanted = not options.quick or QUICK.match(key)
                    if wanted and options.only.search(key) and key not in seen:
                        seen.add(key)
                        yield cell, dtype, what


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accelerators", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--target", default="tpu", metavar="TARGET", help='"tpu" (v5e:2x2), "h100", or a topology such as "v6e:2x2"'
    )
    parser.add_argument(
        "--only",
        metavar="REGEX",
        type=re.compile,
        default=re.compile(""),
        help="cells whose key matches, as in 'cce logits where 8192x1000 bfloat16 value+grad'",
    )
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES, help="default: both")
    parser.add_argument("--whats", nargs="+", choices=WHATS, default=WHATS, help="default: both")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["usual"], metavar="SIZES", help=" ".join(SIZES))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS, help="default: all")
    parser.add_argument("--quick", action="store_true", help="a dozen cells, float32, value+grad: for CI")
    parser.add_argument("--limit", type=float, default=1.1, help="of the ratio to the best peer (default 1.1)")
    parser.add_argument("--all", action="store_true", help="print the cells within the limit, too")
    parser.add_argument("--cache", metavar="FILE", type=Path, help="remember compiled programs in this file")
    parser.add_argument("--time", action="store_true", help="compile for the device of this machine, and time there")
    parser.add_argument("--rounds", type=int, default=9, help="samples of --time (default 9)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(argv)
    chosen = list(choose(options))
    if options.time:
        programs_of, where = Timer(options.rounds), jax.devices()[0].device_kind
    else:
        programs_of, where = Compiler(options.target, devices(options.target)[0], options.cache), options.target
    results = []
    for n, (cell, dtype, what) in enumerate(chosen, 1):
        contenders = [name for name in cell.contenders if name in options.contenders]
        results.append(Result(f"{cell.key} {dtype} {what}", programs_of(cell, contenders, dtype, what)))
        ratio = f"{results[-1].ratio:.2f}" if results[-1].counts else "no ratio"
        print(f"{n}/{len(chosen)} {results[-1].key}: {ratio}", file=sys.stderr, flush=True)
        if n % 50 == 0:
            jax.clear_caches()
            gc.collect()
    print(f"{where}, jax {jax.__version__}")
    above = report(results, options.limit, options.all)
    if options.time:
        print(predicted(results))
    raise SystemExit(above > 0)


if __name__ == "__main__":
    main()
