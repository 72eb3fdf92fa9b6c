"""Losses of embeddings: vectors that should lie close to one another, or far apart.

The first of them look at each example alone: a triplet, a pair, the distance or the scores of a pair. At their kinks
the derivative is 0, and so is that of a distance where two vectors are equal.

In the others the members of a set, such as a batch, see one another. Their inputs are (..., n, d): n members, with the
axes of the sets in front. A member that `where` leaves out is neither an anchor nor a candidate, so it may hold NaN.
Two of them compare features instead of members, give one loss for each set, and hold d^2 numbers: `barlow_twins` and
`vicreg`. The rest compare all pairs of members and hold n^2 numbers. Those with the option `chunk` can hold the pairs
of that many anchors at a time instead: the derivative then makes them again, four matrix products in place of three
(seven for `clip`), but goes through no large array. A set of one member costs 0, except for `siglip`, `barlow_twins`
and `vicreg`.

Inside `jax.shard_map`, `axis_name` says over which axes of the mesh the members are spread. Each device then has its
own anchors and the candidates of all devices; `siglip`, a sum over pairs, takes those of one device after the other.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._contract.reduce import spread
from jaxloss._contract.refuse import check_chunk, check_constant
from jaxloss._numerics.chunks import in_chunks, through_chunks
from jaxloss._numerics.derivatives import no_slope, partials
from jaxloss._numerics.elementary import relu0, saturate, softplus
from jaxloss._numerics.rows import joined, over_parts
from jaxloss._numerics.vectors import distance, distances, half_square, unit
from jaxloss._numerics.versine import units_and_versine, versine
from jaxloss._platform import gpu
from jaxloss._platform.mesh import laid_out_as, laid_out_together, moved_as, summed_around
from jaxloss.contract import (
    AT_LEAST_0,
    FINITE,
    FRACTION,
    ID,
    NUMBERS,
    POSITIVE,
    SCORE,
    SIGN,
    TARGET,
    ArrayLike,
    Domain,
    Holds,
    Reduction,
    Units,
    all_members,
    between,
    compiled,
    current_loss,
    loss,
    losses,
    widened,
)

__all__ = [
    "arcface",
    "barlow_twins",
    "byol",
    "circle",
    "clip",
    "contrastive",
    "cosface",
    "cosine_embedding",
    "hinge_embedding",
    "info_nce",
    "margin_ranking",
    "multi_similarity",
    "nt_xent",
    "siglip",
    "sup_con",
    "triplet",
    "vicreg",
]

VECTOR = Holds("score", core=1)
COSINE = between(-1, 1)._replace(rounds=True)
EMBEDDINGS = NUMBERS._replace(kind="stored")  # half precision is multiplied as it lies in memory, which is faster


# ---------------------------------------------------------------------------------------------------------------------
# Triplets and pairs


@loss
def triplet(
    anchor: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    *,
    margin: float | ArrayLike = 1.0,
    power: int = 2,
    swap: bool = False,
    axis: int = -1,
    **units: Unpack[Units],
) -> Array:
    """Triplet loss: `max(0, margin + d(anchor, positive) - d(anchor, negative))`, where d is the Euclidean distance.

    An anchor should be closer to its positive than to its negative, by a margin. Where the loss is 0, so is the
    gradient. Two vectors that are equal get no gradient from the distance between them.

    Args:
      anchor, positive, negative: (..., d) embeddings.
      margin: how much closer the positive must be to cost nothing, at least 0.
      power: the norm of the distance, `d(x, y) = sum(abs(x - y)^power)^(1 / power)`: 2, 1, or another whole number.
      swap: whether the negative must also be far from the positive: the smaller of its two distances counts.
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
        near, far = distances(a, p, n, power=power)
        if swap:
            far = jnp.minimum(far, distance(p, n, power))
        return relu0(saturate(near) - saturate(far) + margin)

    inputs = {"anchor": (anchor, NUMBERS), "positive": (positive, NUMBERS), "negative": (negative, NUMBERS)}
    return losses(triple, inputs, options={"margin": (margin, AT_LEAST_0)}, axis=axis, **units)


@loss
def contrastive(
    y_true: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    *,
    margin: float | ArrayLike = 1.0,
    axis: int = -1,
    **units: Unpack[Units],
) -> Array:
    """Contrastive loss of pairs: `y d^2 / 2 + (1 - y) max(0, margin - d)^2 / 2`, d the Euclidean distance.

    Pairs that are alike (y = 1) are drawn together, others pushed apart up to the margin; those that lie at one point
    have no direction to be pushed in, so their gradient is 0.

    Args:
      y_true: (...) whether the two are alike, between 0 (no) and 1 (yes).
      first, second: (..., d) embeddings.
      margin: the distance beyond which a pair that is not alike costs nothing, at least 0.
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
        square = half_square(a, b)
        alike = y * jnp.where(y == 0, saturate(square), square)
        apart = relu0(margin - distance(a, b)) ** 2 / 2
        return jnp.where(TARGET.domain.holds(y), alike + (1 - y) * apart, jnp.nan)

    inputs = {"y_true": (y_true, TARGET), "first": (first, NUMBERS), "second": (second, NUMBERS)}
    return losses(pair, inputs, options={"margin": (margin, AT_LEAST_0)}, axis=axis, **units)


@loss
def cosine_embedding(
    y_true: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    *,
    margin: float | ArrayLike = 0.0,
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
        apart = versine(a, b)
        loss = jnp.where(y == 1, apart, relu0((1 - apart) - margin))
        return jnp.where(SIGN.domain.holds(y), loss, jnp.nan)

    inputs = {"y_true": (y_true, SIGN), "first": (first, NUMBERS), "second": (second, NUMBERS)}
    return losses(pair, inputs, options={"margin": (margin, between(-1, 1))}, axis=axis, **units)


@loss
def hinge_embedding(
    y_true: ArrayLike, y_pred: ArrayLike, *, margin: float | ArrayLike = 1.0, **units: Unpack[Units]
) -> Array:
    """Hinge embedding loss of distances d: `d` where y = 1, `max(0, margin - d)` where y = -1.

    Args:
      y_true: (...) +1 for pairs that are alike, -1 for others; 0 counts as -1, so that 0/1 and bool targets work.
      y_pred: (...) the distances of the pairs, or any other numbers.
      margin: the distance beyond which a pair that is not alike costs nothing, at least 0.

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
    return losses(element, inputs, options={"margin": (margin, AT_LEAST_0)}, elementwise=True, **units)


