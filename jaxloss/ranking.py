"""Ranking losses: of scores `z` that must bring the items of a list into the order of their relevances `y`.

The unit is a list, a set of items whose order in memory means nothing. `axis` says where the items lie, `where` which
of them exist: lists of different length are padded, with anything. A list without any item does not exist; one in which
all items are equally relevant has nothing to teach the losses of pairs.

With `segments`, a row holds several lists: items with the same number belong to one list, wherever in the row they
stand. Such a list costs what it would cost as a row of its own. The losses have the shape of the items: that of a list
stands at its first item that exists, its weight is read there, and the other places are not units. So the mean is over
lists.

A pair is an item and a less relevant one. Losses of pairs, and those that count ranks, take time for each two items of
a row, and memory too where the compiler stores what it compares (a GPU's does not). `list_mle` sorts a row, and takes
time for each item; only on a GPU, and where a mesh may spread a row, it compares any two as well.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._contract.reduce import spread
from jaxloss._contract.refuse import Input, check_members
from jaxloss._numerics.elementary import d_sigmoid, divide_or_zero, relu0, saturate, sigmoid, softplus
from jaxloss._numerics.order import (
    add,
    at_place,
    beside,
    in_order,
    put_back,
    running,
    stretches,
    sum_where,
    totals,
)
from jaxloss._numerics.rows import Row, Targets, cross_entropy, row_sum, zero_at_zero
from jaxloss._platform import apart, by_sorting, cpu, gpu, tpu, whole
from jaxloss._platform.mesh import laid_out_as, moved_as
from jaxloss.contract import (
    ANY,
    AT_LEAST_0,
    ID,
    POSITIVE,
    ArrayLike,
    Domain,
    Holds,
    Reduction,
    Units,
    all_members,
    loss,
    losses,
)

__all__ = ["approx_ndcg", "lambda_rank", "list_mle", "list_softmax", "pairwise_hinge", "ranknet"]

# Ends of float32 on both sides: a comparison would not notice a NaN or an infinity.
LARGEST = float(jnp.finfo(jnp.float32).max)
FINITE = Domain("finite", low=-LARGEST, high=LARGEST)
SCORES = Holds("score", FINITE)
ORDERED = Holds(domain=FINITE)
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
        targets = Targets(jnp.where(exists, y, 0))
        columns = axis not in (-1, jnp.asarray(y_pred).ndim - 1)
        return cross_entropy(targets, Row.of(jnp.where(exists, z, -jnp.inf)), columns)

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

    A list without a pair costs 0. To count each pair of the batch equally, give the number of pairs of each list as
    `weights`.

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

    def items(z: Array, row: _Items) -> Array:
        return _mean_over_pairs(_logistic, z, None, row)

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

    A list without a pair costs 0. At the kinks the derivative is 0. To count each pair of the batch equally, give the
    number of pairs of each list as `weights`.

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

    def items(z: Array, row: _Items, margin: float | Array) -> Array:
        return _mean_over_pairs(_hinge, z, _for_items(margin, z), row)

    return _of_lists(items, y_true, y_pred, axis, segments, {"margin": (margin, AT_LEAST_0)}, **units)


@loss
def list_mle(
    y_true: ArrayLike, y_pred: ArrayLike, *, segments: ArrayLike | None = None, axis: int = -1, **units: Unpack[Units]
) -> Array:
    """ListMLE: minus the logarithm of the probability that the items are drawn in the order of their relevances.

    Each next one is drawn by a softmax over those that are left: `sum_i (log sum_{j: y_j <= y_i} exp(z_j) - z_i)`.

    Among items of equal relevance any order is right. Instead of the mean over all such orders this is Efron's
    approximation: once k of m such items have been drawn, each of the m has the factor 1 - k / m in the sum.

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
    return _of_lists(_list_mle, y_true, y_pred, axis, segments, **units)


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

    def items(z: Array, row: _Items, temperature: float | Array) -> Array:
        z = jnp.where(row.exists, z, -LARGEST)  # no item ranks behind one that does not exist
        return _approx_ndcg(z, _for_items(temperature, z), row)

    options = {"temperature": (temperature, POSITIVE)}
    return _of_lists(items, y_true, y_pred, axis, segments, options, RELEVANCES, **units)


