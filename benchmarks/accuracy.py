"""How exact each loss is, next to optax, Keras and PyTorch: `python -m benchmarks.accuracy`.

Each row takes a loss along a curve: a function of one number x, for a fixed target. The inputs spread over all that the
dtype can represent, from the smallest normal number to the largest, both signs where the domain has both, with a finer
grid around 1. The truth is the oracle of the loss in the tests, and its derivative, with some hundred digits: the
textbook formula, also where jaxloss bounds the logarithm of a probability near 0, or its derivative.

A cell is the largest relative error over the inputs, value / derivative, in units of the last place of the inputs'
dtype; jaxloss returns a float32 for half precision, so that its values can be much closer than 1. Where the truth is
below the smallest normal number, any such result is right. "lost" means an error of at least half the truth, with the
share of the inputs where it is so; "NaN" counts results that are no finite number where the truth is one of the dtype.

The exit status is 1 if a cell of jaxloss is worse than the best of the others and than 1 eps, and not listed in WORSE.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxloss as jl
from benchmarks.peers import F, keras, optax, torch

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))  # they import one another by their plain names

import hard_inputs
from cases import ROWS
from cases.exact import mp

PEERS = ("optax", "keras", "torch")
DTYPES = ("float32", "bfloat16", "float16", "float64")

# The cells where another library is more exact by more than is allowed, and why.
WORSE = {
    "poisson_nll y=2, log float32 value": "XLA's exponential errs by 0.67 eps, PyTorch's by 0.50; the difference "
    "exp(x) - 2 x multiplies that by up to 4",
    "poisson_nll y=2, log float64 value": "both exponentials err by up to 0.99 eps; the difference multiplies that by "
    "up to 4, and so shows how they differ",
    "bce logits y=0 float64 derivative": "an exponential of up to 0.99 eps, a sum and a quotient: they add up to "
    "as much at y=1",
}


@dataclasses.dataclass(frozen=True)
class Call:
    """What a loss of jaxloss is given."""

    loss: str
    arrays: tuple[Any, ...]
    options: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Curve:
    """A loss of one number x.

    jaxloss: the call for an array of x. optax, keras: on such an array, one loss for each. torch: the same on a tensor.
    """

    name: str
    domain: str
    jaxloss: Callable[[Any], Call]
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


@contextlib.contextmanager
def digits_for(dtype: str) -> Iterator[None]:
    """What the dtype needs: 1e-38 beside 1e38 takes 76 digits, the ends of float64 616, and a result some more."""
    if dtype != "float64":
        with mp.workdps(120):
            yield
        return
    with mp.workdps(700), jax.enable_x64(True):
        yield


def exact(curve: Curve, x: Any) -> tuple[Sequence[Any], Sequence[Any]]:
    """The losses and their derivatives by x: at a kink the mean of those on its sides."""
    x = jnp.asarray(x)
    call = curve.jaxloss(x)
    _, by_x = jax.jvp(lambda x: curve.jaxloss(x).arrays, (x,), (jnp.ones_like(x),))
    moved = {i: np.asarray(d, np.float64) for i, d in enumerate(by_x) if d.dtype != jax.dtypes.float0 and d.any()}
    row = dataclasses.replace(
        next(row for row in ROWS if row.name == call.loss),
        options=call.options,
        detached=[i for i in range(len(call.arrays)) if i not in moved],
    )
    losses, bounds = hard_inputs.expected(row, [np.asarray(a) for a in call.arrays], textbook=True)
    slopes = [
        (d * (low + high) / 2).reshape(len(x), -1).sum(-1)
        for d, (low, high) in zip(moved.values(), bounds, strict=True)
    ]
    return [loss.value for loss in losses], np.sum(slopes, 0)


def of_jaxloss(call: Call) -> Any:
    return jl.LOSSES[call.loss](*call.arrays, **call.options, reduction="none")


def with_jax(losses: Callable[..., Any], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    @jax.jit
    def both(x: Any) -> Any:
        values, pull = jax.vjp(losses, x)
        return values, pull(jnp.ones_like(values))[0]

    return tuple(np.asarray(r).astype(np.float64) for r in both(jnp.asarray(x)))  # pyright: ignore


def with_torch(losses: Callable[..., Any], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    tensor = torch.tensor(x.astype(np.float64)).to(getattr(torch, x.dtype.name)).requires_grad_()
    values = losses(tensor)
    values.sum().backward()
    return values.detach().double().numpy(), tensor.grad.double().numpy()


def worst(got: np.ndarray, truth: Sequence[Any], dtype: str) -> str:
    """The largest relative error, where the truth and what stands for it are numbers of the dtype."""
    kind = jnp.finfo(dtype)
    tiny, largest = mp.mpf(float(kind.tiny)), mp.mpf(float(kind.max))
    errors, nans = [], 0
    for g, t in zip(got, truth, strict=True):
        if abs(t) > largest:
            continue
        if not np.isfinite(g):
            nans += 1
            continue
        error = abs(mp.mpf(float(g)) - t) if abs(t) >= tiny else max(abs(g) - tiny, 0)
        errors.append(float(error / max(abs(t), tiny)))
    largest_error = max(errors, default=0.0)
    lost = sum(e >= 0.5 for e in errors) / max(len(errors), 1)
    text = f"lost {lost:.0%}" if largest_error >= 0.5 else f"{largest_error / float(kind.eps):.2g}"
    return f"{text} {nans} NaN" if nans else text


def judge(cell: str) -> tuple[bool, bool, float]:
    """An order of cells: NaN is the worst, then lost, then the error."""
    words = cell.split()
    lost = words[0] == "lost"
    return words[-1] == "NaN", lost, float(words[lost].rstrip("%"))


def measure(curve: Curve, dtype: str, size: int) -> dict[str, tuple[str, str]]:
    x = inputs(curve.domain, dtype, size)
    values, slopes = exact(curve, x)
    cells = {}
    contenders = {"jaxloss": lambda x: of_jaxloss(curve.jaxloss(x)), **{name: getattr(curve, name) for name in PEERS}}
    for name, losses in contenders.items():
        if losses is None or (name in PEERS and not globals().get(name)):
            continue
        try:
            got, slope = (with_torch if name == "torch" else with_jax)(losses, x)
        except NotImplementedError:  # PyTorch has not every kernel for half precision
            continue
        cells[name] = worst(got, values, dtype), worst(slope, slopes, dtype)
    return cells


# ---------------------------------------------------------------------------------------------------------------------
# Calls: each makes of a loss a function of x alone


def ours(loss: str, y: Any, **options: Any) -> Callable[[Any], Call]:
    """For the target y: a number, a row of them, or the label (an int) of a row."""

    def call(x: Any) -> Call:
        of_labels = isinstance(y, int)
        units = x.shape[: x.ndim - (1 if of_labels else np.ndim(y))]
        target = jnp.asarray(y, jnp.int32 if of_labels else x.dtype)
        y_true = jnp.broadcast_to(target, (*units, *target.shape))
        return Call(loss, (y_true, x), options)

    return call


def given(loss: str, arrays: Callable[[Any], tuple[Any, ...]], **options: Any) -> Callable[[Any], Call]:
    """For all arrays of a loss, as functions of x."""
    return lambda x: Call(loss, arrays(x), options)


def of_optax(loss: str, y: float, **options: Any) -> Callable[[Any], Any]:
    return lambda x: getattr(optax.losses, loss)(x, jnp.full_like(x, y), **options)


def of_keras(loss: str, y: float, **options: Any) -> Callable[[Any], Any]:
    """Keras takes the mean over the last axis."""
    return lambda x: getattr(keras.losses, loss)(jnp.full((*x.shape, 1), y, x.dtype), x[:, None], **options)


def of_torch(loss: str, y: float, **options: Any) -> Callable[[Any], Any]:
    return lambda x: getattr(F, loss)(x, torch.full_like(x, y), reduction="none", **options)


def beside_0(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A loss of two classes: x is the logit of the first, that of the other is 0."""
    return lambda x: call(jnp.stack([x, jnp.zeros_like(x)], -1))