@partials(
    no_slope,
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
    margin: float | ArrayLike = 0.0,
    **units: Unpack[Units],
) -> Array:
    """Margin ranking loss of two scores: `max(0, margin - y (first - second))`.

    Args:
      y_true: (...) +1 if the first should rank higher, -1 if the second should; 0 counts as -1, so that 0/1 and bool
        targets work.
      first, second: (...) scores.
      margin: how far that score must be ahead to cost nothing, at least 0.

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
    return losses(element, inputs, options={"margin": (margin, AT_LEAST_0)}, elementwise=True, **units)


def _ahead(y: Array, a: Array, b: Array) -> Array:
    """By how much the right one is ahead."""
    return jnp.where(y == 1, a - b, b - a)


def _behind(y: Array, a: Array, b: Array, margin: Array) -> Array:
    # By arithmetic, since a comparison that both derivatives share is stored on some machines.
    return jnp.maximum(jnp.sign(margin - _ahead(y, a, b)), 0)


@partials(
    no_slope,
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
        return 2 * versine(jax.lax.stop_gradient(y), p)

    return losses(vectors, {"y_true": (y_true, NUMBERS), "y_pred": (y_pred, VECTOR)}, axis=axis, **units)


# ---------------------------------------------------------------------------------------------------------------------
# Logits of classes with a margin, for sparse_cce


@compiled
def arcface(
    y_true: ArrayLike, cosines: ArrayLike, *, margin: float | Array = 0.5, scale: float | Array = 64.0
) -> Array:
    """ArcFace's logits: `scale cos(angle + margin)` for the class of the label, `scale cos(angle)` for the others.

    It is not a loss itself: `sparse_cce(labels, arcface(labels, cosines), from_logits=True)` is one, with the mask,
    weights and reduction of `sparse_cce`; a row that its mask leaves out may hold NaN. Where angle + margin exceeds pi
    the cosine would rise again: there the logit is `scale (cos(angle) - margin sin(margin))`. At an angle of 0 the
    derivative would be infinite: there it is that of `scale cos(angle) cos(margin)`.

    Args:
      y_true: (...) integer labels in 0..K-1. With any other label no logit has a margin, and the loss will be NaN.
      cosines: (..., K) between the embedding and the vector of each class: products of vectors of length 1.
      margin: added to the angle, in radians, between 0 and pi.
      scale: above 0, the inverse of a temperature. Margin and scale are one number each.

    Returns:
      The logits, shape (..., K), float32 or float64.

    Raises:
      ValueError: shapes that do not fit, an option out of range. TypeError: labels that are no integers, integer
      cosines.
      A cosine outside [-1, 1] (by more than bfloat16 rounds) gives a NaN logit: the vectors were not normalised.

    Example:
      >>> print(arcface([0], [[0.0, 0.5]], scale=1.0))  # cos(pi / 2 + 0.5), and 0.5 as it was
      [[-0.47942555  0.5       ]]

    Source: Deng et al. 2019, arXiv 1801.07698, equation 3, and beyond pi the authors' code. No function of optax, Keras
    or PyTorch computes it.
    """
    _check_factors(margin, between(0, math.pi), scale)

    def moved(c: Array, margin: Array) -> Array:
        inside = jnp.abs(c) < 1
        safe = jnp.where(inside, c, 0)  # no derivative is NaN, even where the cosine is
        sine = jnp.where(inside, jnp.sqrt((1 - safe) * (1 + safe)), 0)
        turned = c * jnp.cos(margin) - sine * jnp.sin(margin)
        return jnp.where(c > -jnp.cos(margin), turned, c - margin * jnp.sin(margin))

    return _with_margin(moved, y_true, cosines, margin, scale)


@compiled
def cosface(
    y_true: ArrayLike, cosines: ArrayLike, *, margin: float | Array = 0.35, scale: float | Array = 64.0
) -> Array:
    """CosFace's logits: `scale (cosine - margin)` for the class of the label, `scale cosine` for the others.

    It is not a loss itself: `sparse_cce(labels, cosface(labels, cosines), from_logits=True)` is one, with the mask,
    weights and reduction of `sparse_cce`; a row that its mask leaves out may hold NaN.

    Args:
      y_true: (...) integer labels in 0..K-1. With any other label no logit has a margin, and the loss will be NaN.
      cosines: (..., K) between the embedding and the vector of each class: products of vectors of length 1.
      margin: subtracted from the cosine, between 0 and 2.
      scale: above 0, the inverse of a temperature. Margin and scale are one number each.

    Returns:
      The logits, shape (..., K), float32 or float64.

    Raises:
      ValueError: shapes that do not fit, an option out of range. TypeError: labels that are no integers, integer
      cosines.
      A cosine outside [-1, 1] (by more than bfloat16 rounds) gives a NaN logit: the vectors were not normalised.

    Example:
      >>> print(cosface([0], [[0.5, 0.5]], margin=0.25, scale=4.0))  # 4 (0.5 - 0.25), and 4 * 0.5
      [[1. 2.]]

    Source: Wang et al. 2018, arXiv 1801.09414, equation 4. No function of optax, Keras or PyTorch computes it.
    """
    _check_factors(margin, between(0, 2), scale)
    return _with_margin(lambda c, margin: c - margin, y_true, cosines, margin, scale)


def _check_factors(margin: float | Array, margins: Domain, scale: float | Array) -> None:
    for name, value, domain in (("margin", margin, margins), ("scale", scale, POSITIVE)):
        check_constant(name, value, domain)
        if jnp.ndim(value):
            raise ValueError(f"{current_loss()}: {name} must be one number, got an array of shape {jnp.shape(value)}.")


def _with_margin(
    moved: Callable[[Array, Array], Array],
    y_true: ArrayLike,
    cosines: ArrayLike,
    margin: float | Array,
    scale: float | Array,
) -> Array:
    labels, x = jnp.asarray(y_true), jnp.asarray(cosines)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"{current_loss()}: y_true must hold integer labels, got {labels.dtype}.")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{current_loss()}: cosines must be of floating dtype, got {x.dtype}.")
    if x.shape[:-1] != labels.shape or not x.ndim:
        raise ValueError(
            f"{current_loss()}: cosines of shape {x.shape} need labels of shape {x.shape[:-1]}, one for each row of "
            f"classes; y_true has shape {labels.shape}."
        )
    labels, x = laid_out_together([labels, x], [range(labels.ndim)] * 2)
    c = widened(x)
    # The vectors may have been rounded to half precision, whatever the dtype of their products.
    c = jnp.where(COSINE.holds(c, COSINE.slack(jnp.bfloat16)), c, jnp.nan)
    own = labels[..., None] == jax.lax.broadcasted_iota(labels.dtype, x.shape, x.ndim - 1)
    return jnp.asarray(scale, c.dtype) * jnp.where(own, moved(c, jnp.asarray(margin, c.dtype)), c)


# ---------------------------------------------------------------------------------------------------------------------
# Members of a set


@loss
def info_nce(
    queries: ArrayLike,
    keys: ArrayLike,
    *,
    temperature: float | ArrayLike = 0.07,
    chunk: int | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    **units: Unpack[Units],
) -> Array:
    """InfoNCE: `-log softmax_j(queries_i . keys_j / temperature)` at j = i, over the keys of all members.

    Each query shall be closer to its own key than to those of the others. The products are taken as they are: for
    cosines, give vectors of length 1.

    Args:
      queries, keys: (..., n, d) embeddings; the key of a query stands at its place. Their products, over the
        temperature, must be finite.
      temperature: above 0; one number, or one for each query.
      chunk: how many queries meet all keys at once, for sets whose pairs do not fit; None: all of them. It changes
        time and memory, not the result.
      axis_name: inside `jax.shard_map`, the axes of the mesh over which the members are spread.

    Returns:
      The mean over queries; with `reduction="none"` one loss per query, shape (..., n).

    Raises:
      ValueError: shapes that differ, a temperature that is not positive, a chunk below 1.

    Example:
      >>> print(info_nce([[1.0], [0.0]], [[0.0], [0.0]]))  # log 2
      0.6931472

    Source: van den Oord, Li and Vinyals 2018, arXiv 1807.03748, equation 4. No function of optax, Keras or PyTorch
    computes it.
    """

    def members(q: Array, k: Array, exists: Array, temperature: float | Array) -> Array:
        return _surprise(widened(q), widened(k), exists, temperature, axis_name, chunk)

    _check_chunk(chunk, "queries", queries)
    inputs = {"queries": (queries, EMBEDDINGS), "keys": (keys, EMBEDDINGS)}
    options = {"temperature": (temperature, POSITIVE)}
    return losses(members, inputs, options=options, members=-2, axis_name=axis_name, **units)


@loss
def clip(
    first: ArrayLike,
    second: ArrayLike,
    *,
    temperature: float | ArrayLike = 0.07,
    chunk: int | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    **units: Unpack[Units],
) -> Array:
    """CLIP: the mean of `info_nce(first, second)` and `info_nce(second, first)`.

    The products are taken as they are: for cosines, give vectors of length 1.

    Args:
      first, second: (..., n, d) embeddings, as of images and of their captions. Their products, over the temperature,
        must be finite.
      temperature: above 0; one number, or one for each pair.
      chunk: how many embeddings meet all others at once, for sets whose pairs do not fit; None: all of them. It changes
        time and memory, not the result.
      axis_name: inside `jax.shard_map`, the axes of the mesh over which the members are spread.

    Returns:
      The mean over pairs; with `reduction="none"` one loss per pair, shape (..., n).

    Raises:
      ValueError: shapes that differ, a temperature that is not positive, a chunk below 1.

    Example:
      >>> print(clip([[1.0], [0.0]], [[0.0], [0.0]]))  # log 2 in both directions
      0.6931472

    Source: Radford et al. 2021, arXiv 2103.00020, figure 3. No function of optax, Keras or PyTorch computes it.
    """

    def members(a: Array, b: Array, exists: Array, temperature: float | Array) -> Array:
        a, b, exists = all_members(widened(a), widened(b), exists)
        score, scale = jnp.sum(a * b, axis=-1), _each(temperature, a)
        anchors = a, exists, score, _places(a, axis_name)
        candidates = all_members(b, exists, score, scale[:, 0], axis_name=axis_name)

        def above(each: Any, scale: Array, common: Any) -> tuple[Any, Any]:
            """Whether each product counts, and how far it exceeds the own one: for its a, and for its b."""
            (a, exists, score, place), (b, candidate, score_of_b, scale_of_b) = each, common
            s, other = _products(a, b), ~_own(place, b)
            for_a = other & candidate[None], (s - score[:, None]) / scale
            return for_a, (other & exists[:, None], (s - score_of_b[None]) / scale_of_b[None])

        def largest(each: Any, scale: Array, common: Any) -> tuple[Any, Array]:
            counts, z = above(each, scale, common)[1]
            return (), jnp.max(jnp.where(counts, z, -jnp.inf), axis=0)

        def both(each: Any, scale: Array, common: Any) -> tuple[Array, Array]:
            *common, top = common
            for_a, (counts, z) = above(each, scale, common)
            return _log1p_sum_exp(*for_a), jnp.sum(jnp.exp(_below(jnp.where(counts, z, -jnp.inf), top[None])), axis=0)

        held = jax.lax.stop_gradient((anchors, scale, candidates))
        top = through_chunks(largest, *held, chunk, jnp.maximum, -jnp.inf)[1]
        top = top if axis_name is None else jax.lax.pmax(top, axis_name)
        top = jnp.where(top > -jnp.inf, top, 0)
        of_a, total = through_chunks(both, anchors, scale, (*candidates, top), chunk)
        if axis_name is not None:  # each device adds up for all b, and keeps its own
            total = jax.lax.psum_scatter(total, axis_name, tiled=True)
            top = jax.lax.dynamic_slice_in_dim(top, anchors[-1][0], len(a))
        of_b = jnp.where(total == 0, 0, softplus(top + jnp.log(jnp.where(total == 0, 1, total))))
        return (of_a + of_b) / 2

    _check_chunk(chunk, "first", first)
    inputs = {"first": (first, EMBEDDINGS), "second": (second, EMBEDDINGS)}
    options = {"temperature": (temperature, POSITIVE)}
    return losses(members, inputs, options=options, members=-2, axis_name=axis_name, **units)


@loss
def siglip(
    first: ArrayLike,
    second: ArrayLike,
    *,
    temperature: float | ArrayLike = 0.1,
    bias: float | ArrayLike = -10.0,
    chunk: int | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    **units: Unpack[Units],
) -> Array:
    """SigLIP: `sum_j log(1 + exp(-s_ij (first_i . second_j / temperature + bias)))`, s = 1 at j = i, else -1.

    Each pair of members is a binary example of its own: alike if the two belong together. The products are taken as
    they are: for cosines, give vectors of length 1.

    Args:
      first, second: (..., n, d) embeddings, as of images and of their captions. Their products, over the temperature,
        must be finite.
      temperature: above 0; one number, or one for each member. 1 / temperature is the t of the paper.
      bias: added to the scores; negative, since few of the pairs are alike.
      chunk: how many of `first` meet all of `second` at once, for sets whose pairs do not fit; None: all of them. It
        changes time and memory, not the result.
      axis_name: inside `jax.shard_map`, the axes of the mesh over which the members are spread. The vectors of `second`
        pass from device to device, once more for the derivative, so that no device holds all of them.

    Returns:
      The mean over members; with `reduction="none"` one loss per member of `first`, shape (..., n).

    Raises:
      ValueError: shapes that differ, a temperature that is not positive, a chunk below 1.

    Example:
      >>> print(siglip([[1.0], [0.0]], [[0.0], [0.0]], bias=0.0))  # 2 log 2
      1.3862944

    Source: Zhai et al. 2023, arXiv 2303.15343, algorithm 1. No function of optax, Keras or PyTorch computes it.
    """

    def members(a: Array, b: Array, exists: Array, temperature: float | Array, bias: float | Array) -> Array:
        a, b, exists = all_members(widened(a), widened(b), exists)

        place, options = _places(a, axis_name), (_each(temperature, a), _each(bias, a))

        def of_anchors(each: Any, options: Any, common: Any) -> Array:
            (a, place), (temperature, bias), (b, candidate, place_of_b) = each, options, common
            z = _products(a, b) / temperature + bias
            own = place[:, None] == place_of_b[None]
            return jnp.sum(jnp.where(candidate[None], softplus(jnp.where(own, -z, z)), 0), axis=-1)

        def with_those(candidates: Any) -> Array:
            return in_chunks(of_anchors, (a, place), options, candidates, chunk)

        candidates = b, exists, place
        return with_those(candidates) if axis_name is None else summed_around(with_those, candidates, axis_name)

    _check_chunk(chunk, "first", first)
    inputs = {"first": (first, EMBEDDINGS), "second": (second, EMBEDDINGS)}
    options = {"temperature": (temperature, POSITIVE), "bias": (bias, FINITE)}
    return losses(members, inputs, options=options, members=-2, axis_name=axis_name, selects=True, **units)


@loss
def nt_xent(
    first: ArrayLike,
    second: ArrayLike,
    *,
    temperature: float | ArrayLike = 0.5,
    chunk: int | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    **units: Unpack[Units],
) -> Array:
    """NT-Xent (SimCLR): the mean over both views of `-log softmax(cos(view, .) / temperature)` at the other view.

    The softmax is over all other embeddings, of both views. A vector of zeros has cosine 0 with every other and zero
    gradient.

    Args:
      first, second: (..., n, d) embeddings of two views of the same examples, of any length.
      temperature: above 0; one number, or one for each example.
      chunk: how many embeddings meet all others at once, for sets whose pairs do not fit; None: all of them. It changes
        time and memory, not the result.
      axis_name: inside `jax.shard_map`, the axes of the mesh over which the members are spread.

    Returns:
      The mean over examples; with `reduction="none"` one loss per example, shape (..., n).

    Raises:
      ValueError: shapes that differ, a temperature that is not positive, a chunk below 1.

    Example:
      >>> views = [[1.0, 0.0], [0.0, 1.0]]
      >>> print(f"{nt_xent(views, views, temperature=1.0):.6f}")  # log(e + 1 + 1) - 1
      0.551445

    Source: Chen et al. 2020, arXiv 2002.05709, equation 1. Agrees with optax.losses.ntxent of both views with their
    places as labels, but for the epsilon that it adds to the lengths.
    """

    def members(a: Array, b: Array, exists: Array, temperature: float | Array) -> Array:
        a, b = unit(a), unit(b)
        calm = _calm(-2 / temperature, 2 / temperature)
        pairs = ((a, b), (b, a))
        found = [_surprise(x, y, exists, temperature, axis_name, chunk, beside=x, calm=calm) for x, y in pairs]
        return (found[0] + found[1]) / 2

    _check_chunk(chunk, "first", first)
    inputs = {"first": (first, NUMBERS), "second": (second, NUMBERS)}
    options = {"temperature": (temperature, POSITIVE)}
    return losses(members, inputs, options=options, members=-2, axis_name=axis_name, **units)


@loss
def sup_con(
    labels: ArrayLike,
    embeddings: ArrayLike,
    *,
    temperature: float | ArrayLike = 0.1,
    chunk: int | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Supervised contrastive loss: the mean over p of `-log softmax(cos(i, .) / temperature)` at p, for each member i.

    p runs over the other members of the same label, the softmax over all other members. A member whose label no other
    has costs 0 and is not counted in the mean; it is still a candidate for the others.

    Args:
      labels: (..., n) integers, any.
      embeddings: (..., n, d), of any length; a vector of zeros has cosine 0 with every other and zero gradient.
      temperature: above 0; one number, or one for each member.
      chunk: how many embeddings meet all others at once, for sets whose pairs do not fit; None: all of them. It changes
        time and memory, not the result.
      axis_name: inside `jax.shard_map`, the axes of the mesh over which the members are spread.

    Returns:
      The mean over members; with `reduction="none"` one loss per member, shape (..., n).

    Raises:
      ValueError: shapes that do not fit, a temperature that is not positive, a chunk below 1. TypeError: labels of
      floating dtype.

    Example:
      >>> x = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
      >>> print(f"{sup_con([7, 7, 9], x, temperature=1.0):.6f}")  # log(e + 1) - 1, twice
      0.313262

    Source: Khosla et al. 2020, arXiv 2004.11362, equation 2. Agrees with optax.losses.ntxent if no label has more than
    two members. The authors' code multiplies it by `temperature / 0.07`, and takes views as (n, 2, d): here they are
    members, each with its label.
    """

    def members(labels: Array, x: Array, exists: Array, temperature: float | Array) -> Array:
        def of_anchors(s: Array, alike: Array, unlike: Array, temperature: Array) -> Array:
            z = s / temperature
            count = jnp.sum(alike.astype(z.dtype), axis=-1)
            mean = jnp.sum(jnp.where(alike, z, 0), axis=-1) / jnp.maximum(count, 1)
            top, log_sum = _log_sum_exp(alike | unlike, z)
            return jnp.where(count == 0, 0, (top - mean) + log_sum)

        return _of_cosines(of_anchors, labels, x, exists, (temperature,), axis_name, chunk)

    _check_chunk(chunk, "embeddings", embeddings)
    inputs = {"labels": (labels, ID), "embeddings": (embeddings, NUMBERS)}
    options = {"temperature": (temperature, POSITIVE)}
    return losses(
        members,
        inputs,
        options=options,
        members=-2,
        axis_name=axis_name,
        weights=_counted(jnp.asarray(labels), jnp.asarray(embeddings), where, weights, axis_name, chunk),
        where=where,
        reduction=reduction,
    )