@loss
def lambda_rank(
    y_true: ArrayLike, y_pred: ArrayLike, *, segments: ArrayLike | None = None, axis: int = -1, **units: Unpack[Units]
) -> Array:
    """LambdaRank for NDCG: the sum over the pairs of `abs(dNDCG_ij) log(1 + exp(-(z_i - z_j)))`, `y_i > y_j`.

    `dNDCG_ij = (g_i - g_j) (1 / log2(1 + r_i) - 1 / log2(1 + r_j)) / ideal` is by how much the NDCG would change if the
    two items changed places; g and `ideal` are those of `approx_ndcg`, r the true ranks by the scores. The derivative
    treats it as a constant. Where scores are equal it is the mean over their orders, so that a model which starts with
    equal scores learns.

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

    def items(z: Array, row: _Items) -> Array:
        gains = _gains(row, _top(row))
        # Gains have the order of relevances, and where two of them are equal the pair is worth nothing.
        shares = row._replace(y=jnp.where(row.exists, divide_or_zero(gains, _ideal(row)), jnp.nan))
        mean, spread = _discounts(jax.lax.stop_gradient(z), row)
        return _over_pairs(_logistic, z, None, shares, {"mean": mean, "spread": spread})

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

    formula: from z and the items. It returns the loss of the only list, or that of the list of each item.
    """

    def items(y: Array, *rest: Array, exists: Array, **options: Any) -> Array:
        y, exists, *ids, z = all_members(y, exists, *rest)
        row = _Items(jnp.where(exists, jax.lax.stop_gradient(y), jnp.nan), exists, jnp.arange(z.size), *ids)
        return formula(z, row, **options)

    inputs = {"y_true": (y_true, relevances), "y_pred": (y_pred, SCORES)}
    if segments is None:
        return losses(items, inputs, options=options, members=axis, selects=True, **units)
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
    inputs = {"y_true": inputs["y_true"], "segments": (segments, ID), "y_pred": inputs["y_pred"]}
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
    place, segments = in_order(segments, segments)
    new = (jnp.arange(place.size) > 0) & (segments != beside(segments, -1, 0))
    return put_back(place, jnp.cumsum(new.astype(place.dtype)))


class _Items(NamedTuple):
    """The items of a row of lists.

    y: relevances; NaN for an item that does not exist, so that no comparison with it is true.
    """

    y: Array
    exists: Array
    place: Array
    list: Array | None = None  # the only one

    def apart(self, n: int) -> _Items:
        """The same, so that no comparison of relevances that another reduction makes is shared."""
        return self._replace(y=_apart(self.y, n))


def _apart(x: Array, n: int) -> Array:
    return gpu.read_again(apart(x, n, "cpu"), n)


def _each(reduce: Callable[..., Array], term: Callable[[Any, Any], Array], row: _Items, **more: Array | None) -> Array:
    """For each item i, what `reduce` makes of term(i, j) for all items j of the row. The terms see all numbers of both
    by name, those of the row and `more`, and no other arrays."""

    def in_turn(items: Mapping[str, Array]) -> Array:
        return cpu.in_turn(lambda i: reduce(term(SimpleNamespace(**i), SimpleNamespace(**items))), items)

    @cpu.instead(in_turn)
    def at_once(items: Mapping[str, Array]) -> Array:
        return reduce(_of_pairs(term, items), axis=1)

    return at_once(_by_name(row, more))


def _by_name(row: _Items, more: Mapping[str, Array | None]) -> dict[str, Array]:
    return {name: x for name, x in {**row._asdict(), **more}.items() if x is not None}


