"""Ranking losses: of scores `z` that must bring the items of a list into the order of their relevances `y`.

The unit is a list, a set of items whose order in memory means nothing. `axis` says where the items lie, `where` which
of them exist: lists of different length are padded, with anything. A list without any item does not exist; one in which
all items are equally relevant has nothing to teach the losses of pairs.

With `segments`, a row holds several lists: items of equal number belong to one, wherever in the row they stand. Such a
list costs what it costs as a row of its own. Its loss stands where the first of its items stands that exists, and so
does its weight; no other place is a unit. So the losses have the shape of the items, and their mean is that over lists.

A pair is an item and a less relevant one. Losses of pairs, and those that count ranks, hold a number for each two items
of a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._contract.reduce import spread
from jaxloss._contract.refuse import Input, check_members
from jaxloss._numerics.elementary import divide_or_zero, relu0, sigmoid, softplus
from jaxloss._numerics.rows import Row, Targets, cross_entropy, zero_at_zero
from jaxloss._platform.mesh import laid_out_as, moved_as
from jaxloss.contract import (
    ANY,
    POSITIVE,
    ArrayLike,
    Domain,
    Holds,
    Reduction,
    Units,
    all_members,
    at_least,
    loss,
    losses,
)

__all__ = ["approx_ndcg", "lambda_rank", "list_mle", "list_softmax", "pairwise_hinge", "ranknet"]

# Ends of float32 on both sides: a comparison would not notice a NaN or an infinity.
LARGEST = float(jnp.finfo(jnp.float32).max)
FINITE = Domain("finite", low=-LARGEST, high=LARGEST)
SCORES = Holds("score", FINITE)
ORDERED = Holds(domain=FINITE)
SEGMENTS = Holds("id", ANY)  # any integer
RELEVANCES = Holds(domain=FINITE._replace(text="finite and at least 0", low=0))


@loss
def list_softmax(
    y_true: ArrayLike, y_pred: ArrayLike, *, segments: ArrayLike | None = None, axis: int = -1, **units: Unpack[Units]
) -> Array:
    """Softmax cross-entropy of a list: `-sum_i y_i log softmax(z)_i`, the softmax over its items.

    With relevances that sum to 1 it is ListNet, whose own are `jax.nn.softmax(y, where=where)`. A list without a
    relevant item costs 0.

    Args:
      y_true: (..., N) relevances, at least 0.
      y_pred: (..., N) scores.
      segments: (..., N) integers, where a row holds several lists: which of them an item belongs to.
      axis: the axis of the items.
      weights: a factor for each list; with `segments` (..., N), that of its first item, or (...) for all of a row.
      where: (..., N) which items exist (bool); the others may hold anything, even NaN.

    Returns:
      The mean over lists; with `reduction="none"` one loss per list, shape (...), or with `segments` (..., N): that of
      a list at its first item, else 0.

    Raises:
      ValueError: shapes that differ, an axis out of range. TypeError: `y_pred` of integer dtype, `segments` of
      floating dtype.
      A negative relevance makes its list NaN, with zero gradient.

    Example:
      >>> print(list_softmax([[1.0, 0.0], [0.0, 3.0]], [[0.0, 0.0], [2.0, 2.0]]))  # (log 2 + 3 log 2) / 2
      1.3862944

    Source: Cao et al. 2007, Learning to rank: from pairwise approach to listwise approach, doi 10.1145/1273496.1273513.
    Agrees with optax.losses.ranking_softmax_loss and rax.softmax_loss.
    """

    def items(y: Array, z: Array, exists: Array) -> Array:
        targets = Targets(jnp.where(exists, y, 0), None, None)
        return cross_entropy(targets, Row.of(jnp.where(exists, z, -jnp.inf)))

    def items_of_lists(y: Array, segments: Array, z: Array, exists: Array) -> Array:
        y, segments, z, exists = all_members(y, segments, z, exists)
        return _list_softmax(jnp.where(exists, y, 0), z, _numbered(segments), exists)

    inputs = {"y_true": (y_true, RELEVANCES), "y_pred": (y_pred, SCORES)}
    if segments is not None:
        return _of_segments(items_of_lists, inputs, segments, None, axis, **units)
    return losses(items, inputs, members=axis, **units)


@jax.custom_jvp
def _list_softmax(y: Array, z: Array, lists: Array, exists: Array) -> Array:
    """The loss of the list of each item, by sums over lists: no number for each two items."""
    below, excess = _below_top(z, lists, exists)
    return _sum(zero_at_zero(y, jnp.log1p(excess) - below), lists)


@_list_softmax.defjvp
def _(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    y, z, lists, exists = primals
    below, excess = _below_top(z, lists, exists)
    small = jnp.where(exists, jnp.exp(below), 0)
    # sum(y) p - y, so that nothing cancels where p is almost 1.
    d_scores = ((_sum(y, lists) - y) * small - y * (excess + (1 - small))) / (1 + excess)
    costs = jnp.where((y == 0) & jnp.isinf(below), 0, jnp.log1p(excess) - below)
    return _list_softmax(*primals), _sum(d_scores * tangents[1] + costs * tangents[0], lists)


def _below_top(z: Array, lists: Array, exists: Array) -> tuple[Array, Array]:
    """How far each item is from the largest m of its list, and sum exp(z - m) - 1: exact also where it is small."""
    top = jax.ops.segment_max(jnp.where(exists, z, -LARGEST), lists, z.size)[lists]
    below = jnp.where(exists, z - jax.lax.stop_gradient(top), 0)
    at_top = exists & (below == 0)
    beside = jnp.where(at_top, jnp.expm1(below), jnp.where(exists, jnp.exp(below), 0))
    excess = _sum(beside, lists) + (_sum(at_top.astype(z.dtype), lists) - 1)
    return below, jnp.where(excess < 0, 0, excess)  # of a list without any item


def _sum(x: Array, lists: Array) -> Array:
    """That over the list of each item."""
    return jax.ops.segment_sum(x, lists, x.size)[lists]


@loss
def ranknet(
    y_true: ArrayLike, y_pred: ArrayLike, *, segments: ArrayLike | None = None, axis: int = -1, **units: Unpack[Units]
) -> Array:
    """RankNet, pairwise logistic: the mean of `log(1 + exp(-(z_i - z_j)))` over the pairs of a list, `y_i > y_j`.

    A list without a pair costs 0. So that each pair of the batch counts the same, `weights` may hold how many there
    are.

    Args:
      y_true: (..., N) relevances, of which only the order counts.
      y_pred: (..., N) scores.
      segments: (..., N) integers, where a row holds several lists: which of them an item belongs to.
      axis: the axis of the items.
      weights: a factor for each list; with `segments` (..., N), that of its first item, or (...) for all of a row.
      where: (..., N) which items exist (bool); the others may hold anything, even NaN.

    Returns:
      The mean over lists; with `reduction="none"` one loss per list, shape (...), or with `segments` (..., N): that of
      a list at its first item, else 0.

    Raises:
      ValueError: shapes that differ, an axis out of range. TypeError: `y_pred` of integer dtype, `segments` of
      floating dtype.

    Example:
      >>> print(ranknet([[2.0, 1.0, 1.0]], [[0.0, 0.0, 0.0]]))  # log 2 for each of two pairs
      0.6931472

    Source: Burges et al. 2005, doi 10.1145/1102351.1102363. Agrees with rax.pairwise_logistic_loss of one list; that of
    several is the mean over all their pairs.
    """

    def items(y: Array, z: Array, among: Array) -> Array:
        return _mean_over_pairs(lambda ahead: softplus(-ahead), y, z, among)

    return _of_lists(items, y_true, y_pred, axis, segments, **units)


@loss
def pairwise_hinge(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    margin: float | ArrayLike = 1.0,
    segments: ArrayLike | None = None,
    axis: int = -1,
    **units: Unpack[Units],
) -> Array:
    """Pairwise hinge: the mean of `max(0, margin - (z_i - z_j))` over the pairs of a list, `y_i > y_j`.

    A list without a pair costs 0. At the kinks the derivative is 0. So that each pair of the batch counts the same,
    `weights` may hold how many there are.

    Args:
      y_true: (..., N) relevances, of which only the order counts.
      y_pred: (..., N) scores.
      margin: by how much the score of the more relevant item must exceed that of the other, at least 0; with `segments`
        an array holds that of a list at each of its items.
      segments: (..., N) integers, where a row holds several lists: which of them an item belongs to.
      axis: the axis of the items.
      weights: a factor for each list; with `segments` (..., N), that of its first item, or (...) for all of a row.
      where: (..., N) which items exist (bool); the others may hold anything, even NaN.

    Returns:
      The mean over lists; with `reduction="none"` one loss per list, shape (...), or with `segments` (..., N): that of
      a list at its first item, else 0.

    Raises:
      ValueError: shapes that differ, an axis out of range, a negative margin. TypeError: `y_pred` of integer dtype,
      `segments` of floating dtype.

    Example:
      >>> print(pairwise_hinge([[1.0, 0.0, 0.0]], [[2.0, 1.5, 0.0]]))  # (0.5 + 0) / 2
      0.25

    Source: Herbrich, Graepel and Obermayer 2000, Large margin rank boundaries for ordinal regression. Agrees with
    rax.pairwise_hinge_loss of one list; that of several is the mean over all their pairs.
    """

    def items(y: Array, z: Array, among: Array, margin: float | Array) -> Array:
        return _mean_over_pairs(lambda ahead: relu0(_of_rows(margin) - ahead), y, z, among)

    return _of_lists(items, y_true, y_pred, axis, segments, {"margin": (margin, at_least(0))}, **units)


@loss
def list_mle(
    y_true: ArrayLike, y_pred: ArrayLike, *, segments: ArrayLike | None = None, axis: int = -1, **units: Unpack[Units]
) -> Array:
    """ListMLE: minus the logarithm of the probability that the items are drawn in the order of their relevances.

    Each next one is drawn by a softmax over those that are left: `sum_i (log sum_{j: y_j <= y_i} exp(z_j) - z_i)`.

    For items of equal relevance any order is right. In place of the mean over all of them it has Efron's approximation,
    the same for each: when k of m such items are drawn, all m count by 1 - k / m in the sum.

    Args:
      y_true: (..., N) relevances, of which only the order counts.
      y_pred: (..., N) scores.
      segments: (..., N) integers, where a row holds several lists: which of them an item belongs to.
      axis: the axis of the items.
      weights: a factor for each list; with `segments` (..., N), that of its first item, or (...) for all of a row.
      where: (..., N) which items exist (bool); the others may hold anything, even NaN.

    Returns:
      The mean over lists; with `reduction="none"` one loss per list, shape (...), or with `segments` (..., N): that of
      a list at its first item, else 0.

    Raises:
      ValueError: shapes that differ, an axis out of range. TypeError: `y_pred` of integer dtype, `segments` of
      floating dtype.

    Example:
      >>> print(list_mle([[2.0, 1.0, 0.0]], [[0.0, 0.0, 0.0]]))  # log 3 + log 2 + log 1
      1.7917595

    Source: Xia et al. 2008, doi 10.1145/1390156.1390306; equal relevances: Efron 1977, doi
    10.1080/01621459.1977.10480613. Agrees with rax.listmle_loss where no two relevances are equal; that function puts
    equal ones into one order, as they stand or at random.
    """

    def items(y: Array, z: Array, among: Array) -> Array:
        left = (y[None, :] <= y[:, None]) & among
        equal = (y[None, :] == y[:, None]) & among
        many = jnp.sum(equal, 1)
        drawn = jnp.sum(jnp.tril(equal, -1), 1)
        share = (1 - drawn / jnp.maximum(many, 1)).astype(z.dtype)[:, None]
        # An item that does not exist has itself, so that no sum is empty.
        left = left | jnp.eye(z.size, dtype=bool)
        ahead = _differences(z) + jnp.where(equal, jnp.log(share), 0)
        return _total(jax.nn.logsumexp(ahead, axis=1, where=left), among)

    return _of_lists(items, y_true, y_pred, axis, segments, **units)


@loss
def approx_ndcg(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    temperature: float | ArrayLike = 1.0,
    segments: ArrayLike | None = None,
    axis: int = -1,
    **units: Unpack[Units],
) -> Array:
    """1 - NDCG, with smooth ranks: `1 - sum_i g_i / log2(1 + r_i) / ideal`, where `g_i = 2^y_i - 1`.

    `r_i = 1 + sum_{j != i} sigmoid((z_j - z_i) / temperature)` is the rank of an item, and `ideal` the largest that the
    sum over the items can be. A list without a relevant item costs 0. Relevances count as constants.

    Args:
      y_true: (..., N) relevances y, at least 0.
      y_pred: (..., N) scores.
      temperature: the smaller, the closer to true ranks, and the fewer items have a gradient; above 0; with `segments`
        an array holds that of a list at each of its items.
      segments: (..., N) integers, where a row holds several lists: which of them an item belongs to.
      axis: the axis of the items.
      weights: a factor for each list; with `segments` (..., N), that of its first item, or (...) for all of a row.
      where: (..., N) which items exist (bool); the others may hold anything, even NaN.

    Returns:
      The mean over lists; with `reduction="none"` one loss per list, shape (...), or with `segments` (..., N): that of
      a list at its first item, else 0.

    Raises:
      ValueError: shapes that differ, an axis out of range, a temperature that is not positive. TypeError: `y_pred` of
      integer dtype, `segments` of floating dtype. A negative relevance makes its list NaN, with zero gradient.

    Example:
      >>> print(f"{approx_ndcg([[1.0, 0.0]], [[0.0, 0.0]]):.6f}")  # 1 - 1 / log2(1 + 1.5)
      0.243529

    Source: Qin, Liu and Li 2010, doi 10.1007/s10791-009-9124-x. Agrees with rax.approx_t12n(rax.ndcg_metric), which
    leaves out the 1.
    """

    def items(y: Array, z: Array, among: Array, temperature: float | Array) -> Array:
        temperature = _of_rows(temperature)
        before, places, gains, ideal = _ideal(y, among)
        others = among & ~jnp.eye(z.size, dtype=bool)
        # How much behind its ideal place an item is, by those that should be before it and by the others: nothing
        # cancels where all are almost in order.
        side = jnp.where(before, -1, 1).astype(z.dtype)
        # Beyond that the sigmoid is 0 or 1, and the quotient might be infinite.
        ahead = jnp.clip(side * _differences(z), -1000 * temperature, 1000 * temperature)
        behind = jnp.sum(jnp.where(others, side * sigmoid(ahead / temperature), 0), 1)
        # 1 / log2(1 + k) - 1 / log2(1 + r), with r = k + behind.
        log = jnp.log1p(places)
        lost = math.log(2) * jnp.log1p(behind / (1 + places)) / (log * jnp.log1p(places + behind))
        return divide_or_zero(_total(gains * lost, among), ideal)

    options = {"temperature": (temperature, POSITIVE)}
    return _of_lists(items, y_true, y_pred, axis, segments, options, RELEVANCES, **units)


@loss
def lambda_rank(
    y_true: ArrayLike, y_pred: ArrayLike, *, segments: ArrayLike | None = None, axis: int = -1, **units: Unpack[Units]
) -> Array:
    """LambdaRank for NDCG: the sum over the pairs of `abs(dNDCG_ij) log(1 + exp(-(z_i - z_j)))`, `y_i > y_j`.

    `dNDCG_ij = (g_i - g_j) (1 / log2(1 + r_i) - 1 / log2(1 + r_j)) / ideal` is what it would change if the two items
    changed places; g and `ideal` as in `approx_ndcg`, r the true ranks by the scores. The derivative takes it for a
    constant. Of items with equal scores it is the mean over their orders, so that a model which starts with equal
    scores learns.

    Args:
      y_true: (..., N) relevances y, at least 0.
      y_pred: (..., N) scores.
      segments: (..., N) integers, where a row holds several lists: which of them an item belongs to.
      axis: the axis of the items.
      weights: a factor for each list; with `segments` (..., N), that of its first item, or (...) for all of a row.
      where: (..., N) which items exist (bool); the others may hold anything, even NaN.

    Returns:
      The mean over lists; with `reduction="none"` one loss per list, shape (...), or with `segments` (..., N): that of
      a list at its first item, else 0.

    Raises:
      ValueError: shapes that differ, an axis out of range. TypeError: `y_pred` of integer dtype, `segments` of
      floating dtype.
      A negative relevance makes its list NaN, with zero gradient.

    Example:
      >>> print(f"{lambda_rank([[1.0, 0.0]], [[0.0, 0.0]]):.6f}")  # (1 - 1 / log2(3)) log 2
      0.255820

    Source: Burges, Ragno and Le 2006, Learning to rank with nonsmooth cost functions; as a loss: Wang et al. 2018, doi
    10.1145/3269206.3271784. Agrees with rax.pairwise_logistic_loss of one list, with dcg_lambdaweight(normalize=True)
    and reduce_fn=jnp.sum, over the number of items; there equal scores are ranked as they stand.
    """

    def items(y: Array, z: Array, among: Array) -> Array:
        _, _, gains, ideal = _ideal(y, among)
        change = jnp.abs(gains[:, None] - gains[None, :]) * _discount_changes(jax.lax.stop_gradient(z), among)
        change = divide_or_zero(change, jnp.broadcast_to(ideal[:, None], change.shape))
        costs = softplus(z[None, :] - z[:, None])
        return _total(jnp.sum(jnp.where(_pairs(y, among) & (change > 0), change * costs, 0), 1), among)

    return _of_lists(items, y_true, y_pred, axis, segments, None, RELEVANCES, **units)


# ---------------------------------------------------------------------------------------------------------------------
# Pieces


def _of_lists(
    formula: Callable[..., Array],
    y_true: ArrayLike,
    y_pred: ArrayLike,
    axis: int,
    segments: ArrayLike | None,
    options: Mapping[str, Any] | None = None,
    relevances: Holds = ORDERED,
    **units: Unpack[Units],
) -> Array:
    """The loss of rows of lists, from the formula for a row, which compares its items.

    formula: from y, z and `among`, which says of a list (by row) what items (by column) it has: (1, N) for the only
      list, (N, N) for that of each item. It returns one loss for each row of `among`.
    """

    def items(y: Array, *rest: Array, exists: Array, **options: Any) -> Array:
        y, exists, *ids, z = all_members(y, exists, *rest)
        among = exists[None, :]
        if not ids:
            return formula(y, z, among, **options)[0]
        return formula(y, z, among & (ids[0][:, None] == ids[0][None, :]), **options)

    inputs = {"y_true": (y_true, relevances), "y_pred": (y_pred, SCORES)}
    if segments is None:
        return losses(items, inputs, options=options, members=axis, **units)
    return _of_segments(items, inputs, segments, options, axis, **units)


def _of_segments(
    items: Callable[..., Array],
    inputs: Mapping[str, tuple[ArrayLike, Holds]],
    segments: ArrayLike,
    options: Mapping[str, Any] | None,
    axis: int,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """The losses of the lists, each at the first of its items: the others are no units.

    To `losses` the items of a row are one set, that one of them could spoil. So here a list with an item outside its
    domain is left out, and is NaN afterwards.
    """
    inputs = {"y_true": inputs["y_true"], "segments": (segments, SEGMENTS), "y_pred": inputs["y_pred"]}
    # NaN where an item is outside its domain.
    marks = losses(lambda y, segments, z: jnp.zeros_like(z), inputs, where=where, reduction="none")
    exists = jnp.ones(marks.shape, bool) if where is None else spread(jnp.asarray(where), marks.shape)
    exists = laid_out_as(exists, marks)
    (place,) = check_members(Input("y_pred", marks, SCORES, range(marks.ndim)), axis)
    rows = all_members(jnp.asarray(segments), exists, jnp.isnan(marks))
    flags = jnp.vectorize(_lists, signature="(n),(n),(n)->(n),(n)")(*(jnp.moveaxis(x, place, -1) for x in rows))
    first, spoilt = (moved_as(jnp.moveaxis(x, -1, place), marks) for x in flags)
    found = losses(items, inputs, options=options, members=axis, where=exists & ~spoilt, reduction="none")
    found = {"loss": (jnp.where(spoilt, jnp.nan, found), Holds("score", ANY))}
    return losses(lambda loss: loss, found, weights=weights, where=first, reduction=reduction)


def _lists(segments: Array, exists: Array, outside: Array) -> tuple[Array, Array]:
    """Of a row: which items are the first of their list, and which have one outside its domain in theirs."""
    lists, places = _numbered(segments), jnp.arange(segments.size)
    first = jax.ops.segment_min(jnp.where(exists, places, segments.size), lists, segments.size)[lists]
    spoilt = jax.ops.segment_max(outside.astype(jnp.int32), lists, segments.size)[lists]
    return first == places, spoilt > 0


def _numbered(segments: Array) -> Array:
    """The lists of a row by numbers from 0 on."""
    return jnp.unique(segments, return_inverse=True, size=segments.size)[1]


def _of_rows(option: float | Array) -> float | Array:
    """An option beside pairs: one number, or that of the first item of the pair."""
    return option[:, None] if isinstance(option, Array) and option.ndim else option


def _total(x: Array, among: Array) -> Array:
    """The sum over each list."""
    return jnp.sum(jnp.where(among, x[None, :], 0), 1)


def _pairs(y: Array, among: Array) -> Array:
    """Which item (by row) is more relevant than which (by column) of its list."""
    return (y[:, None] > y[None, :]) & among


def _differences(z: Array) -> Array:
    """z_j - z_i (j by column), the largest number in place of an infinite one."""
    ahead = z[None, :] - z[:, None]
    return jnp.where(jnp.isinf(ahead), jnp.sign(ahead) * float(jnp.finfo(z.dtype).max), ahead)


def _mean_over_pairs(cost: Callable[[Array], Array], y: Array, z: Array, among: Array) -> Array:
    pairs = _pairs(y, among)
    count = jnp.maximum(_total(jnp.sum(pairs.astype(z.dtype), 1), among), 1)
    return _total(jnp.sum(jnp.where(pairs, cost(z[:, None] - z[None, :]) / count[:, None], 0), 1), among)


def _ideal(y: Array, among: Array) -> tuple[Array, Array, Array, Array]:
    """Which item (by column) should stand before which, their places from 1 on, their gains, and the DCG of that order.

    The gains 2^y - 1 are in units of the largest of their list, which no number may hold.
    """
    y = jax.lax.stop_gradient(y)
    equal = y[None, :] == y[:, None]
    before = ((y[None, :] > y[:, None]) | jnp.tril(equal, -1)) & among
    places = 1 + jnp.sum(before.astype(y.dtype), 1)
    top = jnp.broadcast_to(jnp.max(jnp.where(among, y[None, :], 0), 1), y.shape)
    y = jnp.minimum(y, top)  # of items that do not exist
    shares = divide_or_zero(-jnp.expm1(-math.log(2) * y), -jnp.expm1(-math.log(2) * top))
    gains = jnp.exp2(y - top) * shares
    return before, places, gains, _total(gains / jnp.log2(1 + places), among)


def _discounts(like: Array) -> Array:
    """1 / log2(1 + rank) of all ranks, the first one first."""
    return 1 / jnp.log2(2 + jnp.arange(like.size, dtype=like.dtype))


def _discount_changes(z: Array, among: Array) -> Array:
    """By how much the discounts of any two items differ; of items with equal scores in the mean over their orders."""
    first = jnp.sum((z[None, :] > z[:, None]) & among, 1)
    many = jnp.sum((z[None, :] == z[:, None]) & among, 1)
    place = jnp.arange(z.size)[None, :] - first[:, None]
    takes = (place >= 0) & (place < many[:, None])
    discounts = jnp.where(takes, _discounts(z)[None, :], 0)
    mean = jnp.sum(discounts, 1) / jnp.maximum(many, 1).astype(z.dtype)
    # Of m numbers in descending order the mean difference of two is sum_k (m - 1 - 2 k) x_k / (m (m - 1) / 2).
    ahead = (many[:, None] - 1 - 2 * place).astype(z.dtype)
    spread = jnp.sum(ahead * discounts, 1) / jnp.maximum(many * (many - 1) / 2, 1).astype(z.dtype)
    return jnp.where(z[:, None] == z[None, :], spread[:, None], jnp.abs(mean[:, None] - mean[None, :]))