@loss
def multi_similarity(
    labels: ArrayLike,
    embeddings: ArrayLike,
    *,
    alpha: float | ArrayLike = 2.0,
    beta: float | ArrayLike = 50.0,
    base: float | ArrayLike = 0.5,
    axis_name: str | tuple[str, ...] | None = None,
    **units: Unpack[Units],
) -> Array:
    """Multi-similarity: `log(1 + sum exp(-alpha (s_p - base))) / alpha + log(1 + sum exp(beta (s_n - base))) / beta`.

    s are the cosines of a member with the others: s_p with those of its label, s_n with those of other labels. An empty
    sum is 0, so a member whose label no other has is only pushed away from the others. All pairs count; the paper
    leaves out easy ones first.

    Args:
      labels: (..., n) integers, any.
      embeddings: (..., n, d), of any length; a vector of zeros has cosine 0 with every other and zero gradient.
      alpha: above 0; the larger, the more the farthest members of the same label outweigh the rest of that label.
      beta: above 0; the larger, the more the nearest members of other labels outweigh the rest of those.
      base: the cosine that members of the same label should exceed, and members of other labels should stay below.
        alpha, beta and base are each one number, or one for each member.
      axis_name: inside `jax.shard_map`, the axes of the mesh over which the members are spread.

    Returns:
      The mean over members; with `reduction="none"` one loss per member, shape (..., n).

    Raises:
      ValueError: shapes that do not fit, an alpha or beta that is not positive. TypeError: labels of floating dtype.

    Example:
      >>> print(multi_similarity([7, 7], [[1.0, 0.0], [3.0, 0.0]], base=1.0))  # log(1 + 1) / 2
      0.3465736

    Source: Wang et al. 2019, arXiv 1904.06627, equation 15, where base = 1. No function of optax, Keras or PyTorch
    computes it; pytorch_metric_learning.losses.MultiSimilarityLoss has these defaults.
    """

    def members(
        labels: Array,
        x: Array,
        exists: Array,
        alpha: float | Array,
        beta: float | Array,
        base: float | Array,
    ) -> Array:
        calm = _calm(*(factor * (end - base) for factor in (-alpha, beta) for end in (-1, 1)))

        def of_anchors(s: Array, alike: Array, unlike: Array, a: Array, b: Array, base: Array) -> Array:
            above = s - base
            near, far = _log1p_sum_exp(alike, -a * above, calm=calm), _log1p_sum_exp(unlike, b * above, calm=calm)
            return near / a[:, 0] + far / b[:, 0]

        return _of_cosines(of_anchors, labels, x, exists, (alpha, beta, base), axis_name)

    inputs = {"labels": (labels, ID), "embeddings": (embeddings, NUMBERS)}
    options = {"alpha": (alpha, POSITIVE), "beta": (beta, POSITIVE), "base": (base, FINITE)}
    return losses(members, inputs, options=options, members=-2, axis_name=axis_name, **units)