def _of_pairs(term: Callable[[Any, Any], Any], items: Mapping[str, Array]) -> Any:
    i = SimpleNamespace(**{name: x[:, None] for name, x in items.items()})
    j = SimpleNamespace(**{name: x[None, :] for name, x in items.items()})
    return term(i, j)


def _together(i: Any, j: Any, compared: Array) -> Array:
    """Whether two items are in the same list, and what is compared holds."""
    return compared & (i.list == j.list) if hasattr(i, "list") else compared


def _in_list(x: Array, i: Any, j: Any) -> Array:
    """x, but 0 for two items of different lists."""
    return jnp.where(i.list == j.list, x, 0) if hasattr(i, "list") else x


def _pair(i: Any, j: Any) -> Array:
    return _together(i, j, i.y > j.y)


def _equal(i: Any, j: Any) -> Array:
    return _together(i, j, i.y == j.y)


def _total(x: Array, row: _Items) -> Array:
    """The sum of what is 0 where no item exists: over the only list, or over that of each item."""
    return jnp.sum(x) if row.list is None else _total_of_list(x, row)


def _total_by_number(x: Array, row: Any) -> Array:
    lists = _numbered(row.list)
    return jax.ops.segment_sum(x, lists, x.size)[lists]


@cpu.instead(_total_by_number, suits=whole)
def _total_of_list(x: Array, row: _Items) -> Array:
    return _each(jnp.sum, lambda i, j: _in_list(j.x, i, j), row, x=x)


def _sum_of_pairs(term: Callable[[Any, Any], Array], row: _Items, **more: Array | None) -> Array:
    """The sum of term(i, j) over the pairs of items: of the only list, or of the list of each item."""

    def by_item(row: _Items, more: Mapping[str, Any]) -> Array:
        return _total(_each(jnp.sum, term, row, **more), row)

    def at_once(row: _Items, more: Mapping[str, Any]) -> Array:  # since a number for each item would be stored
        return row_sum(_of_pairs(term, _by_name(row, more)).ravel())

    return (gpu.instead(at_once)(by_item) if row.list is None else by_item)(row, more)


def _for_items(option: float | Array, z: Array) -> Array:
    return jnp.broadcast_to(jnp.asarray(option, z.dtype), z.shape)


# ---------------------------------------------------------------------------------------------------------------------
# Items in order


class _Order(NamedTuple):
    """The items of a row in ascending order of a key, those of one list beside each other.

    By position in this order, `at`: where the item stands in the row; and the positions at which its list, and the
    items of that which are equal to it, begin and end.
    """

    at: Array
    place: Array
    list_begin: Array
    list_end: Array
    begin: Array
    end: Array

    @property
    def many(self) -> Array:
        """How many are equal."""
        return self.end + 1 - self.begin

    @property
    def nth(self) -> Array:
        """Of those that are equal, from 0 on."""
        return self.at - self.begin

    @property
    def nth_of_list(self) -> Array:
        """The place in its list, from 1 on."""
        return self.at - self.list_begin + 1

    def items(self, y: Array, row: _Items) -> _Items:
        """The items of the row in this order, where their relevances are y."""
        return _Items(y, ~jnp.isnan(y), self.at, row.list if row.list is None else self.list_begin)

    def put_back(self, x: Array) -> Array:
        return put_back(self.place, x)


def _sorted(key: Array, row: _Items, *others: Array) -> tuple[Any, ...]:
    """The order by a key, which is NaN for items that do not exist; the key and others in it."""
    at, lists = row.place, [] if row.list is None else [row.list]
    place, key, *rest = in_order(key, key, *others, *lists)
    new, of_list = at == 0, (jnp.zeros_like(at), jnp.full_like(at, at.size - 1))
    if lists:
        ids = rest.pop()
        _, ids, place, key, *rest = in_order(ids, ids, place, key, *rest)
        new |= ids != beside(ids, -1, 0)
        of_list = stretches(new)
    return _Order(at, place, *of_list, *stretches(new | (key != beside(key, -1, 0)))), key, *rest


