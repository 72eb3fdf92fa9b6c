"""CTC against optax, Keras (on JAX) and PyTorch: `python -m benchmarks.sequence`.

As in `benchmarks.compare`: interleaved rounds in random order, mean reduction, medians, and for jaxloss the ratio to
the fastest JAX peer with its quartiles over the rounds. Before that each library's gradient is compared with that of
jaxloss in float64, since float32 costs the peers digits. All sequences have full length.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxloss
from benchmarks.compare import Contender, jax_contender
from benchmarks.peers import MISSING, ON_GPU, WHATS, F, keras, optax, reason, torch
from benchmarks.report import header
from benchmarks.tables import megabytes, shown, spread, table
from benchmarks.timing import interleaved, ratio


@dataclasses.dataclass(frozen=True)
class Shape:
    batch: int
    frames: int
    classes: int
    labels: int

    def __str__(self) -> str:
        return f"B={self.batch} T={self.frames} C={self.classes} L={self.labels}"


SHAPES = (Shape(32, 500, 64, 100), Shape(8, 2000, 30, 400), Shape(16, 250, 5000, 50))
QUICK_SHAPES = (Shape(4, 50, 16, 10),)
JAX_PEERS = ("optax", "keras")
TIME, MEMORY = (
    0.8,
    0.5,
)  # targets at the first shape, value+grad: of the fastest JAX peer's time, of optax's temporaries


def full(labels: Array, logits: Array) -> tuple[np.ndarray, np.ndarray]:
    batch = labels.shape[0]
    return np.full(batch, labels.shape[1], np.int32), np.full(batch, logits.shape[1], np.int32)


def ours(labels: Array, logits: Array, _: None) -> Array:
    return jaxloss.ctc(labels, logits)


def by_optax(labels: Array, logits: Array, _: None) -> Array:
    paddings = jnp.zeros(logits.shape[:2]), jnp.zeros(labels.shape)
    return jnp.mean(optax.losses.ctc_loss(logits, paddings[0], labels, paddings[1]))


def by_keras(labels: Array, logits: Array, _: None) -> Array:
    return jnp.mean(keras.ops.ctc_loss(labels, logits, *full(labels, logits), mask_index=0))


def by_torch(labels: Array, logits: Array, what: str) -> tuple[Contender, Callable[[], np.ndarray]]:
    y = torch.from_dlpack(labels).long()
    z = torch.from_dlpack(logits).detach().requires_grad_()
    label_lengths, logit_lengths = (torch.from_numpy(n).long() for n in full(labels, logits))

    def mean() -> Any:
        log_p = z.log_softmax(-1).transpose(0, 1)
        return F.ctc_loss(log_p, y, logit_lengths, label_lengths, reduction="none").mean()

    def call() -> Any:
        if what == "value":
            with torch.no_grad():
                loss = mean()
        else:
            loss = mean()
            loss.backward()
            z.grad = None
        if ON_GPU:
            torch.cuda.synchronize()
        return loss.detach()

    def gradient() -> np.ndarray:
        return torch.autograd.grad(mean(), z)[0].cpu().numpy()

    return Contender(call), gradient


def gradient_errors(operands: tuple[Any, ...], peers: dict[str, Any]) -> dict[str, float]:
    """The largest error of an entry, for the sum of the losses."""
    labels, logits, _ = operands
    with jax.enable_x64(True):
        exact = np.asarray(jax.jit(jax.grad(ours, 1))(labels, np.asarray(logits, np.float64), None))
    errors = {}
    for name, function in peers.items():
        if name == "torch":
            slope = by_torch(labels, logits, "value+grad")[1]()
        else:
            slope = np.asarray(jax.jit(jax.grad(function, 1))(*operands))
        errors[name] = float(np.abs(slope - exact).max() * labels.shape[0])
    return errors


def measure(shape: Shape, rounds: int, notes: dict[str, str]) -> list[dict[str, Any]]:
    keys = jax.random.split(jax.random.key(0))
    logits = 2 * jax.random.normal(keys[0], (shape.batch, shape.frames, shape.classes))
    labels = jax.random.randint(keys[1], (shape.batch, shape.labels), 1, shape.classes)
    operands = labels, logits, None
    functions: dict[str, Any] = {"jaxloss": ours, "optax": by_optax, "keras": by_keras, "torch": None}
    functions = {name: f for name, f in functions.items() if name not in MISSING}
    errors = gradient_errors(operands, functions)
    cells = []
    for what in WHATS:
        made: dict[str, Contender] = {}
        for name, function in functions.items():
            try:
                made[name] = (
                    by_torch(labels, logits, what)[0] if name == "torch" else jax_contender(function, operands, what)
                )
                value = float(made[name].call())
                mine = float(made["jaxloss"].call())
                if abs(value - mine) > 1e-5 * mine:
                    notes[f"{shape} {what}: {name}"] = f"its value is {value:.7g}, that of jaxloss {mine:.7g}"
            except Exception as error:
                made.pop(name, None)
                notes[f"{shape} {what}: {name}"] = reason(error)
        samples = interleaved({name: contender.call for name, contender in made.items()}, rounds)
        held = {name: contender.temporaries for name, contender in made.items()}
        cells.append({"shape": str(shape), "what": what, "seconds": samples, "temporary_bytes": held, "errors": errors})
        print(f"{shape} {what}: done", flush=True)
    return cells


def fastest(cell: dict[str, Any]) -> str | None:
    """The fastest JAX peer."""
    samples = cell["seconds"]
    return min((p for p in JAX_PEERS if p in samples), key=lambda p: statistics.median(samples[p]), default=None)


def row(cell: dict[str, Any]) -> list[str]:
    samples, held, errors, peer = cell["seconds"], cell["temporary_bytes"], cell["errors"], fastest(cell)
    to_peer = functools.partial(ratio, samples["jaxloss"])
    return [
        cell["shape"],
        cell["what"],
        *(shown(1e3 * statistics.median(samples[n]) if n in samples else None, ".3g") for n in NAMES),
        f"**{spread(to_peer(samples[peer]) if peer else None)}**",
        spread(to_peer(samples["torch"]) if "torch" in samples else None),
        *(megabytes(held.get(n)) for n in ("jaxloss", *JAX_PEERS)),
        *(shown(errors.get(n), ".0e") for n in NAMES),
    ]


NAMES = ("jaxloss", *JAX_PEERS, "torch")
HEAD = (
    *("shape", "what"),
    *(f"{n} ms" for n in NAMES),
    *("**to the fastest JAX peer**", "to torch"),
    *(f"{n} MB" for n in ("jaxloss", *JAX_PEERS)),
    *(f"{n} error" for n in NAMES),
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sequence", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=7, help="samples a cell (default 7)")
    parser.add_argument("--first", action="store_true", help="only the shape that has targets")
    parser.add_argument("--quick", action="store_true", help="small arrays: a smoke test")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all samples as JSON")
    options = parser.parse_args(argv)
    notes = {name: why for name, why in MISSING.items() if name in NAMES}
    shapes = QUICK_SHAPES if options.quick else SHAPES[:1] if options.first else SHAPES
    cells = [cell for shape in shapes for cell in measure(shape, options.rounds, notes)]
    facts = header()
    print("\n# CTC\n")
    print(table(["", ""], [[key, str(value)] for key, value in facts.items()]))
    print("\nMB: peak temporary memory. error: the largest one in the gradient of the sum, against float64.\n")
    print(table(HEAD, [row(cell) for cell in cells]))
    target = next((c for c in cells if c["shape"] == str(SHAPES[0]) and c["what"] == "value+grad"), None)
    if target and (peer := fastest(target)):
        time = ratio(target["seconds"]["jaxloss"], target["seconds"][peer])[0]
        print(f"\n{target['shape']} value+grad: {time:.2f} of {peer}'s time (at most {TIME}: {verdict(time, TIME)})")
        held = target["temporary_bytes"]
        if held.get("jaxloss") and held.get("optax"):
            share = held["jaxloss"] / held["optax"]
            print(f"temporary memory: {share:.2f} of optax's (at most {MEMORY}: {verdict(share, MEMORY)})")
    for key, why in notes.items():
        print(f"- {key}: {why}")
    if options.json:
        options.json.write_text(json.dumps({"header": facts, "notes": notes, "cells": cells}, indent=1) + "\n")


def verdict(value: float, limit: float) -> str:
    return "ok" if value <= limit else "MISSED"


if __name__ == "__main__":
    main()