@loss
def circle(
    labels: ArrayLike,
    embeddings: ArrayLike,
    *,
    margin: float | ArrayLike = 0.4,
    gamma: float | ArrayLike = 80.0,
    axis_name: str | tuple[str, ...] | None = None,
    **units: Unpack[Units],
) -> Array:
    """Circle loss: `log(1 + sum_n exp(gamma a_n (s_n - m)) sum_p exp(-gamma a_p (s_p - 1 + m)))`, with m the margin.

    s_p are the cosines of a member with the others of its label, s_n those with other labels. Each has a weight of its
    own that grows with its error, `a_p = max(0, 1 + m - s_p)` and `a_n = max(0, s_n + m)`, constant for the derivative.
    A member that lacks either kind of others costs 0, and is counted by the mean.

    Args:
      labels: (..., n) integers, any.
      embeddings: (..., n, d), of any length; a vector of zeros has cosine 0 with every other and zero gradient.
      margin: how far s_p may stay below 1, and s_n above 0, between 0 and 1.
      gamma: above 0, the scale. Each of the two is one number, or one for each member.
      axis_name: inside `jax.shard_map`, the axes of the mesh over which the members are spread.

    Returns:
      The mean over members; with `reduction="none"` one loss per member, shape (..., n).

    Raises:
      ValueError: shapes that do not fit, a margin outside [0, 1], a gamma that is not positive. TypeError: labels of
      floating dtype.

    Example:
      >>> x = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
      >>> print(circle([7, 7, 9], x, margin=0.5, gamma=4.0))  # log(1 + exp(-1) exp(-1)), 0
      0.08461867

    Source: Sun et al. 2020, arXiv 2002.10857, equations 4 to 6. Agrees with keras.losses.Circle for vectors of
    length 1; it differentiates the weights, too, and its mean does not count what costs 0.
    """

    def members(labels: Array, x: Array, exists: Array, margin: float | Array, gamma: float | Array) -> Array:
        def of_anchors(s: Array, alike: Array, unlike: Array, m: Array, scale: Array) -> Array:
            held = jax.lax.stop_gradient(s)
            near = _log_sum_exp(alike, -scale * relu0(1 + m - held) * (s - (1 - m)))
            far = _log_sum_exp(unlike, scale * relu0(held + m) * (s - m))
            return softplus(sum(near) + sum(far))

        return _of_cosines(of_anchors, labels, x, exists, (margin, gamma), axis_name)

    inputs = {"labels": (labels, ID), "embeddings": (embeddings, NUMBERS)}
    options = {"margin": (margin, FRACTION), "gamma": (gamma, POSITIVE)}
    return losses(members, inputs, options=options, members=-2, axis_name=axis_name, **units)


