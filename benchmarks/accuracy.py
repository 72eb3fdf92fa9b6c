"""How exact each loss is, next to optax, Keras and PyTorch: `python -m benchmarks.accuracy`.

Each row takes a loss along a curve: a function of one number x, for a fixed target. The inputs spread over all that the
dtype can represent, from the smallest normal number to the largest, both signs where the domain has both, with a finer
grid around 1. The truth is the textbook formula in mpmath with some hundred digits, and its derivative.

A cell is the largest relative error over the inputs, value / derivative, in units of the last place of the inputs'
dtype; jaxloss returns a float32 for half precision, so that its values can be much closer than 1. Where the truth is below the smallest normal number, any such result is right.
"lost" means an error of at least half the truth, with the share of the inputs where it is so; "NaN" counts results
that are no finite number where the truth is one of the dtype.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
from mpmath import mp, mpf

import jaxloss as jl
from benchmarks.peers import F, keras, optax, torch

mp.dps = 120  # 1e-38 beside 1e38 needs 76

PEERS = ("optax", "keras", "torch")
DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Curve:
    """A loss of one number x.

    truth: in mpmath. jaxloss, optax, keras: on an array of x, one loss for each. torch: the same on a tensor.
    """

    name: str
    domain: str
    truth: Callable[[Any], Any]
    jaxloss: Callable[..., Any]
    optax: Callable[..., Any] | None = None
    keras: Callable[..., Any] | None = None
    torch: Callable[..., Any] | None = None


# ---------------------------------------------------------------------------------------------------------------------
# Inputs


def inputs(domain: str, dtype: str, size: int) -> np.ndarray:
    """A spread over the positive numbers of a dtype, even in the exponent, then mapped into the domain."""
    kind = jnp.finfo(dtype)
    low, high = math.log(float(kind.tiny)), math.log(float(kind.max) * 0.999)
    if domain == "probability":
        half = np.exp(np.linspace(low, math.log(0.5), size // 2))
        x = np.concatenate([half, 1 - half])
    elif domain == "logarithm":
        x = -np.exp(np.linspace(low, high, size))
    else:
        everywhere, around_1 = np.exp(np.linspace(low, high, size // 2)), np.exp(np.linspace(-5, 5, size // 2))
        x = np.concatenate([everywhere, around_1])
        if domain == "real":
            x = np.concatenate([x, -x])
        elif domain == "logit":  # beyond this the truth is below the smallest number, on one side
            x = np.concatenate([x, -x])
            x = x[np.abs(x) <= 1e4]
        elif domain == "above -1":
            x = np.concatenate([x, -x[x < 0.99]])
    return np.unique(x.astype(jnp.dtype(dtype)))


# ---------------------------------------------------------------------------------------------------------------------
# Errors


def exact(curve: Curve, x: np.ndarray) -> tuple[list[Any], list[Any]]:
    values, slopes = [], []
    for number in x.astype(np.float64):
        at = mpf(float(number))
        step = abs(at) * mpf(10) ** -40 if at else mpf(10) ** -80
        values.append(curve.truth(at))
        slopes.append((curve.truth(at + step) - curve.truth(at - step)) / (2 * step))
    return values, slopes


def with_jax(losses: Callable[..., Any], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    @jax.jit
    def both(x: Any) -> Any:
        values, pull = jax.vjp(losses, x)
        return values, pull(jnp.ones_like(values))[0]

    return tuple(np.asarray(r).astype(np.float64) for r in both(jnp.asarray(x)))  # pyright: ignore


def with_torch(losses: Callable[..., Any], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    tensor = torch.tensor(x.astype(np.float32)).to(getattr(torch, x.dtype.name)).requires_grad_()
    values = losses(tensor)
    values.sum().backward()
    return values.detach().double().numpy(), tensor.grad.double().numpy()


def worst(got: np.ndarray, truth: Sequence[Any], dtype: str) -> str:
    """The largest relative error, where the truth and what stands for it are numbers of the dtype."""
    kind = jnp.finfo(dtype)
    tiny, largest = mpf(float(kind.tiny)), mpf(float(kind.max))
    errors, nans = [], 0
    for g, t in zip(got, truth, strict=True):
        if abs(t) > largest:
            continue
        if not np.isfinite(g):
            nans += 1
            continue
        error = abs(mpf(float(g)) - t) if abs(t) >= tiny else max(abs(g) - tiny, 0)
        errors.append(float(error / max(abs(t), tiny)))
    largest_error = max(errors, default=0.0)
    lost = sum(e >= 0.5 for e in errors) / max(len(errors), 1)
    text = f"lost {lost:.0%}" if largest_error >= 0.5 else f"{largest_error / float(kind.eps):.2g}"
    return f"{text} {nans} NaN" if nans else text


def judge(cell: str) -> tuple[int, float]:
    """An order of cells: NaN is the worst, then lost, then the error."""
    text, _, nans = cell.replace(" NaN", "").partition(" ")
    if text == "lost":
        share, _, nans = nans.partition(" ")
        return (2 if nans else 1), float(share.rstrip("%"))
    return (2 if nans else 0), float(text)


def measure(curve: Curve, dtype: str, size: int) -> dict[str, tuple[str, str]]:
    x = inputs(curve.domain, dtype, size)
    values, slopes = exact(curve, x)
    cells = {}
    for name in ("jaxloss", *PEERS):
        losses = getattr(curve, name)
        if losses is None or (name in PEERS and not globals().get(name)):
            continue
        got, slope = (with_torch if name == "torch" else with_jax)(losses, x)
        cells[name] = worst(got, values, dtype), worst(slope, slopes, dtype)
    return cells


# ---------------------------------------------------------------------------------------------------------------------
# Curves


def unreduced(loss: str, y: Any, **options: Any) -> Callable[[Any], Any]:
    """A loss of elements, for the target y."""
    return lambda x: jl.LOSSES[loss](jnp.full(x.shape, y, x.dtype), x, **options, reduction="none")


def of_rows(loss: str, y: Any, **options: Any) -> Callable[[Any], Any]:
    """A loss of classes: x is the logit of the first of two, the other is 0."""
    return lambda x: jl.LOSSES[loss](
        jnp.broadcast_to(jnp.asarray(y), (*x.shape, *np.shape(y))), pairs(x), **options, reduction="none"
    )


def pairs(x: Any) -> Any:
    return jnp.stack([x, jnp.zeros_like(x)], -1)


def of_probability(loss: str, y: Any, **options: Any) -> Callable[[Any], Any]:
    return lambda x: jl.LOSSES[loss](
        jnp.broadcast_to(jnp.asarray(y), (*x.shape, *np.shape(y))), x, **options, reduction="none"
    )


def by_keras(loss: str, y: float, **options: Any) -> Callable[[Any], Any]:
    """Keras takes the mean over the last axis."""
    return lambda x: getattr(keras.losses, loss)(jnp.full((*x.shape, 1), y, x.dtype), x[:, None], **options)


def by_torch(loss: str, y: float, **options: Any) -> Callable[[Any], Any]:
    return lambda x: getattr(F, loss)(x, torch.full_like(x, y), reduction="none", **options)


def huber(x: Any) -> Any:
    return x * x / 2 if abs(x) <= 1 else abs(x) - mpf(1) / 2


def log1pexp(x: Any) -> Any:
    return mpmath.log1p(mpmath.exp(x)) if x <= 0 else x + mpmath.log1p(mpmath.exp(-x))


CURVES = [
    Curve(
        "mse",
        "real",
        lambda x: x * x,
        unreduced("mse", 0),
        lambda x: optax.squared_error(x, jnp.zeros_like(x)),
        by_keras("mean_squared_error", 0),
        by_torch("mse_loss", 0),
    ),
    Curve(
        "mae",
        "real",
        abs,
        unreduced("mae", 0),
        None,
        by_keras("mean_absolute_error", 0),
        by_torch("l1_loss", 0),
    ),
    Curve(
        "huber",
        "real",
        huber,
        unreduced("huber", 0),
        lambda x: optax.huber_loss(x, jnp.zeros_like(x)),
        by_keras("huber", 0),
        by_torch("huber_loss", 0),
    ),
    Curve(
        "log_cosh",
        "real",
        lambda x: abs(x) + mpmath.log1p(mpmath.exp(-2 * abs(x))) - mpmath.log(2),
        unreduced("log_cosh", 0),
        lambda x: optax.log_cosh(x, jnp.zeros_like(x)),
        by_keras("log_cosh", 0),
    ),
    Curve(
        "msle y=0",
        "positive",
        lambda x: mpmath.log1p(x) ** 2,
        unreduced("msle", 0),
        None,
        by_keras("mean_squared_logarithmic_error", 0),
    ),
    *(
        Curve(
            f"bce logits y={y}",
            "logit",
            functools.partial(lambda x, y: log1pexp(-x if y else x), y=y),
            unreduced("bce", y, from_logits=True),
            functools.partial(lambda x, y: optax.sigmoid_binary_cross_entropy(x, jnp.full_like(x, y)), y=y),
            by_keras("binary_crossentropy", y, from_logits=True),
            by_torch("binary_cross_entropy_with_logits", y),
        )
        for y in (1, 0)
    ),
    *(
        Curve(
            f"bce y={y}",
            "probability",
            functools.partial(lambda x, y: -mpmath.log(x) if y else -mpmath.log1p(-x), y=y),
            unreduced("bce", y),
            None,
            by_keras("binary_crossentropy", y),
            by_torch("binary_cross_entropy", y),
        )
        for y in (1, 0)
    ),
    Curve(
        "cce logits",
        "logit",
        lambda x: log1pexp(-x),
        of_rows("cce", np.array([1.0, 0.0], np.float32), from_logits=True),
        lambda x: optax.softmax_cross_entropy(pairs(x), pairs(jnp.ones_like(x))),
        lambda x: keras.losses.categorical_crossentropy(pairs(jnp.ones_like(x)), pairs(x), from_logits=True),
        lambda x: F.cross_entropy(
            torch.stack([x, torch.zeros_like(x)], -1),
            torch.zeros(len(x), dtype=torch.long),
            reduction="none",
        ),
    ),
    Curve(
        "sparse_cce logits",
        "logit",
        lambda x: log1pexp(-x),
        of_rows("sparse_cce", 0, from_logits=True),
        lambda x: optax.softmax_cross_entropy_with_integer_labels(pairs(x), jnp.zeros(x.shape, jnp.int32)),
        lambda x: keras.losses.sparse_categorical_crossentropy(
            jnp.zeros(x.shape, jnp.int32), pairs(x), from_logits=True
        ),
        lambda x: F.cross_entropy(
            torch.stack([x, torch.zeros_like(x)], -1),
            torch.zeros(len(x), dtype=torch.long),
            reduction="none",
        ),
    ),
]


# ---------------------------------------------------------------------------------------------------------------------
# The command


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", type=int, default=400, help="inputs on each part of a curve (%(default)s)")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--json", type=Path, help="write the cells to this file, too")
    options = parser.parse_args(argv)

    rows: list[Mapping[str, Any]] = []
    worse = []
    print(f"{'loss':<24}{'dtype':<10}" + "".join(f"{name:<26}" for name in ("jaxloss", *PEERS)))
    for curve in CURVES:
        if options.only not in curve.name:
            continue
        for dtype in DTYPES:
            cells = measure(curve, dtype, options.size)
            shown = (" / ".join(cells[name]) if name in cells else "-" for name in ("jaxloss", *PEERS))
            print(f"{curve.name:<24}{dtype:<10}" + "".join(f"{text:<26}" for text in shown), flush=True)
            rows.append({"loss": curve.name, "dtype": dtype, **cells})
            for place, what in enumerate(("value", "derivative")):
                best = min((judge(cells[p][place]) for p in PEERS if p in cells), default=None)
                ours = judge(cells["jaxloss"][place])
                if best is not None and ours > max(best, (0, 1.0)):
                    worse.append(f"{curve.name} {dtype} {what}")
    print(f"\nWorse than the best of the others, and than 1 eps: {', '.join(worse) or 'nowhere'}.")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
