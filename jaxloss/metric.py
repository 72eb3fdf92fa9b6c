"""Losses of embeddings: vectors that shall lie close to one another, or far apart.

The first of them look at each example alone: a triplet, a pair, the distance or the scores of a pair. At their kinks
the derivative is 0, and so is that of a distance where two vectors are equal.
"""

from __future__ import annotations

from typing import Unpack

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._numerics.derivatives import partials
from jaxloss._numerics.elementary import relu0, saturate
from jaxloss._numerics.vectors import cosine_apart, distance
from jaxloss.contract import (
    NUMBERS,
    SCORE,
    SIGN,
    TARGET,
    ArrayLike,
    Holds,
    Units,
    at_least,
    between,
    current_loss,
    loss,
    losses,
)

__all__ = ["byol", "contrastive", "cosine_embedding", "hinge_embedding", "margin_ranking", "triplet"]

VECTOR = Holds("score", core=1)


# ---------------------------------------------------------------------------------------------------------------------
# Triplets and pairs


@loss
def triplet(
    anchor: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    *,
    margin: float | Array = 1.0,
    power: int = 2,
    swap: bool = False,
    axis: int = -1,
    **units: Unpack[Units],
) -> Array:
    """Triplet loss: `max(0, margin + d(anchor, positive) - d(anchor, negative))`, where d is the Euclidean distance.

    An anchor shall be closer to one of its own kind than to one of another, by a margin. Where the loss is 0 the
    gradient is, too; so it is for vectors that are equal, as far as it comes through their distance.

    Args:
      anchor, positive, negative: (..., d) embeddings.
      margin: how much closer the positive must be to cost nothing, at least 0.
      power: the norm of the distance, `d(x, y) = sum(abs(x - y)^power)^(1 / power)`: 2, 1, or another whole number.
      swap: whether the negative also shall be far from the positive: the smaller of the two distances counts.
      axis: where the components lie.

    Returns:
      The mean over triplets; with `reduction="none"` one loss per triplet, shape (...).

    Raises:
      ValueError: shapes that differ, an axis out of range, a negative margin, a power below 1.

    Example:
      >>> print(triplet([[0.0, 0.0]], [[3.0, 4.0]], [[0.0, 5.5]]))  # 1 + 5 - 5.5
      0.5

    Source: Schroff, Kalenichenko and Philbin 2015, arXiv 1503.03832, with distances that are not squared; swap: Balntas
    et al. 2016, doi 10.5244/C.30.119. Agrees with torch.nn.functional.triplet_margin_loss and
    optax.losses.triplet_margin_loss, but for the epsilon that they add to each difference or square.
    """
    if not isinstance(power, int) or power < 1:
        raise ValueError(f"{current_loss()}: power must be a whole number of at least 1, got {power!r}.")

    def triple(a: Array, p: Array, n: Array, margin: float | Array) -> Array:
        apart = distance(a, n, power)
        if swap:
            apart = jnp.minimum(apart, distance(p, n, power))
        return relu0(saturate(distance(a, p, power)) - saturate(apart) + margin)

    inputs = {"anchor": (anchor, NUMBERS), "positive": (positive, NUMBERS), "negative": (negative, NUMBERS)}
    return losses(triple, inputs, options={"margin": (margin, at_least(0))}, axis=axis, **units)


@loss
def contrastive(
    y_true: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    *,
    margin: float | Array = 1.0,
    axis: int = -1,
    **units: Unpack[Units],
) -> Array:
    """Contrastive loss of pairs: `y d^2 / 2 + (1 - y) max(0, margin - d)^2 / 2`, d the Euclidean distance.

    Pairs that are alike (y = 1) are drawn together, others pushed apart up to the margin; those that lie at one point
    have no direction to be pushed in, so their gradient is 0.

    Args:
      y_true: (...) whether the two are alike, between 0 (no) and 1 (yes).
      first, second: (..., d) embeddings.
      margin: the distance from which on a pair that is not alike costs nothing, at least 0.
      axis: where the components lie.

    Returns:
      The mean over pairs; with `reduction="none"` one loss per pair, shape (...).

    Raises:
      ValueError: shapes that do not fit, an axis out of range, a negative margin.
      A target outside [0, 1] makes its pair NaN, with zero gradient.

    Example:
      >>> print(contrastive([1, 0], [[0.0, 2.0], [0.5, 0.0]], [[0.0, 0.0], [0.0, 0.0]]))  # (2 + 0.125) / 2
      1.0625

    Source: Hadsell, Chopra and LeCun 2006, doi 10.1109/CVPR.2006.100, where Y = 1 means not alike. No function of
    optax, Keras or PyTorch computes it; tensorflow_addons.losses.contrastive_loss is twice this, of distances.
    """

    def pair(y: Array, a: Array, b: Array, margin: float | Array) -> Array:
        e = a - b
        square = jnp.sum(e * (e / 2))
        alike = y * jnp.where(y == 0, saturate(square), square)
        apart = relu0(margin - distance(a, b)) ** 2 / 2
        return jnp.where(TARGET.domain.holds(y), alike + (1 - y) * apart, jnp.nan)

    inputs = {"y_true": (y_true, TARGET), "first": (first, NUMBERS), "second": (second, NUMBERS)}
    return losses(pair, inputs, options={"margin": (margin, at_least(0))}, axis=axis, **units)


