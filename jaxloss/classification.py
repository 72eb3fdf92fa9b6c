"""Classification losses; the unit is an example, but an element for `bce`. `K` classes, logits `z`, probabilities `p`."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from jaxloss._contract import ArrayLike, Reduction, batched, check_option, compiled
from jaxloss._math import (
    barrier,
    log_complement,
    log_normaliser,
    log_probability,
    pick,
    poisoned,
    slopes,
    widened,
)

__all__ = ["bce", "cce", "sparse_cce"]


@compiled
def cce(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    from_logits: bool = False,
    label_smoothing: float | Array = 0.0,
    class_weights: ArrayLike | None = None,
    z_loss: float | Array = 0.0,
    axis: int = -1,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    check_option("cce", "label_smoothing", label_smoothing, 0, 1)

    def example(q: Array, scores: Array) -> Array:
        surprise, extra = _surprise(scores, from_logits, z_loss)
        if not _is_zero(label_smoothing):
            q = (1 - label_smoothing) * q + label_smoothing / q.size
        if class_weights is not None:
            q = q * jnp.asarray(class_weights)
        return jnp.sum(jnp.where(q == 0, 0, q * surprise(widened(scores)))) + extra

    return batched(
        example,
        (y_true, y_pred),
        core_ndims=(1, 1),
        kinds=("number", "logits" if from_logits else "score"),
        axis=axis,
        weights=weights,
        where=where,
        reduction=reduction,
    )


@compiled
def sparse_cce(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    from_logits: bool = False,
    label_smoothing: float | Array = 0.0,
    class_weights: ArrayLike | None = None,
    z_loss: float | Array = 0.0,
    axis: int = -1,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    check_option("sparse_cce", "label_smoothing", label_smoothing, 0, 1)

    def example(label: Array, scores: Array) -> Array:
        surprise, extra = _surprise(scores, from_logits, z_loss)
        scores = barrier(scores)
        loss = surprise(widened(pick(scores, label)))
        if class_weights is not None:
            loss = loss * pick(jnp.asarray(class_weights), label)
        if not _is_zero(label_smoothing):
            others = surprise(widened(scores))
            if class_weights is not None:
                others = others * jnp.asarray(class_weights)
            loss = (1 - label_smoothing) * loss + label_smoothing * jnp.mean(others)
        return poisoned((label >= 0) & (label < scores.size), loss + extra)

    return batched(
        example,
        (y_true, y_pred),
        core_ndims=(0, 1),
        kinds=("label", "logits" if from_logits else "score"),
        axis=axis,
        weights=weights,
        where=where,
        reduction=reduction,
    )


def _surprise(scores: Array, from_logits: bool, z_loss: float | Array):
    """-log p as a function of one score."""
    if from_logits:
        shift, log_sum = log_normaliser(scores)
        extra = 0.0 if _is_zero(z_loss) else z_loss * (shift + log_sum) ** 2
        return (lambda z: log_sum - (z - shift)), extra
    total = jnp.sum(scores)
    safe = jnp.where(total > 0, total, 1)
    return (lambda p: -log_probability(jnp.where(total > 0, p / safe, 1 / scores.size))), 0.0


def _is_zero(option) -> bool:
    return isinstance(option, (int, float)) and option == 0


@compiled
def bce(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    from_logits: bool = False,
    label_smoothing: float | Array = 0.0,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    check_option("bce", "label_smoothing", label_smoothing, 0, 1)

    def example(y: Array, score: Array) -> Array:
        if not _is_zero(label_smoothing):
            y = (1 - label_smoothing) * y + label_smoothing / 2
        if from_logits:
            return _bce_logits(y, score)
        p = jnp.clip(score, 0, 1)
        return -(y * log_probability(p) + (1 - y) * log_complement(p))

    return batched(
        example, (y_true, y_pred), kinds=("number", "score"), weights=weights, where=where, reduction=reduction
    )


@slopes(lambda y, z: -z, lambda y, z: (jnp.tanh(z / 2) + 1) / 2 - y)
def _bce_logits(y: Array, z: Array) -> Array:
    return jnp.maximum(z, 0) - z * y + jnp.log1p(jnp.exp(-jnp.abs(z)))
