"""linear_cce against other ways to the cross-entropy of a large vocabulary: `python -m benchmarks.vocabulary`.

The loss is the mean over tokens, the gradients are those of hidden and kernel. The contenders:

  naive             the logits held in full, accumulated in float32, plain JAX
  checkpoint        the usual remedy: a scan over chunks of tokens under jax.checkpoint
  jax-cce, tokamax  the packages of these names (extra [vocabulary])
  torch             F.linear_cross_entropy in chunks, or F.cross_entropy of the logits in older versions

Everything runs in one process and interleaved, as in benchmarks.compare. A time is the median over the rounds divided
by that of naive, with the quartiles of the ratio round by round. "temporaries" is what the compiled program holds
beside its inputs and results; "allowed" is the gradients in float32 and three chunks of logits. "error" is the relative
error of the kernel's gradient against float64, from the inputs as they are stored.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxloss
from benchmarks import plain
from benchmarks.compare import release
from benchmarks.peers import MISSING, ON_GPU, F, optional, reason, torch
from benchmarks.report import header
from benchmarks.tables import spread, table
from benchmarks.timing import interleaved, ratio
from jaxloss.linear import default_chunk

jax_cce = optional("jax_cce")
tokamax = optional("tokamax")
if tokamax is not None:
    optional("absl.flags").FLAGS.mark_as_parsed()  # lest it takes the command line for its own

SIZES = ((2048, 512, 32000), (2048, 512, 50257), (4096, 1024, 32000), (8192, 512, 32000), (2048, 512, 131072))
QUICK_SIZES = ((1024, 512, 32000),)


@dataclasses.dataclass(frozen=True)
class Case:
    tokens: int
    features: int
    classes: int
    dtype: str

    @property
    def key(self) -> str:
        return f"{self.tokens}x{self.features}x{self.classes} {self.dtype}"

    @property
    def allowed(self) -> int:
        """Bytes: the gradients in float32 and three chunks of logits."""
        chunk = min(self.tokens, default_chunk(self.features, self.classes))
        return 4 * (self.features * (self.tokens + self.classes) + 3 * chunk * self.classes)

    def inputs(self) -> tuple[Array, Array, Array]:
        """Labels, hidden and kernel; the logits have a standard deviation of 1."""
        keys = jax.random.split(jax.random.key(0), 3)
        labels = jax.random.randint(keys[0], (self.tokens,), 0, self.classes)
        hidden = jax.random.normal(keys[1], (self.tokens, self.features), self.dtype)
        kernel = jax.random.normal(keys[2], (self.features, self.classes)) / self.features**0.5
        return labels, hidden, kernel.astype(self.dtype)


# ---------------------------------------------------------------------------------------------------------------------
# contenders: functions of labels, hidden and kernel


def naive(labels: Array, hidden: Array, kernel: Array) -> Array:
    return jnp.mean(plain.linear_cce(labels, hidden, kernel))


def checkpoint(labels: Array, hidden: Array, kernel: Array) -> Array:
    chunk = default_chunk(*kernel.shape)

    @jax.checkpoint
    def body(total: Array, tokens: tuple[Array, Array]) -> tuple[Array, None]:
        return total + jnp.sum(plain.linear_cce(*tokens, kernel)), None

    chunks = (labels.reshape(-1, chunk), hidden.reshape(-1, chunk, hidden.shape[-1]))
    return jax.lax.scan(body, jnp.float32(0), chunks)[0] / labels.size


def by_jax_cce(labels: Array, hidden: Array, kernel: Array) -> Array:
    return jax_cce.linear_cross_entropy(hidden, kernel.T, labels)


def by_tokamax(labels: Array, hidden: Array, kernel: Array) -> Array:
    return tokamax.linear_softmax_cross_entropy_loss(hidden, labels, kernel, reduction="mean")


def by_function(labels: Array, hidden: Array, kernel: Array) -> Array:
    return jaxloss.linear_cce(labels, hidden, kernel, reduction=lambda losses, weights: jnp.mean(losses))


JAX_WAYS: dict[str, Callable[[Array, Array, Array], Array]] = {
    "jaxloss": jaxloss.linear_cce,
    "jaxloss, a function": by_function,
    "naive": naive,
    "checkpoint": checkpoint,
    "jax-cce": by_jax_cce,
    "tokamax": by_tokamax,
}
WAYS = (*JAX_WAYS, "torch")


@dataclasses.dataclass(frozen=True)
class Contender:
    call: Callable[[], tuple[Any, Any, Any]]  # the loss, and the gradients of hidden and kernel
    temporaries: int | None = None  # bytes


def jax_way(function: Callable[..., Array], inputs: tuple[Array, Array, Array]) -> Contender:
    program = jax.jit(jax.value_and_grad(function, argnums=(1, 2))).lower(*inputs).compile()
    memory = program.memory_analysis()

    def call() -> tuple[Any, Any, Any]:
        value, (by_hidden, by_kernel) = jax.block_until_ready(program(*inputs))
        return value, by_hidden, by_kernel

    return Contender(call, None if memory is None else memory.temp_size_in_bytes)


def torch_way(inputs: tuple[Array, Array, Array]) -> Contender:
    if ON_GPU and not torch.cuda.is_available():
        raise RuntimeError("this build of PyTorch has no CUDA, and JAX runs on a GPU")
    labels, hidden, kernel = (torch.from_dlpack(x) for x in (inputs[0], inputs[1], inputs[2].T.copy()))
    labels = labels.long()
    hidden, kernel = hidden.detach().requires_grad_(), kernel.detach().requires_grad_()

    def call() -> tuple[Any, Any, Any]:
        if hasattr(F, "linear_cross_entropy"):
            how = {"options": torch.nn.LinearCrossEntropyOptions()}
            loss = F.linear_cross_entropy(hidden, kernel, labels, **how)
        else:
            loss = F.cross_entropy(hidden @ kernel.T, labels)
        loss.backward()
        slopes = hidden.grad, kernel.grad
        hidden.grad = kernel.grad = None
        if ON_GPU:
            torch.cuda.synchronize()
        return loss.detach(), slopes[0], slopes[1].T

    return Contender(call)


def exact_kernel_gradient(inputs: tuple[Array, Array, Array]) -> np.ndarray:
    """In NumPy and float64, a few tokens at a time."""
    labels, hidden, kernel = np.asarray(inputs[0]), *(np.asarray(x, np.float32).astype(np.float64) for x in inputs[1:])
    slope = np.zeros(kernel.shape)
    for start in range(0, len(labels), 256):
        h, y = hidden[start : start + 256], labels[start : start + 256]
        z = h @ kernel
        z -= z.max(-1, keepdims=True)
        np.exp(z, out=z)
        z /= z.sum(-1, keepdims=True)
        z[np.arange(len(y)), y] -= 1
        slope += h.T @ z / len(labels)
    return slope


def as_numpy(x: Any) -> np.ndarray:
    return np.asarray(x.float().numpy() if hasattr(x, "numpy") else x).astype(np.float64)


# ---------------------------------------------------------------------------------------------------------------------
# the command


@dataclasses.dataclass(frozen=True)
class Cell:
    case: Case
    samples: dict[str, list[float]]  # seconds, one a round
    temporaries: dict[str, int]  # bytes
    errors: dict[str, float]

    def rows(self) -> list[list[str]]:
        naive = self.samples["naive"]
        return [
            [
                self.case.key,
                way,
                spread(ratio(samples, naive)),
                f"{statistics.median(samples):.3f}",
                f"{self.temporaries[way] / 2**20:.0f}" if way in self.temporaries else "-",
                f"{self.case.allowed / 2**20:.0f}",
                f"{self.errors[way]:.1e}" if way in self.errors else "-",
            ]
            for way, samples in self.samples.items()
        ]


def measure(case: Case, ways: Sequence[str], rounds: int, errors: bool, notes: dict[str, str]) -> Cell:
    inputs = case.inputs()
    exact = exact_kernel_gradient(inputs) if errors else None
    made, wrong = {}, {}
    for way in ways:
        try:
            make = functools.partial(jax_way, JAX_WAYS[way]) if way in JAX_WAYS else torch_way
            made[way] = make(inputs)
            value, _, slope = made[way].call()
        except Exception as error:
            made.pop(way, None)
            notes[f"{case.key}: {way}"] = reason(error)
            continue
        if exact is not None:
            wrong[way] = float(np.linalg.norm(as_numpy(slope) - exact) / np.linalg.norm(exact))
        del value, slope
        print(f"{case.key}: {way}", file=sys.stderr)
    samples = interleaved({way: contender.call for way, contender in made.items()}, rounds)
    held = {way: c.temporaries for way, c in made.items() if c.temporaries is not None}
    return Cell(case, samples, held, wrong)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.vocabulary", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, metavar="WAY", help=", ".join(WAYS))
    parser.add_argument("--sizes", nargs="+", metavar="NxDxV", help="tokens x features x classes, as in 2048x512x32000")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=5, help="samples of each contender (default 5)")
    parser.add_argument("--no-errors", action="store_true", help="skip the gradient in float64, the slowest part")
    parser.add_argument("--quick", action="store_true", help="one moderate size, three rounds: a smoke test")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the same report, with all samples, as JSON")
    options = parser.parse_args(argv)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    try:
        sizes = [tuple(map(int, size.split("x"))) for size in options.sizes or ()]
        if any(len(size) != 3 for size in sizes):
            raise ValueError
    except ValueError:
        parser.error("--sizes takes numbers as in 2048x512x32000")
    options.sizes = sizes or (QUICK_SIZES if options.quick else SIZES)
    options.rounds = min(options.rounds, 3) if options.quick else options.rounds
    return options


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(argv)
    notes: dict[str, str] = {}
    ways = ["naive", *(way for way in options.ways if way != "naive")]
    for way in tuple(ways):
        if why := MISSING.get(way.replace("-", "_")):
            notes[way] = why
            ways.remove(way)
    cells: list[Cell] = []
    try:
        for size in options.sizes:
            for dtype in options.dtypes:
                case = Case(size[0], size[1], size[2], dtype)
                cells.append(measure(case, ways, options.rounds, not options.no_errors, notes))
                release()
    except KeyboardInterrupt:
        notes["interrupted"] = "the report has what was measured until then"
    facts = header()
    print(table(["", ""], [[key, str(value)] for key, value in facts.items()]))
    columns = ["tokens x features x classes", "way", "time / naive", "seconds", "temporaries MiB", "allowed", "error"]
    print(table(columns, [row for cell in cells for row in cell.rows()]))
    if notes:
        print(table(["note", ""], [[key, value] for key, value in notes.items()]))
    if options.json:
        report = {"header": facts, "notes": notes, "cells": [dataclasses.asdict(cell) for cell in cells]}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
