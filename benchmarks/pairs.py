"""Losses of sets and lists against the plain formula and optax: `python -m benchmarks.pairs`.

"plain" is the formula as one would type it, which holds the matrix of all pairs; that of CLIP has one matrix for both
directions, as in figure 3 of its paper. "chunk" is jaxloss with so many anchors at a time. As in `benchmarks.compare`:
interleaved rounds in random order, mean reduction, medians, and the ratio to plain with its quartiles over the rounds.
The gradients are those of all embeddings. MB is temporary memory.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import jaxloss
from benchmarks import plain
from benchmarks.compare import jax_contender
from benchmarks.peers import MISSING, WHATS, optax, reason
from benchmarks.report import publish
from benchmarks.tables import megabytes, spread
from benchmarks.timing import interleaved, ratio

SIZE, QUICK_SIZE = "4096x256", "64x16"
CHUNK = 512
TARGET = 1.1  # of the time of the plain formula, in chunks
LIMIT = 4 * 2**30  # bytes: what would hold more is not run
WAYS = ("jaxloss", "chunk", "optax")


def clip(a: Array, b: Array, temperature: float = 0.07) -> Array:
    z = a @ b.T / temperature
    return -(jnp.diagonal(jax.nn.log_softmax(z, 1)) + jnp.diagonal(jax.nn.log_softmax(z, 0))) / 2


def optax_nt_xent(a: Array, b: Array) -> Array:
    return optax.losses.ntxent(jnp.concatenate([a, b]), jnp.tile(jnp.arange(len(a)), 2), 0.5)


# What comes first of each, labels, is not differentiated; None where there are none.
FORMULAS: dict[str, Callable[..., Array]] = {
    "info_nce": plain.info_nce,
    "clip": clip,
    "siglip": plain.siglip,
    "nt_xent": plain.nt_xent,
    "sup_con": plain.sup_con,
    "triplet": plain.triplet,
    "list_softmax": plain.list_softmax,
}
OF_LABELS = ("sup_con", "list_softmax")
IN_CHUNKS = ("info_nce", "clip", "siglip", "nt_xent", "sup_con")
OPTAX: dict[str, Callable[..., Array]] = {
    "nt_xent": optax_nt_xent,
    "triplet": lambda a, p, n: optax.losses.triplet_margin_loss(a, p, n),
    "list_softmax": lambda y, z: optax.losses.ranking_softmax_loss(z, y, reduce_fn=None),
}


def operands(name: str, n: int, d: int) -> tuple[Array | None, tuple[Array, ...], None]:
    keys = jax.random.split(jax.random.key(0), 3)
    if name == "list_softmax":
        return jax.random.uniform(keys[0], (n, d)), (jax.random.normal(keys[1], (n, d)),), None
    points = [jax.random.normal(key, (n, d)) for key in keys]
    points = [x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in points]
    if name == "sup_con":
        return jnp.arange(n) // 8, (points[0],), None
    return None, tuple(points[: 3 if name == "triplet" else 2]), None


def mean_of(name: str, function: Callable[..., Array]) -> Callable[..., Array]:
    def mean(labels: Array, points: tuple[Array, ...], _: None) -> Array:
        return jnp.mean(function(labels, *points) if name in OF_LABELS else function(*points))

    return mean


def measure(name: str, what: str, n: int, d: int, rounds: int, notes: dict[str, str]) -> dict[str, Any]:
    ours, given = jaxloss.LOSSES[name], operands(name, n, d)
    functions = {"plain": FORMULAS[name], "jaxloss": ours}
    if name in IN_CHUNKS:
        functions["chunk"] = functools.partial(ours, chunk=min(CHUNK, n // 4))
    if name in OPTAX and optax is not None:
        functions["optax"] = OPTAX[name]
    made, values, held = {}, {}, {}
    for way, function in functions.items():
        try:
            contender = jax_contender(mean_of(name, function), given, what)
            held[way] = contender.temporaries
            if (contender.temporaries or 0) > LIMIT:
                notes[f"{name} {what}: {way}"] = f"not run: it would hold {megabytes(contender.temporaries)} MB"
                continue
            made[way] = contender
            values[way] = float(contender.call())
        except Exception as error:
            made.pop(way, None)
            notes[f"{name} {what}: {way}"] = reason(error)
    for way, value in values.items():
        if abs(value - values["plain"]) > 1e-4 * abs(values["plain"]):
            notes[f"{name} {what}: {way}"] = f"its value is {value:.7g}, that of plain {values['plain']:.7g}"
    samples = interleaved({way: contender.call for way, contender in made.items()}, rounds)
    print(f"{name} {what}: done", file=sys.stderr)
    return {"loss": name, "what": what, "seconds": samples, "temporary_bytes": held}


def row(cell: dict[str, Any]) -> list[str]:
    samples, held = cell["seconds"], cell["temporary_bytes"]
    to = {way: ratio(samples[way], samples["plain"]) if way in samples else None for way in WAYS}
    verdict = ""
    if cell["what"] == "value+grad" and (reached := to["chunk"]):
        verdict = f"at most {TARGET}: {'ok' if reached[0] <= TARGET else 'MISSED'}"
    return [
        cell["loss"],
        cell["what"],
        f"{1e3 * statistics.median(samples['plain']):.3g}",
        *(spread(to[way]) for way in WAYS),
        *(megabytes(held.get(way)) for way in ("plain", *WAYS)),
        verdict,
    ]


HEAD = ("loss", "what", "plain ms", *WAYS, *(f"{way} MB" for way in ("plain", *WAYS)), "target")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pairs", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=FORMULAS, default=tuple(FORMULAS), metavar="LOSS")
    parser.add_argument("--size", metavar="NxD", help=f"members x features (default {SIZE})")
    parser.add_argument("--rounds", type=int, default=9, help="samples a cell (default 9)")
    parser.add_argument("--quick", action="store_true", help="64 members: a smoke test")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all samples as JSON")
    options = parser.parse_args(argv)
    size = options.size or (QUICK_SIZE if options.quick else SIZE)
    try:
        n, d = map(int, size.split("x"))
    except ValueError:
        parser.error("--size takes numbers as in 4096x256")
    notes = {name: why for name, why in MISSING.items() if name == "optax"}
    cells = [measure(name, what, n, d, options.rounds, notes) for name in options.only for what in WHATS]
    publish(f"{size}, float32, chunks of {min(CHUNK, n // 4)}", HEAD, row, cells, notes, options.json)


if __name__ == "__main__":
    main()