@loss
def cosine_embedding(
    y_true: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    *,
    margin: float | Array = 0.0,
    axis: int = -1,
    **units: Unpack[Units],
) -> Array:
    """Cosine embedding loss of pairs: `1 - cos` where y = 1, `max(0, cos - margin)` where y = -1.

    A vector of zeros is taken to be orthogonal to every other (cos = 0), with zero gradient.

    Args:
      y_true: (...) +1 for pairs that are alike, -1 for others; 0 counts as -1, so that 0/1 and bool targets work.
      first, second: (..., d) embeddings, of any length.
      margin: the cosine up to which a pair that is not alike costs nothing, between -1 and 1.
      axis: where the components lie.

    Returns:
      The mean over pairs; with `reduction="none"` one loss per pair, shape (...).

    Raises:
      ValueError: shapes that do not fit, an axis out of range, a margin outside [-1, 1].
      Any other target makes its pair NaN, with zero gradient.

    Example:
      >>> a, b = [[1.0, 0.0], [1.0, 0.0]], [[3.0, 4.0], [3.0, 4.0]]
      >>> print(cosine_embedding([1, -1], a, b, margin=0.5))  # (0.4 + 0.1) / 2
      0.25

    Source: the documentation of torch.nn.CosineEmbeddingLoss. Agrees with torch.nn.functional.cosine_embedding_loss,
    but for the epsilon that it adds to the squared lengths.
    """

    def pair(y: Array, a: Array, b: Array, margin: float | Array) -> Array:
        apart = cosine_apart(a, b)
        loss = jnp.where(y == 1, apart, relu0((1 - apart) - margin))
        return jnp.where(SIGN.domain.holds(y), loss, jnp.nan)

    inputs = {"y_true": (y_true, SIGN), "first": (first, NUMBERS), "second": (second, NUMBERS)}
    return losses(pair, inputs, options={"margin": (margin, between(-1, 1))}, axis=axis, **units)


@loss
def hinge_embedding(
    y_true: ArrayLike, y_pred: ArrayLike, *, margin: float | Array = 1.0, **units: Unpack[Units]
) -> Array:
    """Hinge embedding loss of distances d: `d` where y = 1, `max(0, margin - d)` where y = -1.

    Args:
      y_true: (...) +1 for pairs that are alike, -1 for others; 0 counts as -1, so that 0/1 and bool targets work.
      y_pred: (...) the distances of the pairs, or any other numbers.
      margin: the distance from which on a pair that is not alike costs nothing, at least 0.

    Returns:
      The mean over elements; with `reduction="none"` one loss per element, shape (...).

    Raises:
      ValueError: shapes that differ, a negative margin. TypeError: `y_pred` of integer dtype.
      Any other target makes its element NaN, with zero gradient.

    Example:
      >>> print(hinge_embedding([1, -1], [2.0, 0.5]))  # (2 + 0.5) / 2
      1.25

    Source: the documentation of torch.nn.HingeEmbeddingLoss. Agrees with torch.nn.functional.hinge_embedding_loss for
    the targets -1 and +1.
    """

    def element(y: Array, d: Array, margin: float | Array) -> Array:
        return _hinge_embedding(y, d, margin)

    inputs = {"y_true": (y_true, SIGN), "y_pred": (y_pred, SCORE)}
    return losses(element, inputs, options={"margin": (margin, at_least(0))}, **units)


