"""optax's tests of its losses. Its functions take the predictions first, and return one loss a unit."""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import jaxloss as jl
from peers import Result, rerouted

PARTS = (
    "classification",
    "regression",
    "ranking",
    "segmentation",
    "self_supervised",
    "smoothing",
    "fenchel_young",
)


def swapped(loss: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    return lambda predictions, targets, **given: loss(targets, predictions, **options, **given, reduction="none")


def some_classes(loss: Callable[..., Any]) -> Callable[..., Any]:
    """optax's `where` leaves out classes, or rows where it lacks the class axis. Ours leaves out rows; a class is left
    out by a logit of -inf."""

    def call(logits: Any, labels: Any, axis: int = -1, where: Any = None, **options: Any) -> Any:
        if where is None:
            return loss(labels, logits, axis=axis, reduction="none", **options)
        mask = jnp.broadcast_to(where if where.ndim == logits.ndim else jnp.expand_dims(where, axis), logits.shape)
        if labels.ndim == logits.ndim:
            labels = jnp.where(mask, labels, 0)
        logits = jnp.where(mask, logits, -jnp.inf)
        return loss(labels, logits, axis=axis, where=jnp.any(mask, axis), reduction="none", **options)

    return call


def integer_labels(logits: Any, labels: Any, axis: Any = -1, where: Any = None) -> Any:
    if isinstance(axis, tuple):  # several axes are one class axis
        places = [a % logits.ndim for a in axis]
        batch = [i for i in range(logits.ndim) if i not in places]
        logits = logits.transpose(*batch, *places).reshape(*(logits.shape[i] for i in batch), -1)
        axis = -1
    return some_classes(functools.partial(jl.sparse_cce, from_logits=True))(logits, labels, axis, where)


def one_hot(loss: Callable[..., Any]) -> Callable[..., Any]:
    return lambda scores, labels: loss(jax.nn.one_hot(labels, scores.shape[-1]), scores, reduction="none")


def kl(log_predictions: Any, log_targets: Any, axis: int = -1, where: Any = None) -> Any:
    if where is not None:  # a class of probability 0 has no term
        log_targets = jnp.where(where, log_targets, -jnp.inf)
    return jl.kl_divergence(log_targets, log_predictions, from_logs=True, axis=axis, reduction="none")


def cosine(predictions: Any, targets: Any, epsilon: float = 0.0, axis: int = -1, where: Any = None) -> Any:
    if where is not None:
        predictions, targets = jnp.where(where, predictions, 0), jnp.where(where, targets, 0)
    # optax bounds the square of the norm
    return jl.cosine_distance(targets, predictions, eps=math.sqrt(epsilon), axis=axis, reduction="none")


def ctc(logits: Any, logit_paddings: Any, labels: Any, label_paddings: Any, blank_id: int = 0) -> Any:
    lengths = [jnp.sum(1 - jnp.asarray(p), -1).astype(int) for p in (logit_paddings, label_paddings)]
    return jl.ctc(labels, logits, logit_lengths=lengths[0], label_lengths=lengths[1], blank=blank_id, reduction="none")


def dice(
    predictions: Any,
    targets: Any,
    *,
    class_weights: Any = None,
    apply_softmax: bool = True,
    reduction: str = "mean",
    ignore_background: bool = False,
    smooth: float = 1.0,
    **options: Any,
) -> Any:
    pixels = tuple(range(1, predictions.ndim - 1))
    options = {**options, "axis": pixels, "smooth": smooth, "from_logits": apply_softmax}
    losses = jl.tversky(targets, predictions, reduction="none", **options)
    if class_weights is not None:
        losses *= class_weights
    if ignore_background and losses.shape[-1] > 1:
        losses = losses[..., 1:]
    return losses if reduction == "none" else getattr(jnp, reduction)(losses, axis=-1)


def binary_dice(predictions: Any, targets: Any, *, apply_sigmoid: bool = True, **options: Any) -> Any:
    if predictions.shape[-1] != 1:
        predictions, targets = predictions[..., None], targets[..., None]
    return dice(predictions, targets, apply_softmax=apply_sigmoid, **options)


def generalized_dice(predictions: Any, targets: Any, *, ignore_background: bool = False) -> Any:
    pixels = tuple(range(1, predictions.ndim - 1))
    shares = jax.nn.softmax(predictions)
    first = 1 if ignore_background else 0
    return jl.generalized_dice(targets[..., first:], shares[..., first:], axis=pixels)


def list_softmax(logits: Any, labels: Any, where: Any = None, weights: Any = None, reduce_fn: Any = jnp.mean) -> Any:
    labels = labels if weights is None else labels * weights  # of items
    reduction = "none" if reduce_fn is None else reduce_fn.__name__
    return jl.list_softmax(labels, logits, where=where, reduction=reduction)


def triplet(anchor: Any, positive: Any, negative: Any, axis: int = -1, norm_degree: int = 2, margin: Any = 1.0) -> Any:
    """Without the epsilon, which lies within the tolerance of the tests."""
    return jl.triplet(anchor, positive, negative, power=norm_degree, margin=margin, axis=axis, reduction="none")


CLASSIFICATION = {
    "sigmoid_binary_cross_entropy": swapped(jl.bce, from_logits=True),
    "sigmoid_focal_loss": swapped(jl.binary_focal, from_logits=True),
    "hinge_loss": swapped(jl.hinge),
    "perceptron_loss": swapped(jl.perceptron),
    "sparsemax_loss": swapped(jl.sparsemax),
    "softmax_cross_entropy": some_classes(functools.partial(jl.cce, from_logits=True)),
    "safe_softmax_cross_entropy": some_classes(functools.partial(jl.cce, from_logits=True)),
    "softmax_cross_entropy_with_integer_labels": integer_labels,
    "poly_loss_cross_entropy": some_classes(functools.partial(jl.poly1, from_logits=True)),
    "multiclass_hinge_loss": one_hot(jl.categorical_hinge),
    "multiclass_perceptron_loss": one_hot(functools.partial(jl.categorical_hinge, margin=0)),
    "kl_divergence": lambda p, q, **options: kl(p, jnp.log(q), **options),
    "kl_divergence_with_log_targets": kl,
    "ctc_loss": ctc,
}
REGRESSION = {
    "squared_error": lambda p, y=0.0: jl.mse(y, p, reduction="none"),
    "l2_loss": lambda p, y: jl.mse(y, p, reduction="none") / 2,
    "huber_loss": swapped(jl.huber),
    "log_cosh": lambda p, y=None: jl.log_cosh(jnp.zeros_like(p) if y is None else y, p, reduction="none"),
    "cosine_distance": cosine,
    "cosine_similarity": lambda *vectors, **options: 1 - cosine(*vectors, **options),
}
SEGMENTATION = {
    "dice_loss": dice,
    "binary_dice_loss": binary_dice,
    "multiclass_generalized_dice_loss": generalized_dice,
}
SELF_SUPERVISED = {
    # Of pairs it is nt_xent, too; more members of a label may differ.
    "ntxent": lambda x, labels, temperature=0.07: jl.sup_con(labels, x, temperature=temperature),
    "triplet_margin_loss": triplet,
}
RANKING = {"ranking_softmax_loss": list_softmax}


def run() -> list[Result]:
    part = {name: importlib.import_module(f"optax.losses._{name}") for name in PARTS}
    # Its tests take the function when they are imported, before ours is in its place: so one that looks there.
    ranking: Any = part["ranking"]
    ranking.ranking_softmax_loss = lambda *lists, **options: ranking.ranking_softmax_loss(*lists, **options)
    losses = {
        part["classification"]: CLASSIFICATION,
        part["regression"]: REGRESSION,
        part["segmentation"]: SEGMENTATION,
        part["self_supervised"]: SELF_SUPERVISED,
        ranking: RANKING,
    }
    tests = [importlib.import_module(f"optax.losses._{name}_test") for name in PARTS]
    return rerouted.run(losses, tests)
