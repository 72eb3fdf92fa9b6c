"""What the benchmark makes of its samples: ratios, the tables, and the verdicts on the targets of issue 2."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import platform
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.peers import JAX_PEERS, LOSSES, ON_GPU, PEERS, Case, torch
from benchmarks.tables import megabytes, shown, spread, table
from benchmarks.timing import ratio


@dataclasses.dataclass(frozen=True)
class Cell:
    case: Case
    what: str
    samples: dict[str, list[float]]  # seconds, one a round
    temporaries: dict[str, int]  # bytes

    def fastest(self, peers: Sequence[str] = PEERS) -> str | None:
        return min(
            (p for p in peers if p in self.samples), key=lambda p: statistics.median(self.samples[p]), default=None
        )

    def ratio(self, name: str = "jaxloss", peers: Sequence[str] = PEERS) -> tuple[float, float, float] | None:
        fastest = self.fastest(peers)
        return ratio(self.samples[name], self.samples[fastest]) if fastest and name in self.samples else None

    def price_of_mask(self) -> tuple[float, float, float] | None:
        return ratio(self.samples["jaxloss"], self.samples["no mask"]) if "no mask" in self.samples else None

    @property
    def size(self) -> int:
        """Bytes of y_pred."""
        return math.prod(self.case.shape) * jnp.dtype(self.case.dtype).itemsize

    def share_of_copy(self) -> float | None:
        if not {"jaxloss", "copy"} <= self.samples.keys():
            return None
        inputs = 1 if LOSSES[self.case.loss].data == "labels" else 2
        moved = inputs + (self.what == "value+grad")
        return moved / 2 / ratio(self.samples["jaxloss"], self.samples["copy"])[0]

    def as_json(self) -> dict[str, Any]:
        return {
            **dataclasses.asdict(self.case),
            "what": self.what,
            "fastest_peer": self.fastest(),
            "ratio_and_quartiles": self.ratio(),
            "ratio_to_jax_peers": self.ratio(peers=JAX_PEERS),
            "price_of_mask": self.price_of_mask(),
            "share_of_copy": self.share_of_copy(),
            "copy_gb_s": 2e-9 * self.size / statistics.median(self.samples["copy"]) if "copy" in self.samples else None,
            "seconds": self.samples,
            "temporary_bytes": self.temporaries,
        }


# ---------------------------------------------------------------------------------------------------------------------
# targets


def _first(numbers: Sequence[float] | None) -> float | None:
    return numbers[0] if numbers else None


def against(peers: Sequence[str]) -> Callable[[Cell], float | None]:
    return lambda cell: _first(cell.ratio(peers=peers))


# What the targets were set against; torch.compile, which is a compiler of its own, has a line of its own.
against_eager = against([peer for peer in PEERS if peer != "torch.compile"])


@dataclasses.dataclass(frozen=True)
class Target:
    text: str
    cells: str  # a regular expression, matched with the keys of cells or of dispatch rows
    limit: float
    measure: Callable[[Any], float | None] = against_eager


def temporaries(cell: Cell) -> float | None:
    """As a share of y_pred: a number a row is none, an array is."""
    return cell.temporaries["jaxloss"] / cell.size if "jaxloss" in cell.temporaries else None


def microseconds(name: str) -> Callable[[dict[str, list[float]]], float]:
    return lambda samples: 1e6 * statistics.median(samples[name])


LONG = r"sparse_cce (4096x50257|1024x131072)"
TARGETS = (
    Target("16M elements: every cell", r"^\w+ 16384x1024 ", 1.1),
    Target("the same, with torch.compile among the peers", r"^\w+ 16384x1024 ", 1.1, against(PEERS)),
    Target("bce from logits, 16M, value", r"^bce 16384x1024 \w+ value$", 0.35),
    Target("bce from logits, 16M, value+grad", r"^bce 16384x1024 \w+ value\+grad", 0.45),
    Target("bce from probabilities, 16M, value", r"^bce_probs 16384x1024 \w+ value$", 0.6),
    Target("bce from probabilities, 16M, value+grad", r"^bce_probs 16384x1024 \w+ value\+grad", 0.65),
    Target("huber, 16M, value+grad", r"^huber 16384x1024 \w+ value\+grad", 0.85),
    Target("mse, mae, huber, 16M, bfloat16, value+grad", r"^(mse|mae|huber) 16384x1024 bfloat16 value\+grad", 0.75),
    Target("sparse_cce 4096x32768, float32", r"^sparse_cce 4096x32768 float32", 1.15),
    Target("sparse_cce 4096x32768, bfloat16", r"^sparse_cce 4096x32768 bfloat16", 0.8),
    Target("sparse_cce 4096x50257 and 1024x131072, value", rf"^{LONG} \w+ value$", 0.6),
    Target("sparse_cce 4096x50257 and 1024x131072, value+grad", rf"^{LONG} \w+ value\+grad", 0.8),
    Target("the same, temporary memory / y_pred", rf"^{LONG} ", 0.01, temporaries),
    Target("256x1024: every cell, to the fastest JAX peer", r"^\w+ 256x1024 ", 1.15, against(JAX_PEERS)),
    Target(
        "value+grad of mse, mae, huber, bce from logits, sparse_cce: temporary memory / y_pred",
        r"^(mse|mae|huber|bce|sparse_cce) \d+x\d+ \w+ value\+grad",
        0.01,
        temporaries,
    ),
    Target("eager call at 2x3, microseconds", r"^dispatch", 20, microseconds("jaxloss")),
    Target("the same with two keywords, microseconds", r"^dispatch", 25, microseconds("2 keywords")),
)


@dataclasses.dataclass(frozen=True)
class Verdict:
    target: str
    limit: float
    worst: float | None
    where: str
    missed: list[str]
    cells: int

    @property
    def word(self) -> str:
        return "not measured" if self.worst is None else "MISSED" if self.missed else "ok"


def judge(target: Target, measured: Mapping[str, Any]) -> Verdict:
    values = {key: target.measure(x) for key, x in measured.items() if re.search(target.cells, key)}
    found = {key: value for key, value in values.items() if value is not None}
    where = max(found, key=lambda key: found[key], default="")
    missed = [f"{key} {found[key]:.3g}" for key in found if found[key] > target.limit]
    return Verdict(target.text, target.limit, found.get(where), where, missed, len(found))


# ---------------------------------------------------------------------------------------------------------------------
# tables


def cell_table(cells: Sequence[Cell]) -> str:
    masked = any(cell.case.masked for cell in cells)
    head = [
        "loss",
        "shape",
        "dtype",
        "what",
        "fastest",
        "ms",
        "**jaxloss**",
        *PEERS,
        "floor",
        "of copy",
        "MB",
        "peer's MB",
    ]
    rows = []
    for cell in cells:
        case, fastest, held = cell.case, cell.fastest(), cell.temporaries
        least = [held[peer] for peer in JAX_PEERS if peer in held]
        row = [case.loss, f"{case.shape[0]}x{case.shape[1]}", case.dtype, cell.what, fastest or "-"]
        row.append(shown(1e3 * statistics.median(cell.samples[fastest]) if fastest else None, ".3g"))
        row.append(f"**{spread(cell.ratio())}**")
        row += [shown(_first(cell.ratio(name))) for name in (*PEERS, "floor")]
        row.append(shown(cell.share_of_copy(), ".0%"))
        row += [megabytes(held.get("jaxloss")), megabytes(min(least, default=None))]
        rows.append([*row, spread(cell.price_of_mask())] if masked else row)
    return table([*head, "to no mask"] if masked else head, rows)


def dispatch_table(rows: Mapping[str, dict[str, list[float]]]) -> str:
    head = ("jaxloss", "2 keywords", "jitted plain", "optax", "keras", "torch")
    body = [
        [key.partition(" ")[2], *(shown(microseconds(name)(row) if name in row else None, ".1f") for name in head)]
        for key, row in rows.items()
    ]
    return table(["loss", *head], body)


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    rows = [
        [v.target, f"{v.limit:g}", shown(v.worst, ".3g"), v.word, f"{v.cells - len(v.missed)}/{v.cells}", v.where]
        for v in verdicts
    ]
    return table(["target", "at most", "worst", "", "cells ok", "the worst cell"], rows)


def header() -> dict[str, Any]:
    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "missing"

    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    facts: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}" if ON_GPU else processor(),
        "backend": jax.default_backend(),
        "cores": cores,
        "python": platform.python_version(),
        **{package: installed(package) for package in ("jaxloss", "jax", "jaxlib", "optax", "keras", "torch")},
    }
    if torch is not None:
        facts["torch threads"] = torch.get_num_threads()
    tunables = {
        name: os.environ[name] for name in ("GLIBC_TUNABLES", "XLA_FLAGS", "OMP_NUM_THREADS") if name in os.environ
    }
    return {**facts, **tunables}


def processor() -> str:
    with_name = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", with_name.read_text()) if with_name.exists() else []
    return f"CPU, {names[0] if names else platform.processor() or platform.machine()}"


LEGEND = """\
Times are ratios to the fastest peer in the same rounds, for jaxloss with the quartiles over rounds; below 1 beats all.
ms: the fastest peer. floor: one pass that writes a new array of y_pred's size. of copy: the bytes that must move, per
second, to the bandwidth of a copy into existing memory. MB: peak temporary memory of jaxloss, and the least of the JAX
peers. Targets are ratios to the fastest of optax, Keras, PyTorch (eager) and the plain formula, if they do not say
another thing."""


def publish(
    title: str,
    head: Sequence[str],
    row: Callable[[dict[str, Any]], Sequence[str]],
    cells: Sequence[dict[str, Any]],
    notes: Mapping[str, str],
    file: Path | None,
) -> None:
    """Print the cells as a table, with what they were measured on and what is missing; write all of it as JSON."""
    facts = header()
    print(f"\n# {title}\n")
    print(table(["", ""], [[key, str(value)] for key, value in facts.items()]) + "\n")
    print(table(head, [row(cell) for cell in cells]))
    for key, why in notes.items():
        print(f"- {key}: {why}")
    if file:
        file.write_text(json.dumps({"header": facts, "notes": notes, "cells": cells}, indent=1) + "\n")


def print_report(report: Mapping[str, Any], cells: Sequence[Cell], dispatch: Mapping[str, Any]) -> None:
    print("# jaxloss against its peers\n")
    print(table(["", ""], [[key, str(value)] for key, value in report["header"].items()]))
    print(f"\n{LEGEND}")
    for title, masked in (("The losses", False), ("With where=mask, (batch,), a quarter of it left out", True)):
        chosen = [cell for cell in cells if cell.case.masked == masked]
        if chosen:
            print(f"\n## {title}\n\n{cell_table(chosen)}")
    if dispatch:
        print(f"\n## An eager call on 2x3, microseconds\n\n{dispatch_table(dispatch)}")
    print(f"\n## Targets\n\n{verdict_table(report['verdicts'])}")
    for verdict in report["verdicts"]:
        if len(verdict.missed) > 1:
            print(f"\n{verdict.target} (at most {verdict.limit:g}) is missed by:")
            print("\n".join(f"- {line}" for line in verdict.missed))
    if report["notes"]:
        print("\n## Left out, or in doubt\n")
        print("\n".join(f"- {key}: {why}" for key, why in report["notes"].items()))