def _chooses(y: Array, *_: Array) -> Array:
    """The derivative with respect to a target that only chooses a side."""
    return jnp.zeros_like(y)


@partials(
    _chooses,
    lambda y, d, margin: jnp.where(y == 1, 1, -(margin > d).astype(d.dtype)),
    lambda y, d, margin: jnp.where(y == 1, 0, (margin > d).astype(d.dtype)),
)
def _hinge_embedding(y: Array, d: Array, margin: Array) -> Array:
    return jnp.where(y == 1, d, jnp.maximum(margin - d, 0))


@loss
def margin_ranking(
    y_true: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    *,
    margin: float | Array = 0.0,
    **units: Unpack[Units],
) -> Array:
    """Margin ranking loss of two scores: `max(0, margin - y (first - second))`.

    Args:
      y_true: (...) +1 if the first shall rank higher, -1 if the second shall; 0 counts as -1, so that 0/1 and bool
        targets work.
      first, second: (...) scores.
      margin: how much higher it shall be to cost nothing, at least 0.

    Returns:
      The mean over elements; with `reduction="none"` one loss per element, shape (...).

    Raises:
      ValueError: shapes that differ, a negative margin. TypeError: scores of integer dtype.
      Any other target makes its element NaN, with zero gradient.

    Example:
      >>> print(margin_ranking([1, -1], [3.0, 3.0], [2.0, 2.0]))  # (0 + 1) / 2
      0.5

    Source: Herbrich, Graepel and Obermayer 2000, Large Margin Rank Boundaries for Ordinal Regression. Agrees with
    torch.nn.functional.margin_ranking_loss for the targets -1 and +1.
    """

    def element(y: Array, a: Array, b: Array, margin: float | Array) -> Array:
        return _margin_ranking(y, a, b, margin)

    inputs = {"y_true": (y_true, SIGN), "first": (first, SCORE), "second": (second, SCORE)}
    return losses(element, inputs, options={"margin": (margin, at_least(0))}, **units)


def _ahead(y: Array, a: Array, b: Array) -> Array:
    """By how much the right one is ahead."""
    return jnp.where(y == 1, a - b, b - a)


def _behind(y: Array, a: Array, b: Array, margin: Array) -> Array:
    return (margin > _ahead(y, a, b)).astype(a.dtype)


@partials(
    _chooses,
    lambda y, a, b, margin: jnp.where(y == 1, -_behind(y, a, b, margin), _behind(y, a, b, margin)),
    lambda y, a, b, margin: jnp.where(y == 1, _behind(y, a, b, margin), -_behind(y, a, b, margin)),
    _behind,
)
def _margin_ranking(y: Array, a: Array, b: Array, margin: Array) -> Array:
    return jnp.maximum(margin - _ahead(y, a, b), 0)


@loss
def byol(y_true: ArrayLike, y_pred: ArrayLike, *, axis: int = -1, **units: Unpack[Units]) -> Array:
    """BYOL: `2 - 2 cos(y_true, y_pred)`, the squared distance of the unit vectors; the targets count as constants.

    The prediction of one view is compared with the target network's projection of the other one. The loss of the paper
    is the sum for both orders of the views: `byol(t2, p1) + byol(t1, p2)`. A vector of zeros costs 2, with zero
    gradient.

    Args:
      y_true: (..., d) projections by the target network. Nothing is differentiated by them.
      y_pred: (..., d) predictions by the online network.
      axis: where the components lie.

    Returns:
      The mean over examples; with `reduction="none"` one loss per example, shape (...).

    Raises:
      ValueError: shapes that differ, an axis out of range. TypeError: `y_pred` of integer dtype.

    Example:
      >>> print(byol([[1.0, 0.0]], [[3.0, 4.0]]))  # 2 - 2 * 3 / 5
      0.8

    Source: Grill et al. 2020, arXiv 2006.07733, equation 2. No function of optax, Keras or PyTorch computes it. Half of
    it, less 1, is SimSiam's (Chen and He 2021, arXiv 2011.10566).
    """

    def vectors(y: Array, p: Array) -> Array:
        return 2 * cosine_apart(jax.lax.stop_gradient(y), p)

    return losses(vectors, {"y_true": (y_true, NUMBERS), "y_pred": (y_pred, VECTOR)}, axis=axis, **units)