@loss
def barlow_twins(
    first: ArrayLike,
    second: ArrayLike,
    *,
    redundancy: float | ArrayLike = 0.005,
    axis: int | tuple[int, ...] = -2,
    axis_name: str | tuple[str, ...] | None = None,
    **units: Unpack[Units],
) -> Array:
    """Barlow Twins: `sum_i (1 - C_ii)^2 + redundancy sum_(i != j) C_ij^2`, C the correlations of two views.

    C_ij is the correlation, over the members of the set, of feature i in the first view with feature j in the second.
    A feature that is the same for all members has correlation 0 with every other and zero gradient, so a set of one
    member costs d.

    Args:
      first, second: (..., n, d) embeddings of two views of the same members, of any scale.
      redundancy: the weight of the second term, at least 0: the lambda of the paper.
      axis: where the members lie; several axes, such as (0, 1), are one set together.
      axis_name: inside `jax.shard_map`, the axes of the mesh over which the members are spread, along the first of
        their axes: each device has the loss of the whole set.

    Returns:
      The mean over sets; with `reduction="none"` one loss per set, shape (...).

    Raises:
      ValueError: shapes that differ, an axis out of range, a negative redundancy.

    Example:
      >>> x = [[1.0, 1.0], [-1.0, -1.0]]
      >>> print(f"{barlow_twins(x, x):.4f}")  # all correlations are 1: 0.005 (1 + 1)
      0.0100

    Source: Zbontar et al. 2021, arXiv 2103.03230, equations 1 and 2. No function of optax, Keras or PyTorch computes
    it.
    """

    def members(a: Array, b: Array, exists: Array, redundancy: float | Array) -> Array:
        a, b, exists = all_members(a, b, exists, axis_name=axis_name)
        by_feature = jax.vmap(units_and_versine, in_axes=1, out_axes=(1, 1, 0))
        u, v, own = by_feature(_centred(a, exists), _centred(b, exists))
        return jnp.sum(own**2) + redundancy * _apart_squares(_products(u.T, v.T))

    inputs = {"first": (first, EMBEDDINGS), "second": (second, EMBEDDINGS)}
    options = {"redundancy": (redundancy, AT_LEAST_0)}
    return losses(members, inputs, options=options, members=axis, axis_name=axis_name, selects=True, **units)


