"""The IoU losses against their formulas in PyTorch: `python -m benchmarks.boxes`.

"torchvision" writes the area that two boxes share as torchvision does, by a boolean index; "torch" by `clamp`, which is
faster than what anyone can import. As in `benchmarks.compare`: interleaved rounds in random order, mean reduction,
medians, and the ratio with its quartiles over the rounds.
"""

from __future__ import annotations

import argparse
import functools
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import jaxloss
from benchmarks.compare import Contender, jax_contender, torch_contender
from benchmarks.peers import MISSING, WHATS, reason, torch
from benchmarks.report import publish
from benchmarks.tables import megabytes, spread
from benchmarks.timing import interleaved, ratio

LOSSES = ("iou", "giou", "diou", "ciou")
BOXES, QUICK_BOXES = 1_000_000, 1_000
TARGET = 0.5  # of the time of torchvision's formula, value and gradient


def indexed(width: Any, height: Any) -> Any:
    area = torch.zeros_like(width)
    shared = (width > 0) & (height > 0)
    area[shared] = width[shared] * height[shared]
    return area


def clamped(width: Any, height: Any) -> Any:
    return width.clamp(min=0) * height.clamp(min=0)


def formula(name: str, shared: Callable[..., Any], y_true: Any, y_pred: Any, *, reduction: str) -> Any:
    """1 - IoU and its penalties, with torchvision's epsilon."""
    del reduction  # the mean, as in all cells
    eps = 1e-7
    (x1, y1, x2, y2), (a1, b1, a2, b2) = y_pred.unbind(-1), y_true.unbind(-1)
    overlap = shared(torch.minimum(x2, a2) - torch.maximum(x1, a1), torch.minimum(y2, b2) - torch.maximum(y1, b1))
    union = (x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - overlap
    iou = overlap / (union + eps)
    if name == "iou":
        return (1 - iou).mean()
    w, h = torch.maximum(x2, a2) - torch.minimum(x1, a1), torch.maximum(y2, b2) - torch.minimum(y1, b1)
    if name == "giou":
        hull = w * h
        return (1 - iou + (hull - union) / (hull + eps)).mean()
    distance = ((x1 + x2 - a1 - a2) ** 2 + (y1 + y2 - b1 - b2) ** 2) / 4
    loss = 1 - iou + distance / (w**2 + h**2 + eps)
    if name == "ciou":
        angle = torch.atan((a2 - a1) / (b2 - b1)) - torch.atan((x2 - x1) / (y2 - y1))
        v = 4 / math.pi**2 * angle**2
        loss = loss + (v / (1 - iou + v + eps)).detach() * v
    return loss.mean()


def make_boxes(count: int) -> tuple[Array, Array]:
    """Targets in the unit square, and predictions near them: most pairs overlap."""
    keys = jax.random.split(jax.random.key(0), 4)
    corner, size = jax.random.uniform(keys[0], (count, 2)), 0.05 + 0.2 * jax.random.uniform(keys[1], (count, 2))
    moved = corner + 0.03 * jax.random.normal(keys[2], (count, 2))
    resized = size * jnp.exp(0.2 * jax.random.normal(keys[3], (count, 2)))
    return jnp.concatenate([corner, corner + size], -1), jnp.concatenate([moved, moved + resized], -1)


def measure(name: str, what: str, count: int, rounds: int, notes: dict[str, str]) -> dict[str, Any]:
    operands = (*make_boxes(count), None)
    made: dict[str, Contender] = {
        "jaxloss": jax_contender(lambda y, p, _: jaxloss.LOSSES[name](y, p), operands, what),
    }
    for peer, shared in (("torchvision", indexed), ("torch", clamped), ("torch.compile", clamped)):
        try:
            program = functools.partial(formula, name, shared)
            made[peer] = torch_contender(program, operands, what, compiled=peer == "torch.compile")
            theirs, mine = float(made[peer].call()), float(made["jaxloss"].call())
            if abs(theirs - mine) > 1e-4 * mine:
                notes[f"{name} {what}: {peer}"] = f"its value is {theirs:.7g}, that of jaxloss {mine:.7g}"
        except Exception as error:
            made.pop(peer, None)
            notes[f"{name} {what}: {peer}"] = reason(error)
    calls: dict[str, Callable[[], Any]] = {peer: contender.call for peer, contender in made.items()}
    samples = interleaved(calls, rounds)
    print(f"{name} {what}: done", flush=True)
    return {"loss": name, "what": what, "seconds": samples, "temporary_bytes": made["jaxloss"].temporaries}


def row(cell: dict[str, Any]) -> list[str]:
    samples = cell["seconds"]
    to = {peer: ratio(samples["jaxloss"], samples[peer]) if peer in samples else None for peer in PEERS}
    verdict = ""
    if cell["what"] == "value+grad" and (reached := to["torchvision"]):
        verdict = f"at most {TARGET}: {'ok' if reached[0] <= TARGET else 'MISSED'}"
    return [
        cell["loss"],
        cell["what"],
        f"{1e3 * statistics.median(samples['jaxloss']):.3g}",
        *(spread(to[peer]) for peer in PEERS),
        megabytes(cell["temporary_bytes"]),
        verdict,
    ]


PEERS = ("torchvision", "torch", "torch.compile")
HEAD = ("loss", "what", "jaxloss ms", *(f"to {peer}" for peer in PEERS), "temporary MB", "target")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.boxes", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="samples a cell (default 9)")
    parser.add_argument("--quick", action="store_true", help="a thousand boxes: a smoke test")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all samples as JSON")
    options = parser.parse_args(argv)
    count = QUICK_BOXES if options.quick else BOXES
    notes = {name: why for name, why in MISSING.items() if name == "torch"}
    cells = [measure(name, what, count, options.rounds, notes) for name in LOSSES for what in WHATS]
    publish(f"{count:,} pairs of boxes, float32", HEAD, row, cells, notes, options.json)


if __name__ == "__main__":
    main()