# ---------------------------------------------------------------------------------------------------------------------
# Sums over pairs


def _logistic(ahead: Array, _: Any) -> Array:
    return softplus(-ahead)


def _hinge(ahead: Array, margin: Array) -> Array:
    return relu0(margin - ahead)


def _mean_over_pairs(cost: Callable[..., Array], z: Array, margin: Array | None, row: _Items) -> Array:
    count = _sum_of_pairs(lambda i, j: _pair(i, j).astype(i.y.dtype), row.apart(1))
    return _over_pairs(cost, z, margin, row, {"count": _for_items(jnp.maximum(count, 1), z)})


def _priced(cost: Array, i: Any, j: Any, pair: Array, step: Array) -> Array:
    """The cost of a pair times what it is worth, which may depend on the step between their relevances."""
    if hasattr(i, "count"):
        return jnp.where(pair, cost / i.count, 0)
    worth = jnp.where(pair, jnp.abs(step) * jnp.where(i.z == j.z, i.spread, jnp.abs(i.mean - j.mean)), 0)
    return jnp.where(worth > 0, worth * cost, 0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _over_pairs(
    cost: Callable[..., Array], z: Array, margin: Array | None, row: _Items, worth: Mapping[str, Array]
) -> Array:
    """The sum of cost(z_i - z_j, margin_i) over the pairs of a list, each times what it is worth."""

    def term(i: Any, j: Any) -> Array:
        return _priced(cost(i.z - j.z, getattr(i, "margin", None)), i, j, _pair(i, j), i.y - j.y)

    return _sum_of_pairs(term, row, z=z, margin=margin, **worth)


@_over_pairs.defjvp
def _(cost: Callable[..., Array], primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    # With c(z_i - z_j) for each pair, the derivative with respect to z_k is the sum over j of c'(z_k - z_j) where
    # k is the more relevant one, and of -c'(z_j - z_k) where it is not: one sum of N terms for each item.
    z, margin, row, worth = primals

    def by_score(k: Any, j: Any) -> Array:
        step = k.level - j.level
        side = jnp.sign(step)
        first = jnp.where(side > 0, k.margin, j.margin) if hasattr(k, "margin") else None
        ahead = side * (k.z - j.z)
        slope = jax.jvp(lambda ahead: cost(ahead, first), (ahead,), (jnp.ones_like(ahead),))[1]
        return _priced(side * slope, k, j, _together(k, j, jnp.abs(k.y - j.y) > 0), step)

    def by_margin(i: Any, j: Any) -> Array:
        ahead = i.z - j.z
        margins = jnp.broadcast_to(i.margin, ahead.shape)
        slope = jax.jvp(lambda margin: cost(ahead, margin), (margins,), (jnp.ones_like(margins),))[1]
        return _priced(slope, i, j, _pair(i, j), i.y - j.y)

    # Without a NaN: times 0, it would make a second derivative NaN.
    level = jnp.where(row.exists, row.y, 0)
    # So that what pairs are worth is found anew: what it has in common with the value would be stored for each pair.
    again = {name: gpu.read_again(x, 3) for name, x in worth.items()}
    slope = _each(jnp.sum, by_score, row, z=z, margin=margin, level=level, **again) * tangents[0]
    if margin is not None:
        slope += _each(jnp.sum, by_margin, row, z=z, margin=margin, **worth) * tangents[1]
    return _over_pairs(cost, *primals), _total(slope, row)


# ---------------------------------------------------------------------------------------------------------------------
# ListMLE


@jax.custom_jvp
def _list_mle(z: Array, row: _Items) -> Array:
    return _drawn(z, row)[0]


@_list_mle.defjvp
def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    z, row = primals
    slope = _drawn(z, row)[1]
    return _list_mle(z, row), _total(jnp.where(row.exists, slope * tangents[0], 0), row)


# An item is drawn from what is left: all items of lower relevance and, with a weight, those of the same. With m the
# largest score among them and t the sum of exp(z - m), as weighed, its term is log t + m - z. The loss grows with a
# score z by the chances of its item in all draws, the sum of exp(z - m) / t, as weighed, less 1.
#
# In ascending order of relevances, m and t are those of a sum along the row. So are the chances, from its end: exp(z)
# times the sum of exp(-m) / t over what comes after and, with the weights, over those of the same relevance.


def _drawn_in_order(z: Array, row: _Items) -> tuple[Array, Array]:
    order, _, exists, z = _sorted(row.y, row, row.exists, z)
    z = jnp.where(exists, z, -LARGEST)
    left = running((z, jnp.ones_like(z)), order.list_begin)
    n, lower = at_place(sum_where(order.begin > order.list_begin, beside(left, -1, 0)), order.begin)
    m, all_left = at_place(left, order.end, after=True)
    share = 1 - order.nth.astype(z.dtype) / order.many.astype(z.dtype)  # the weight of those of the same relevance
    t = share * all_left + (1 - share) * lower * jnp.exp(n - m)

    draws = running((-m, jnp.where(exists, 1 / t, 0)), order.list_end, after=True)
    higher = sum_where((order.at == order.end) & (order.end < order.list_end), beside(draws, 1, 0))
    n, draws = at_place(running(add(higher, (-m, share / t)), order.end, after=True), order.begin)

    terms, slopes = jnp.where(exists, jnp.log(t) + saturate(m - z), 0), order.put_back(jnp.exp(z + n) * draws - 1)
    if row.list is None:
        return jnp.sum(terms), slopes
    return order.put_back(totals(terms, order.list_begin, order.list_end)), slopes


@by_sorting(_drawn_in_order)
def _drawn(z: Array, row: _Items) -> tuple[Array, Array]:
    """The loss, and how it grows with the score of each item."""
    # Of equal items that stand before this one, all have been drawn.
    many = _each(jnp.sum, lambda i, j: _equal(i, j).astype(i.y.dtype), row)
    drawn = _each(jnp.sum, lambda i, j: (_equal(i, j) & (j.place < i.place)).astype(i.y.dtype), row.apart(1))
    share = 1 - drawn / jnp.maximum(many, 1)
    constant = jax.lax.stop_gradient(z)
    top = _each(jnp.max, lambda i, j: jnp.where(_is_left(i, j), j.z, -LARGEST), row.apart(2), z=constant)
    total = _each(jnp.sum, _odds, row.apart(3), z=z, share=share, top=top)
    total = jnp.where(row.exists, total, 1)

    def chance(k: Any, i: Any) -> Array:
        return _odds(i, k) / i.total

    slope = _each(jnp.sum, chance, row.apart(4), z=z, share=share, top=top, total=total) - 1
    return _total(jnp.where(row.exists, jnp.log(total) + saturate(top - z), 0), row), slope


def _odds(i: Any, j: Any) -> Array:
    """What j is weighed by when i is drawn: exp(z_j - m), with m the largest score that is left."""
    return jnp.where(j.y == i.y, i.share, 1) * jnp.exp(jnp.where(_is_left(i, j), j.z - i.top, -jnp.inf))


def _is_left(i: Any, j: Any) -> Array:
    """Whether j is there when i is drawn."""
    return _together(i, j, j.y <= i.y)


# ---------------------------------------------------------------------------------------------------------------------
# NDCG


@jax.custom_jvp
def _approx_ndcg(z: Array, temperature: Array, row: _Items) -> Array:
    return _missed(z, temperature, row)[0]


@_approx_ndcg.defjvp
def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    z, temperature, row = primals
    _, by_score, by_temperature = _missed(z, temperature, row)
    return _approx_ndcg(*primals), _total(by_score * tangents[0] + by_temperature * tangents[1], row)


def _missed_in_order(z: Array, temperature: Array, row: _Items) -> tuple[Array, Array, Array]:
    several = [] if row.list is None else [temperature]  # else it is the same for all items
    order, key, z, *several = _sorted(-row.y, row, z, *several)
    (temperature,), places = several or [temperature], order.nth_of_list.astype(z.dtype)
    loss, *slopes = _missed_at(places, _before_in_order, z, temperature, order.items(-key, row))
    by_score, by_temperature = map(order.put_back, slopes)
    return loss if row.list is None else order.put_back(loss), by_score, by_temperature


# Elsewhere two items are compared as fast, and a sum that begins with all that is below 0 rounds more.
@tpu.instead(_missed_in_order, suits=whole)
def _missed(z: Array, temperature: Array, row: _Items) -> tuple[Array, Array, Array]:
    """1 - NDCG, and how it grows with the scores and the temperatures of the items."""
    return _missed_at(_ideal_places(row), _before, z, temperature, row)


def _missed_at(
    places: Array, before: Callable[[Any, Any], Array], z: Array, temperature: Array, row: _Items
) -> tuple[Array, Array, Array]:
    top = _top(row)
    again = row._replace(y=gpu.read_again(row.y, 2))  # so that the gains are found twice, and not stored
    gains = divide_or_zero(_gains(row, top), _dcg(_gains(again, top), places, row))
    inverse = jnp.minimum(1 / temperature, LARGEST)  # finite: equal scores are 0 apart, and 0 times infinity is NaN

    def turn(i: Any, j: Any) -> Array:
        # What j adds to the rank of i, less what it adds in the ideal order: so nothing cancels where all are almost
        # in order.
        side = jnp.where(before(j, i), -1, 1).astype(i.z.dtype)
        return jnp.where(_together(i, j, i.place != j.place), side * sigmoid(side * _ahead(i, j)), 0)

    behind = _each(jnp.sum, turn, row.apart(1), z=z, inverse=inverse)
    growth = jax.jvp(lambda behind: gains * _lost(behind, places), (behind,), (jnp.ones_like(behind),))[1]

    # r_i moves by s_ij / T when z_j - z_i does, where s is the derivative of the sigmoid at that difference over T.
    # It is the same for both: with c_i, how fast the loss grows with r_i, the derivative with respect to z_k
    # is sum_j (c_j - c_k) s_kj / T.
    def by_score(k: Any, j: Any) -> Array:
        return _in_list((j.growth - k.growth) * d_sigmoid(_ahead(k, j)), k, j)

    def by_temperature(i: Any, j: Any) -> Array:
        ahead = _ahead(i, j)
        return _in_list(-i.growth * d_sigmoid(ahead) * ahead, i, j)

    items = {"z": z, "inverse": inverse, "growth": growth}
    slope, other = (_each(jnp.sum, by, row, **items) * inverse for by in (by_score, by_temperature))
    return _total(gains * _lost(behind, places), row), slope, other


def _ahead(i: Any, j: Any) -> Array:
    """How far j is ahead of i, in temperatures. Beyond a thousand the sigmoid is 0 or 1."""
    return jnp.clip((j.z - i.z) * i.inverse, -1000, 1000)


def _before(i: Any, j: Any) -> Array:
    """Whether i should stand before j."""
    return (i.y > j.y) | ((i.y == j.y) & (i.place < j.place))


def _before_in_order(i: Any, j: Any) -> Array:
    return i.place < j.place


def _lost(behind: Array, places: Array) -> Array:
    """1 / log2(1 + k) - 1 / log2(1 + r), with r = k + behind."""
    log = jnp.log1p(places)
    return math.log(2) * jnp.log1p(behind / (1 + places)) / (log * jnp.log1p(places + behind))


def _ideal_places(row: _Items) -> Array:
    """Where the items stand in the ideal order, from 1 on."""
    return 1 + _each(jnp.sum, lambda i, j: _together(i, j, _before(j, i)).astype(i.y.dtype), row)


def _ideal_in_order(row: _Items) -> Array:
    order, key = _sorted(-row.y, row)
    row = order.items(-key, row)
    gains = _gains(row, _top(row)) / jnp.log2(1 + order.nth_of_list.astype(key.dtype))
    if row.list is None:
        return jnp.broadcast_to(jnp.sum(gains), key.shape)
    return order.put_back(totals(gains, order.list_begin, order.list_end))


@by_sorting(_ideal_in_order)
def _ideal(row: _Items) -> Array:
    """The largest sum of discounted gains that the list of each item can have."""
    return _dcg(_gains(row, _top(row)), _ideal_places(row), row)


def _top(row: _Items) -> Array:
    """The largest relevance of the list."""
    if row.list is None:
        return jnp.broadcast_to(jnp.max(jnp.where(row.exists, row.y, 0)), row.y.shape)
    return _each(jnp.max, lambda i, j: jnp.where(_together(i, j, j.y > 0), j.y, 0), row)


def _gains(row: _Items, top: Array) -> Array:
    """2^y - 1, in units of the largest of the list, which no number may hold."""
    y = jnp.where(row.y > 0, row.y, 0)
    return jnp.exp2(y - top) * divide_or_zero(-jnp.expm1(-math.log(2) * y), -jnp.expm1(-math.log(2) * top))


def _dcg(gains: Array, places: Array, row: _Items) -> Array:
    """That of the list, for each item."""
    return jnp.broadcast_to(_total(gains / jnp.log2(1 + places), row), gains.shape)


def _discounts_in_order(z: Array, row: _Items) -> tuple[Array, Array]:
    order, _ = _sorted(jnp.where(row.exists, -z, jnp.nan), row)
    discount = 1 / jnp.log2(1 + order.nth_of_list.astype(z.dtype))
    nth, many = (x.astype(z.dtype) for x in (order.nth, order.many))
    sums, ahead = totals((discount, (many - 1 - 2 * nth) * discount), order.begin, order.end)
    return order.put_back(sums / many), order.put_back(ahead / jnp.maximum(many * (many - 1) / 2, 1))


@by_sorting(_discounts_in_order)
def _discounts(z: Array, row: _Items) -> tuple[Array, Array]:
    """1 / log2(1 + rank), of equal scores in the mean over their orders; and by how much two of those differ."""
    first = _each(jnp.sum, lambda i, j: _together(i, j, j.exists & (j.z > i.z)).astype(jnp.int32), row, z=z)
    many = _each(jnp.sum, lambda i, j: _together(i, j, j.exists & (j.z == i.z)).astype(jnp.int32), row, z=z)

    dtype = z.dtype

    def taken(i: Any, rank: Any) -> Array:
        after = rank.place - i.first
        return jnp.where((after >= 0) & (after < i.many), 1 / jnp.log2(2 + rank.place.astype(dtype)), 0)

    def ahead(i: Any, rank: Any) -> Array:
        # Of m numbers in descending order the mean difference of two is sum_k (m - 1 - 2 k) x_k / (m (m - 1) / 2).
        after = rank.place - i.first  # and nothing below is the same for all ranks: it would be stored for each item
        return ((i.many - after) - (after + 1)).astype(dtype) * taken(i, rank)

    mean = _each(jnp.sum, taken, row, first=first, many=many) / jnp.maximum(many, 1).astype(dtype)
    pairs = jnp.maximum(many * (many - 1) / 2, 1).astype(dtype)
    first, many = (_apart(x, 1) for x in (first, many))
    return mean, _each(jnp.sum, ahead, row, first=first, many=many) / pairs