@loss
def vicreg(
    first: ArrayLike,
    second: ArrayLike,
    *,
    invariance: float | ArrayLike = 25.0,
    variance: float | ArrayLike = 25.0,
    covariance: float | ArrayLike = 1.0,
    std: float | ArrayLike = 1.0,
    eps: float | ArrayLike = 1e-4,
    axis: int | tuple[int, ...] = -2,
    axis_name: str | tuple[str, ...] | None = None,
    **units: Unpack[Units],
) -> Array:
    """VICReg: `invariance mse + variance (V(first) + V(second)) + covariance (C(first) + C(second))`.

    V is the mean over features of `max(0, std - sqrt(var + eps))`, so that each feature spreads over the members; C is
    the sum of the squared covariances of different features, divided by d, so that none repeats another. Variances and
    covariances are sums over the members divided by n - 1; in a set of one member they are 0.

    Args:
      first, second: (..., n, d) embeddings of two views of the same members.
      invariance, variance, covariance: the weights of the three terms, at least 0: lambda, mu and nu of the paper.
      std: the standard deviation beyond which a feature costs nothing, at least 0: the gamma of the paper.
      eps: added to the variance under the root, above 0.
      axis: where the members lie; several axes, such as (0, 1), are one set together.
      axis_name: inside `jax.shard_map`, the axes of the mesh over which the members are spread, along the first of
        their axes: each device has the loss of the whole set.

    Returns:
      The mean over sets; with `reduction="none"` one loss per set, shape (...).

    Raises:
      ValueError: shapes that differ, an axis or an option out of range.

    Example:
      >>> print(vicreg([[1.0], [-1.0]], [[2.0], [0.0]]))  # 25 (1 + 1) / 2; the features spread enough
      25.0

    Source: Bardes, Ponce and LeCun 2021, arXiv 2105.04906, algorithm 1; equation 5 has the sum over features in place
    of the mean, for which these weights are not meant. The authors' code, and lightly, halve V: there `variance=12.5`
    is their 25. No function of optax, Keras or PyTorch computes it.
    """

    def members(
        a: Array,
        b: Array,
        exists: Array,
        invariance: float | Array,
        variance: float | Array,
        covariance: float | Array,
        std: float | Array,
        eps: float | Array,
    ) -> Array:
        a, b, exists = all_members(a, b, exists, axis_name=axis_name)
        apart, d = jnp.where(exists[..., None], widened(a) - widened(b), 0), a.shape[-1]
        count = jnp.sum(exists.astype(apart.dtype))
        total = invariance * jnp.sum(apart**2) / (jnp.maximum(count, 1) * d)
        for x in (_centred(a, exists), _centred(b, exists)):
            c = _products(x.T, x.T) / jnp.maximum(count - 1, 1)
            spread_out = jnp.sqrt(jnp.diagonal(c) + eps)
            total += variance * jnp.mean(relu0(std - spread_out)) + covariance * _apart_squares(c) / d
        return total

    inputs = {"first": (first, EMBEDDINGS), "second": (second, EMBEDDINGS)}
    weights = {"invariance": invariance, "variance": variance, "covariance": covariance, "std": std}
    options = {name: (value, AT_LEAST_0) for name, value in weights.items()} | {"eps": (eps, POSITIVE)}
    return losses(members, inputs, options=options, members=axis, axis_name=axis_name, selects=True, **units)