def beside_rest(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A loss of two classes with the probabilities x and 1 - x, which is rounded to the dtype of x."""

    def pair(x: Any) -> Any:
        kind = jnp.finfo(x.dtype)
        rest = 1 - x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return call(jnp.stack([x, jax.lax.reduce_precision(rest, kind.nexp, kind.nmant).astype(x.dtype)], -1))

    return pair


def torch_beside_0(x: Any) -> Any:
    return torch.stack([x, torch.zeros_like(x)], -1)


def torch_cce(x: Any) -> Any:
    rows = torch_beside_0(x)
    return F.cross_entropy(rows, torch.zeros(len(x), dtype=torch.long), reduction="none")


# ---------------------------------------------------------------------------------------------------------------------
# Curves: the name, the domain, and the calls of jaxloss, optax, Keras and PyTorch

ONE_HOT = np.array([1.0, 0.0])
EVEN = np.array([0.5, 0.5])
LOG = {"from_logits": True}

CURVES = [
    # classification
    *(
        Curve(
            f"bce logits y={y}",
            "logit",
            ours("bce", float(y), **LOG),
            of_optax("sigmoid_binary_cross_entropy", y),
            of_keras("binary_crossentropy", y, **LOG),
            of_torch("binary_cross_entropy_with_logits", y),
        )
        for y in (1, 0)
    ),
    *(
        Curve(
            f"bce y={y}",
            "probability",
            ours("bce", float(y)),
            None,
            of_keras("binary_crossentropy", y),
            of_torch("binary_cross_entropy", y),
        )
        for y in (1, 0)
    ),
    Curve(
        "cce logits",
        "logit",
        beside_0(ours("cce", ONE_HOT, **LOG)),
        beside_0(
            lambda z: optax.losses.softmax_cross_entropy(z, jnp.broadcast_to(jnp.asarray(ONE_HOT, z.dtype), z.shape))
        ),
        beside_0(
            lambda z: keras.losses.categorical_crossentropy(
                jnp.broadcast_to(jnp.asarray(ONE_HOT, z.dtype), z.shape), z, **LOG
            )
        ),
        torch_cce,
    ),
    Curve(
        "sparse_cce logits",
        "logit",
        beside_0(ours("sparse_cce", 0, **LOG)),
        beside_0(
            lambda z: optax.losses.softmax_cross_entropy_with_integer_labels(z, jnp.zeros(z.shape[:-1], jnp.int32))
        ),
        beside_0(lambda z: keras.losses.sparse_categorical_crossentropy(jnp.zeros(z.shape[:-1], jnp.int32), z, **LOG)),
        torch_cce,
    ),
    *(
        Curve(
            f"binary_focal gamma={gamma}",
            "logit",
            ours("binary_focal", 1.0, gamma=gamma, **LOG),
            of_optax("sigmoid_focal_loss", 1, gamma=gamma),
            of_keras("binary_focal_crossentropy", 1, gamma=gamma, **LOG),
        )
        for gamma in (0.5, 2.0)
    ),
    Curve("categorical_focal logits", "logit", beside_0(ours("categorical_focal", ONE_HOT, **LOG))),
    Curve(
        "poly1 logits",
        "logit",
        beside_0(ours("poly1", ONE_HOT, **LOG)),
        beside_0(
            lambda z: optax.losses.poly_loss_cross_entropy(
                z, jnp.broadcast_to(jnp.asarray(ONE_HOT, z.dtype), z.shape), epsilon=1.0
            )
        ),
    ),
    Curve("generalized_cce logits", "logit", beside_0(ours("generalized_cce", ONE_HOT, power=0.5, **LOG))),
    Curve("nll", "logarithm", lambda x: ours("nll", 0)(x[..., None])),
    Curve(
        "hinge",
        "real",
        ours("hinge", 1.0),
        of_optax("hinge_loss", 1),
        of_keras("hinge", 1),
    ),
    Curve(
        "squared_hinge",
        "real",
        ours("squared_hinge", 1.0),
        None,
        of_keras("squared_hinge", 1),
    ),
    Curve(
        "soft_margin",
        "logit",
        ours("soft_margin", 1.0),
        None,
        None,
        of_torch("soft_margin_loss", 1),
    ),
    Curve("perceptron", "real", ours("perceptron", 1.0), of_optax("perceptron_loss", 1)),
    Curve("sparsemax", "real", ours("sparsemax", 1.0), of_optax("sparsemax_loss", 1)),
    Curve(
        "categorical_hinge",
        "real",
        beside_0(ours("categorical_hinge", ONE_HOT)),
        beside_0(lambda z: optax.losses.multiclass_hinge_loss(z, jnp.zeros(z.shape[:-1], jnp.int32))),
    ),
    Curve(
        "multi_margin",
        "real",
        beside_0(ours("multi_margin", 0)),
        None,
        None,
        lambda x: F.multi_margin_loss(torch_beside_0(x), torch.zeros(len(x), dtype=torch.long), reduction="none"),
    ),
    Curve(
        "multilabel_margin",
        "real",
        beside_0(ours("multilabel_margin", ONE_HOT)),
        None,
        None,
        lambda x: F.multilabel_margin_loss(
            torch_beside_0(x), torch.tensor([[0, -1]]).expand(len(x), 2), reduction="none"
        ),
    ),
    Curve(
        "multilabel_soft_margin",
        "logit",
        beside_0(ours("multilabel_soft_margin", ONE_HOT)),
        None,
        None,
        lambda x: F.multilabel_soft_margin_loss(
            torch_beside_0(x), torch.tensor(ONE_HOT, dtype=x.dtype).expand(len(x), 2), reduction="none"
        ),
    ),
    # divergence
    Curve(
        "distillation of (0, 0)",
        "logit",
        beside_0(ours("distillation", np.zeros(2))),
        None,
        None,
        lambda x: F.kl_div(
            torch.log_softmax(torch_beside_0(x), -1), torch.full((len(x), 2), 0.5, dtype=x.dtype), reduction="none"
        ).sum(-1),
    ),
    Curve(
        "kl_divergence q=1/2",
        "probability",
        beside_rest(ours("kl_divergence", EVEN)),
        None,
        beside_rest(lambda p: keras.losses.kl_divergence(jnp.full_like(p, 0.5), p)),
    ),
    Curve("js_divergence q=1/2", "probability", beside_rest(ours("js_divergence", EVEN))),
    Curve("total_variation", "probability", beside_rest(ours("total_variation", EVEN))),
    # regression
    Curve(
        "mse",
        "real",
        ours("mse", 0.0),
        of_optax("squared_error", 0),
        of_keras("mean_squared_error", 0),
        of_torch("mse_loss", 0),
    ),
    Curve("mae", "real", ours("mae", 0.0), None, of_keras("mean_absolute_error", 0), of_torch("l1_loss", 0)),
    Curve(
        "huber",
        "real",
        ours("huber", 0.0),
        of_optax("huber_loss", 0),
        of_keras("huber", 0),
        of_torch("huber_loss", 0),
    ),
    Curve("smooth_l1", "real", ours("smooth_l1", 0.0), None, None, of_torch("smooth_l1_loss", 0)),
    Curve("balanced_l1", "real", ours("balanced_l1", 0.0)),
    Curve(
        "log_cosh",
        "real",
        ours("log_cosh", 0.0),
        of_optax("log_cosh", 0),
        of_keras("log_cosh", 0),
    ),
    Curve("quantile 0.75", "real", ours("quantile", 0.0, level=0.75)),
    Curve("expectile 0.5", "real", ours("expectile", 0.0)),
    Curve("charbonnier", "real", ours("charbonnier", 0.0)),
    Curve("cauchy", "real", ours("cauchy", 0.0)),
    Curve("welsch", "real", ours("welsch", 0.0)),
    Curve("barron -2", "real", ours("barron", 0.0, alpha=-2.0)),
    Curve("barron 1.5", "real", ours("barron", 0.0, alpha=1.5)),
    Curve(
        "mape y=2",
        "real",
        ours("mape", 2.0),
        None,
        of_keras("mean_absolute_percentage_error", 2),
    ),
    Curve("smape y=2", "positive", ours("smape", 2.0)),
    Curve(
        "msle y=0",
        "positive",
        ours("msle", 0.0),
        None,
        of_keras("mean_squared_logarithmic_error", 0),
    ),
    Curve(
        "cosine_distance to (1, 0)",
        "real",
        lambda x: ours("cosine_distance", ONE_HOT)(jnp.stack([x, jnp.ones_like(x)], -1)),
        lambda x: optax.losses.cosine_distance(
            jnp.stack([x, jnp.ones_like(x)], -1), jnp.stack([jnp.ones_like(x), jnp.zeros_like(x)], -1)
        ),
        lambda x: (
            1
            + keras.losses.cosine_similarity(
                jnp.stack([jnp.ones_like(x), jnp.zeros_like(x)], -1), jnp.stack([x, jnp.ones_like(x)], -1)
            )
        ),
        lambda x: F.cosine_embedding_loss(
            torch.stack([x, torch.ones_like(x)], -1),
            torch.stack([torch.ones_like(x), torch.zeros_like(x)], -1),
            torch.ones_like(x),
            reduction="none",
        ),
    ),
    # likelihood
    Curve(
        "gaussian_nll, variance",
        "positive",
        given("gaussian_nll", lambda x: (jnp.full_like(x, 1), jnp.full_like(x, 3), x), eps=0.0),
        None,
        None,
        lambda x: F.gaussian_nll_loss(torch.full_like(x, 3), torch.full_like(x, 1), x, eps=0, reduction="none"),
    ),
    Curve(
        "laplace_nll, scale",
        "positive",
        given("laplace_nll", lambda x: (jnp.full_like(x, 1), jnp.full_like(x, 3), x), eps=0.0),
    ),
    Curve(
        "student_t_nll, location",
        "real",
        given("student_t_nll", lambda x: (jnp.zeros_like(x), x, jnp.ones_like(x))),
    ),
    Curve(
        "poisson_nll y=2",
        "positive",
        ours("poisson_nll", 2.0),
        None,
        of_keras("poisson", 2),
        of_torch("poisson_nll_loss", 2, log_input=False),
    ),
    Curve(
        "poisson_nll y=2, log",
        "logit",
        ours("poisson_nll", 2.0, log_rate=True),
        of_optax("poisson_nll_loss", 2) if hasattr(getattr(optax, "losses", None), "poisson_nll_loss") else None,
        None,
        of_torch("poisson_nll_loss", 2),
    ),
    Curve(
        "negative_binomial_nll y=2",
        "positive",
        given("negative_binomial_nll", lambda x: (jnp.full_like(x, 2), x, jnp.full_like(x, 0.5))),
    ),
    Curve("tweedie y=1", "positive", ours("tweedie", 1.0)),
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
    print(f"{'loss':<28}{'dtype':<10}" + "".join(f"{name:<28}" for name in ("jaxloss", *PEERS)))
    for curve in CURVES:
        if options.only not in curve.name:
            continue
        for dtype in DTYPES:
            with digits_for(dtype):
                cells = measure(curve, dtype, options.size)
            shown = (" / ".join(cells[name]) if name in cells else "-" for name in ("jaxloss", *PEERS))
            print(f"{curve.name:<28}{dtype:<10}" + "".join(f"{text:<28}" for text in shown), flush=True)
            rows.append({"loss": curve.name, "dtype": dtype, **cells})
            for place, what in enumerate(("value", "derivative")):
                best = min((judge(cells[p][place]) for p in PEERS if p in cells), default=None)
                ours = judge(cells["jaxloss"][place])
                if best is not None and ours > max(best, (False, False, 1.0)):
                    worse.append(f"{curve.name} {dtype} {what}")
    listed = [f"{cell} ({WORSE[cell]})" for cell in worse if cell in WORSE]
    print(f"\nWorse than the best of the others, and than 1 eps: {', '.join(listed) or 'nowhere'}.")
    worse = [cell for cell in worse if cell not in WORSE]
    if worse:
        print(f"And not listed: {', '.join(worse)}.")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
