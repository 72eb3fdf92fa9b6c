"""The demonstration: the documented outputs, a classifier of handwritten digits, and a picture of the losses.

Start it with `python -m jaxloss`. It is also an example to copy: `train` shows a loss inside a jitted step.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxloss

EPOCHS = 30


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m jaxloss", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("jaxloss-demo.png"), help="the picture (%(default)s)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="passes over the training data (%(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the split, the parameters and the batches (%(default)s)"
    )
    options = parser.parse_args(argv)
    if options.epochs < 1:
        parser.error(f"--epochs must be at least 1, got {options.epochs}")
    if not 0 <= options.seed < 2**32:
        parser.error(f"--seed must be between 0 and {2**32 - 1}, got {options.seed}")
    if options.output.suffix.lower() not in (".png", ".pdf", ".svg"):
        parser.error(f"--output must end in .png, .pdf or .svg, got {options.output}")
    if not options.output.parent.is_dir():
        parser.error(f"--output: there is no folder {options.output.parent}")
    if not os.access(options.output if options.output.exists() else options.output.parent, os.W_OK):
        parser.error(f"--output: {options.output} may not be written")
    return options


try:
    import optax
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from tqdm import trange
except ModuleNotFoundError as _missing:
    arguments(None)  # --help needs none of them
    cure = 'in the folder of jaxloss, pip install ".[demo]"'
    sys.exit(f"The demonstration needs {_missing.name}, which is not installed: {cure}")

Params = dict[str, Array]
Curves = dict[str, Callable[[Array], Array]]

# ---------------------------------------------------------------------------------------------------------------------
# The documented outputs

DOCUMENTED: tuple[tuple[str, list[Any], list[Any], float], ...] = (
    ("cce", [[0, 1, 0], [0, 0, 1]], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]], 1.176939),
    ("bce", [[0], [1]], [[0.4], [0.6]], 0.5108254),
    ("mae", [[0.0], [0.0]], [[1.0], [1.0]], 1.0),
    ("mse", [[0.0], [1.0]], [[1.0], [1.0]], 0.5),
    ("huber", [[0], [1]], [[0.6], [0.4]], 0.18),
)
TOLERANCE = 1e-6


def compare() -> list[str]:
    """Print the documented outputs beside the computed ones; return the names of the losses that differ."""
    wrong = []
    print("documented   computed  difference  call")
    for name, y_true, y_pred, documented in DOCUMENTED:
        computed = float(jaxloss.LOSSES[name](y_true, y_pred))
        difference = abs(computed - documented)
        print(f"{documented:>10} {computed:10.7f} {difference:11.1e}  {name}({y_true}, {y_pred})")
        if not difference <= TOLERANCE:
            wrong.append(name)
    return wrong


# ---------------------------------------------------------------------------------------------------------------------
# The classifier

SIZES = (64, 256, 256, 10)
BATCH = 128
SMOOTHING = 0.1
ACCURACY = 0.97  # what the default settings must reach


def init(key: Array) -> Params:
    params: Params = {}
    for i, (inputs, outputs) in enumerate(pairwise(SIZES)):
        kernel = jax.nn.initializers.he_normal()(jax.random.fold_in(key, i), (inputs, outputs))
        params |= {f"kernel{i}": kernel, f"bias{i}": jnp.zeros(outputs)}
    return params


def model(params: Params, images: Array) -> Array:
    """The logits, (batch, 10)."""
    x = images @ params["kernel0"] + params["bias0"]
    x = jax.nn.relu(x) @ params["kernel1"] + params["bias1"]
    return jax.nn.relu(x) @ params["kernel2"] + params["bias2"]


def loss(params: Params, images: Array, labels: Array, exists: Array | None = None) -> Array:
    logits = model(params, images)
    return jaxloss.sparse_cce(labels, logits, from_logits=True, label_smoothing=SMOOTHING, where=exists)


def batches(rng: np.random.Generator, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Shuffled indices in batches of one length, and a mask: the last batch is filled up with entries to ignore."""
    steps = -(-size // BATCH)
    indices = np.resize(rng.permutation(size), (steps, BATCH))
    exists = np.arange(steps * BATCH).reshape(steps, BATCH) < size
    return zip(indices, exists, strict=True)


def train(epochs: int, seed: int) -> dict[str, list[float]]:
    """Learn to read digits; return the losses of the steps, and the test loss and accuracy after each epoch."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 16, labels, test_size=0.2, stratify=labels, random_state=seed)
    x, x_test, y, y_test = map(jnp.asarray, parts)
    print(f"Handwritten digits: {len(x)} to learn from, {len(x_test)} to test.", flush=True)

    params = init(jax.random.key(seed))
    optimizer = optax.adamw(optax.cosine_decay_schedule(3e-3, epochs * -(-len(x) // BATCH)), weight_decay=1e-2)
    state = optimizer.init(params)

    @jax.jit
    def step(params: Params, state: Any, images: Array, labels: Array, exists: Array) -> tuple[Any, Any, Array]:
        value, gradient = jax.value_and_grad(loss)(params, images, labels, exists)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    @jax.jit
    def evaluate(params: Params) -> tuple[Array, Array]:
        hits = jnp.argmax(model(params, x_test), axis=-1) == y_test
        return loss(params, x_test, y_test), jnp.mean(hits)

    rng = np.random.default_rng(seed)
    history: dict[str, list[float]] = {"training loss": [], "test loss": [], "test accuracy": []}
    with trange(epochs, unit="epoch") as progress:
        for _ in progress:
            for indices, exists in batches(rng, len(x)):
                params, state, value = step(params, state, x[indices], y[indices], exists)
                history["training loss"].append(float(value))
            test_loss, accuracy = map(float, evaluate(params))
            history["test loss"].append(test_loss)
            history["test accuracy"].append(accuracy)
            progress.set_postfix(loss=f"{test_loss:.3f}", accuracy=f"{accuracy:.3f}", refresh=False)
    return history


# ---------------------------------------------------------------------------------------------------------------------
# The picture

TRUE_CLASS = np.array([1, 0, 0], np.float32)
BOX = np.array([0, 0, 2, 2], np.float32)
ORIGIN, EAST = np.zeros(2, np.float32), np.array([1, 0], np.float32)
PIXELS = np.array([[1], [1], [1], [0], [0], [0], [0], [0]], np.float32)  # of one class
SHARES = np.array([0.7, 0.3], np.float32)
PATH = np.eye(3, dtype=np.float32)[[1, 0, 2]]  # a label, the blank, another label
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def of(names: str, call: Callable[..., Array]) -> Curves:
    """Curves of losses that are called in the same way."""
    return {name: lambda x, loss=jaxloss.LOSSES[name]: call(loss, x) for name in names.split()}


# By family: what x is, its range, and each loss as a function of it.
FAMILIES: dict[str, tuple[str, float, float, Curves]] = {
    "regression": ("prediction, target 0", -3, 3, of("mse mae huber log_cosh", lambda loss, x: loss(0.0, x))),
    "robust": ("prediction, target 0", -5, 5, of("charbonnier cauchy welsch", lambda loss, x: loss(0.0, x))),
    "relative": ("prediction, target 1", -1, 3, of("mape smape", lambda loss, x: loss(1.0, x))),
    "likelihood": (
        "prediction, target 0, scale 1",
        -5,
        5,
        of("gaussian_nll laplace_nll student_t_nll", lambda loss, x: loss(0.0, x, 1.0, full=True)),
    ),
    "counts": (
        "mean, target 3",
        0.3,
        9,
        {
            "poisson_nll": lambda x: jaxloss.poisson_nll(3.0, x, full=True),
            "negative_binomial_nll": lambda x: jaxloss.negative_binomial_nll(3.0, x, 0.5, full=True),
        },
    ),
    "classification": (
        "logit of the right class",
        -4,
        6,
        {
            "bce": lambda z: jaxloss.bce(1.0, z, from_logits=True),
            "cce": lambda z: jaxloss.cce(TRUE_CLASS, z * TRUE_CLASS, from_logits=True),
            "sparse_cce, smoothed": lambda z: jaxloss.sparse_cce(
                0, z * TRUE_CLASS, from_logits=True, label_smoothing=SMOOTHING
            ),
        },
    ),
    "focal": (
        "logit of the right class",
        -4,
        6,
        of(
            "categorical_focal poly1 generalized_cce",
            lambda loss, z: loss(TRUE_CLASS, z * TRUE_CLASS, from_logits=True),
        ),
    ),
    "margin": (
        "score, target 1",
        -2,
        3,
        of("hinge squared_hinge soft_margin perceptron", lambda loss, z: loss(1.0, z)),
    ),
    "divergence": (
        "share of the first class, target 0.7",
        0.02,
        0.98,
        of("kl_divergence js_divergence total_variation", lambda loss, p: loss(SHARES, jnp.stack([p, 1 - p]))),
    ),
    "metric": (
        "distance, or angle, of a pair",
        0,
        3,
        {
            "triplet": lambda d: jaxloss.triplet(ORIGIN, ORIGIN + d * EAST, ORIGIN + EAST),
            "contrastive": lambda d: jaxloss.contrastive(1.0, ORIGIN, ORIGIN + d * EAST),
            "byol": lambda d: jaxloss.byol(EAST, jnp.stack([jnp.cos(d), jnp.sin(d)])),
        },
    ),
    "ranking": (
        "how far the relevant item is ahead",
        -4,
        4,
        of("list_softmax pairwise_hinge approx_ndcg", lambda loss, z: loss(TRUE_CLASS[:2], z * TRUE_CLASS[:2])),
    ),
    "preference": (
        "how much likelier the chosen one became",
        -4,
        4,
        of("dpo ipo", lambda loss, x: loss(x - 8.0, -8.0, -8.0, -8.0, beta=1.0)),
    ),
    "boxes": (
        "offset of a box of width 2",
        -4,
        4,
        of("iou giou diou wiou_v1", lambda loss, x: loss(BOX, BOX + jnp.stack([x, 0 * x, x, 0 * x]))),
    ),
    "segmentation": (
        "probability of the right answer",
        0,
        1,
        of(
            "dice jaccard lovasz_softmax",
            lambda loss, p: loss(PIXELS, p * PIXELS + (1 - p) * (1 - PIXELS), axis=0),
        ),
    ),
    "sequence": ("logit of the right class", -4, 6, {"ctc": lambda z: jaxloss.ctc(np.array([1, 2]), z * PATH)}),
}


def draw_family(axes: Axes, family: str) -> None:
    label, low, high, curves = FAMILIES[family]
    x = jnp.linspace(low, high, 201)
    for name, curve in curves.items():
        axes.plot(x, jax.vmap(curve)(x), label=name, linewidth=1.8)
    axes.set(title=family, xlabel=label)
    axes.legend(fontsize=7)


def draw_training(loss: Axes, accuracy: Axes, history: dict[str, list[float]]) -> None:
    batches, test, reached = history["training loss"], history["test loss"], history["test accuracy"]
    epochs = np.arange(1, len(test) + 1)
    smoothed = (1 - SMOOTHING) * jax.nn.one_hot(0, SIZES[-1]) + SMOOTHING / SIZES[-1]
    lowest = float(jaxloss.sparse_cce(0, smoothed, label_smoothing=SMOOTHING))
    loss.plot(np.linspace(0, len(test), len(batches)), batches, "0.7", label="training batches")
    loss.plot(epochs, test, label="test", marker=".")
    loss.axhline(lowest, color="0.3", linestyle=":", label=f"lowest possible: {lowest:.3f}")
    loss.set(title="digits: loss", xlabel="epoch")
    accuracy.plot(epochs, reached, label=f"test: {reached[-1]:.3f} at the end", marker=".")
    accuracy.axhline(ACCURACY, color="0.3", linestyle=":", label=f"required: {ACCURACY}")
    accuracy.set(title="digits: accuracy", xlabel="epoch")
    loss.legend(fontsize=7)
    accuracy.legend(fontsize=7)


def draw(history: dict[str, list[float]], output: Path) -> None:
    rows = -(-(len(FAMILIES) + 3) // 5)  # the name, the families, two of the training
    figure = Figure(figsize=(16, 3 * rows), layout="constrained")
    title, *panels = figure.subplots(rows, 5).flat
    for axes in (title, *panels[len(FAMILIES) + 2 :]):
        axes.axis("off")
    panels = panels[: len(FAMILIES) + 2]
    title.text(0, 0.62, "jaxloss", fontsize=40, fontweight="bold", color=OKABE_ITO[0])
    title.text(0, 0.3, f"{len(jaxloss.LOSSES)} losses for JAX\nunder one contract", fontsize=13)
    for axes in panels:
        axes.set_prop_cycle(color=OKABE_ITO)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    *drawn, loss, accuracy = panels
    for axes, family in zip(drawn, FAMILIES, strict=True):
        draw_family(axes, family)
    draw_training(loss, accuracy, history)
    figure.savefig(output, dpi=100)


# ---------------------------------------------------------------------------------------------------------------------
# The command


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(argv)
    if wrong := compare():
        sys.exit(f"Failed: more than {TOLERANCE:g} away from the documented output: {', '.join(wrong)}.")
    print()
    history = train(options.epochs, options.seed)
    accuracy = history["test accuracy"][-1]
    draw(history, options.output)
    print(f"\ntest accuracy: {accuracy:.3f}\npicture: {options.output}")
    if options.epochs >= EPOCHS and accuracy < ACCURACY:
        sys.exit(f"Failed: the test accuracy is below {ACCURACY}.")


if __name__ == "__main__":
    main()