def _centred(x: Array, exists: Array) -> Array:
    """Each feature of all members, less its mean: exactly 0 where a feature is the same for all of them."""
    x, exists = x.reshape(-1, x.shape[-1]), exists.reshape(-1, 1)
    # Of what is stored: of the widened members, a TPU would widen all for this one, and `--only "vicreg where.*bfloat16
    # value$"` would say 1.3, not 1.0.
    first = jax.lax.stop_gradient(widened(x[jnp.argmax(exists)]))[None]
    x = widened(x)
    return jnp.where(exists, x - _mean(x, exists, first), 0)


def _mean_in_double(x: Array, exists: Array, first: Array) -> Array:
    # Of equal numbers in single precision the sum is exact.
    return gpu.sum_of_columns(jnp.where(exists, x, 0))[None] / jnp.maximum(jnp.sum(exists.astype(x.dtype)), 1)


@gpu.in_double(_mean_in_double)
def _mean(x: Array, exists: Array, first: Array) -> Array:
    count = jnp.maximum(jnp.sum(exists.astype(x.dtype)), 1)
    return first + jnp.sum(jnp.where(exists, x - first, 0), axis=0, keepdims=True) / count


def _apart_squares(c: Array) -> Array:
    """The sum of the squares beside the diagonal."""
    return jnp.sum(jnp.where(jnp.eye(len(c), dtype=bool), 0, c) ** 2)


def _check_chunk(chunk: int | None, name: str, x: ArrayLike) -> None:
    if chunk is not None:
        check_chunk(chunk, name, jnp.asarray(x).shape, "leave chunk out")


def _counted(
    labels: Array,
    embeddings: Array,
    where: ArrayLike | None,
    weights: ArrayLike | None,
    axis_name: str | tuple[str, ...] | None,
    chunk: int | None,
) -> ArrayLike | None:
    """The weights, but 0 for members that have no other of their label. What does not fit, `losses` will refuse."""
    given = [jnp.asarray(x) for x in (where, weights) if x is not None]
    if not labels.ndim or embeddings.shape[:-1] != labels.shape:
        return weights
    if any(x.shape != labels.shape[: x.ndim] for x in given) or (where is not None and given[0].dtype != bool):
        return weights
    exists = jnp.ones_like(labels, bool) if where is None else spread(given[0], labels.shape)
    every_label, every_mask = all_members(labels, laid_out_as(exists, labels))

    def of_anchors(each: Any, options: Any, common: Any) -> Array:
        return jnp.any(_alike_and_other(*each, *common)[0], axis=-1)

    def set_of(labels: Array, exists: Array) -> Array:
        common = all_members(labels, exists, axis_name=axis_name)
        return in_chunks(of_anchors, (labels, _places(labels, axis_name)), (), common, chunk)

    for _ in range(labels.ndim - 1):
        set_of = jax.vmap(set_of)
    counted = moved_as(set_of(every_label, every_mask), labels)
    if weights is None:
        return counted
    return jnp.where(counted, laid_out_as(spread(given[-1], labels.shape), labels), 0)


def _alike_and_other(labels: Array, place: Array, all_labels: Array, candidate: Array) -> tuple[Array, Array]:
    """Which candidates have the label of the anchor, and which are not the anchor itself."""
    other = candidate[None] & ~_own(place, candidate)
    return other & (labels[:, None] == all_labels[None]), other


def _of_cosines(
    formula: Callable[..., Array],
    labels: Array,
    x: Array,
    exists: Array,
    options: Sequence[float | Array],
    axis_name: str | tuple[str, ...] | None,
    chunk: int | None = None,
) -> Array:
    """The formula of anchors.

    It gets their cosines with each candidate, which candidates are others of their label, which are of another one, and
    the options as columns.
    """
    x, labels, exists = all_members(unit(x), labels, exists)

    def of_anchors(each: Any, options: Any, common: Any) -> Array:
        (x, *which), (candidates, *all_of_them) = each, common
        alike, other = _alike_and_other(*which, *all_of_them)
        return formula(_products(x, candidates), alike, other & ~alike, *options)

    each, common = (x, labels, _places(x, axis_name)), all_members(x, labels, exists, axis_name=axis_name)
    return in_chunks(of_anchors, each, tuple(_each(option, x) for option in options), common, chunk)


def _calm(*ends: float | Array) -> bool:
    """Whether exponentials of numbers up to these ends may be summed as they are, which spares a pass for the largest.

    No term is too small for a float then, and a sum of a billion not too large. It is known of constants only.
    """
    return all(isinstance(end, int | float) and -80 <= end <= 60 for end in ends)


def _log1p_sum_exp(counts: Array, *z: Array, calm: bool = False) -> Array:
    """log(1 + sum exp(z)) along the last axis, over those that count of each z: exact also where it is small."""
    if calm:
        return jnp.log1p(_sum_exp(counts, *z))
    return softplus(sum(_log_sum_exp(counts, *z)))


@jax.custom_jvp
def _log_sum_exp(counts: Array, *z: Array) -> tuple[Array, Array]:
    """log sum exp along the last axis, over those that count of each z, as two numbers to be added.

    Of none the lowest number and 0, since softplus of that is 0, with derivative 0.
    """
    return _logs_of_sum(counts, *z)


@_log_sum_exp.defjvp
def _(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    (counts, *z), (_, *dz) = primals, tangents
    top, log_sum = _log_sum_exp(*primals)
    shares = [jnp.exp(_below(jnp.where(counts, x, -jnp.inf), top[:, None]) - log_sum[:, None]) for x in z]
    slopes = [jnp.sum(share * dx, axis=-1) for share, dx in zip(shares, dz, strict=True)]
    return (top, log_sum), (jnp.zeros_like(top), functools.reduce(jnp.add, slopes))


def _logs_of_sum_at_once(counts: Array, *z: Array) -> tuple[Array, Array]:
    # Not on a TPU: its compiler finds the largest product where it multiplies.
    of_each = [over_parts(joined, jnp.where(counts, x, -jnp.inf)) for x in z]
    top, excess = functools.reduce(joined, of_each)
    return top, jnp.log1p(jnp.maximum(excess, 0))


@gpu.instead(_logs_of_sum_at_once)
def _logs_of_sum(counts: Array, *z: Array) -> tuple[Array, Array]:
    largest = [jnp.max(jnp.where(counts, x, -jnp.inf), axis=-1) for x in z]
    top = jax.lax.stop_gradient(jnp.maximum(functools.reduce(jnp.maximum, largest), -jnp.finfo(z[0].dtype).max))
    total = _sum_exp(counts, *(_below(x, top[:, None]) for x in z))
    return top, jnp.log(jnp.where(total == 0, 1, total))


def _below(z: Array, top: Array) -> Array:
    """z less the top of its row, never above 0: a program may compute z twice, and round it in two ways."""
    below = z - top
    return below - jax.lax.stop_gradient(jnp.maximum(below, 0))


def _sum_exp(counts: Array, *z: Array) -> Array:
    """sum exp(z) along the last axis, over those that count of each z."""
    sums = [jnp.sum(jnp.exp(jnp.where(counts, x, -jnp.inf)), axis=-1) for x in z]
    return functools.reduce(jnp.add, sums)


def _products(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)


def _each(option: float | Array, a: Array) -> Array:
    """An option as a column: one number for each anchor."""
    return jnp.broadcast_to(jnp.asarray(option, a.dtype), a.shape[:1])[:, None]


def _places(anchors: Array, axis_name: str | tuple[str, ...] | None) -> Array:
    """The place of each anchor among the candidates: those of this device may begin later."""
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * len(anchors)
    return first + jnp.arange(len(anchors))


def _own(place: Array, candidates: Array) -> Array:
    """Which candidate stands at the place of the anchor."""
    return place[:, None] == jnp.arange(len(candidates))[None]


def _surprise(
    queries: Array,
    keys: Array,
    exists: Array,
    temperature: float | Array,
    axis_name: str | tuple[str, ...] | None,
    chunk: int | None,
    beside: Array | None = None,
    calm: bool = False,
) -> Array:
    """-log softmax of the scores at the own key, among all keys and those beside them, but for the own one of these.

    As log(1 + sum exp(score - own score)) over the others, which is exact also where it is small.
    """
    queries, keys, exists = all_members(queries, keys, exists)
    own_score = jnp.sum(queries * keys, axis=-1)
    sides = [keys] if beside is None else [keys, *all_members(beside)]

    def of_anchors(each: Any, temperature: Array, common: Any) -> Array:
        (queries, own_score, place), (*sides, candidate) = each, common
        others = candidate[None] & ~_own(place, candidate)
        above = [(_products(queries, x) - own_score[:, None]) / temperature for x in sides]
        return _log1p_sum_exp(others, *above, calm=calm)

    each, common = (queries, own_score, _places(queries, axis_name)), all_members(*sides, exists, axis_name=axis_name)
    return in_chunks(of_anchors, each, _each(temperature, queries), common, chunk)
