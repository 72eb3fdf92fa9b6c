"""Ranking losses where lists are short, padded, tied, or several in one row, and against optax."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import close, mostly_slow, refuses, run
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxloss as jl
from jaxloss.ranking import __all__ as NAMES

EACH = mostly_slow(NAMES, "list_softmax", "pairwise_hinge")
PAIRED = [name for name in EACH if name.values != ("list_softmax",)]


def lists(batch: int = 5, items: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    where = np.arange(items) < rng.integers(1, items + 1, (batch, 1))
    where[0] = True
    return (
        rng.integers(0, 4, (batch, items)).astype(np.float32),
        rng.normal(size=(batch, items)).astype(np.float32),
        where,
    )


def graded(name: str, y: Any, z: Any, **options: Any) -> Any:
    """The losses of the lists, and the derivative of their sum by the scores."""
    losses = jl.LOSSES[name](y, z, **options, reduction="none")
    return losses, jax.grad(lambda z: jl.LOSSES[name](y, z, **options, reduction="sum"))(z)


@pytest.mark.parametrize("name", EACH)
def test_padding_means_nothing(name: str):
    """Lists of different length in one array, padded with anything, have the losses that they have alone."""
    y, z, where = lists()
    order = np.random.default_rng(1).permuted(np.tile(np.arange(6), (5, 1)), axis=1)
    y, z, where = (np.take_along_axis(x, order, 1) for x in (y, z, where))
    alone = run(lambda: [graded(name, y[i, m], z[i, m]) for i, m in enumerate(where)])
    masked = jax.jit(lambda y, z: graded(name, y, z, where=where))
    for poison in (0.0, 7.0, np.nan, np.inf):
        padded = [np.where(where, x, np.float32(poison)) for x in (y, z)]
        losses, slopes = map(np.asarray, masked(*padded))
        close(losses, np.array([x for x, _ in alone]), f"padded with {poison}", atol=2e-7)
        close(slopes[where], np.concatenate([g for _, g in alone]), f"gradient, padded with {poison}")
        assert (slopes[~where] == 0).all()


@pytest.mark.parametrize("name", EACH)
def test_nothing_for_debug_nans(name: str):
    """Not outside of jax.jit either, where a derivative would be one operation after the other."""
    y, z, where = lists()
    with jax.debug_nans(True):
        graded(name, jnp.asarray(y), jnp.asarray(z), where=jnp.asarray(where))


@pytest.mark.parametrize("name", EACH)
def test_second_derivatives_of_padded_lists(name: str):
    y, z = np.array([[2, 1, 0, 0]], np.float32), np.array([[0.3, -1, 2, 0.3]], np.float32)

    def second(y: np.ndarray, z: np.ndarray, **options: Any) -> Any:
        slope = jax.grad(lambda z: jl.LOSSES[name](y, z, **options))
        return jnp.stack([jax.jacfwd(slope)(z), jax.jacrev(slope)(z)])[:, 0, :, 0]

    padded = [np.append(x, [[np.nan]], axis=1).astype(np.float32) for x in (y, z)]
    alone, masked = run(lambda: (second(y, z), second(*padded, where=np.isfinite(padded[0]))))
    close(masked[:, :4, :4], alone, "second derivative", atol=1e-7)
    assert (masked[:, 4] == 0).all()
    assert (masked[:, :, 4] == 0).all()


@pytest.mark.parametrize("name", EACH)
def test_lists_with_nothing_to_learn(name: str):
    """One item costs 0; a list without any is not counted."""
    y, z = np.array([[2.0, 1.0], [3.0, 0.0], [1.0, 2.0]]), np.array([[0.5, -0.25], [4.0, 1.0], [1.0, 3.0]])
    where = np.array([[True, True], [True, False], [False, False]])
    losses, slopes = graded(name, y, z, where=where)
    assert losses[0] > 0
    assert (losses[1:] == 0).all()
    assert (slopes[1:] == 0).all()
    close(jl.LOSSES[name](y, z, where=where), losses[0] / 2, "the mean over the two lists that exist")
    assert jl.LOSSES[name](y[2:], z[2:], where=where[2:]) == 0
    assert jl.LOSSES[name](y[:, :0], z[:, :0]) == 0


@pytest.mark.parametrize("name", [name for name in PAIRED if name.values != ("list_mle",)])
def test_no_pair_costs_nothing(name: str):
    """Equal relevances: of pairs there are none; of ranks any is ideal, so nothing but their smoothness is left."""
    losses, slopes = graded(name, np.zeros((1, 4)), np.array([[0.0, 1.0, 5.0, -2.0]]))
    assert losses == 0
    assert (slopes == 0).all()


@pytest.mark.parametrize("name", EACH)
def test_equal_items_change_places(name: str):
    """Value and gradient of a list do not depend on how it lies in memory, whatever is tied."""
    y, z = np.array([2.0, 0, 2, 1, 0, 2], np.float32), np.array([1.0, 1, 0, 0, 1, -2], np.float32)
    orders = np.array(list(itertools.permutations(range(6)))[::37])
    losses, slopes = run(lambda y, z: graded(name, y, z), y[orders], z[orders])
    alone = graded(name, y[None], z[None])
    close(losses, np.broadcast_to(alone[0], losses.shape), "value")
    close(slopes, alone[1][0][orders], "gradient")


@pytest.mark.parametrize("name", PAIRED)
def test_a_model_that_scores_all_the_same_learns(name: str):
    _, slopes = graded(name, np.array([[2.0, 1.0, 0.0]]), np.zeros((1, 3)))
    assert slopes[0, 0] < slopes[0, 1] < slopes[0, 2]


@pytest.mark.parametrize("axis", [0, 1, -1, -2])
def test_axis(axis: int):
    y, z, where = lists()
    moved = [np.moveaxis(x, 1, axis) for x in (y, z)]
    if axis in (1, -1):
        close(jl.ranknet(*moved, axis=axis, where=where), jl.ranknet(y, z, where=where), "mask")
    close(jl.ranknet(*moved, axis=axis), jl.ranknet(y, z), "axis")
    refuses(ValueError, ("ranknet", "axis 2"), jl.ranknet, y, z, axis=2)


def discount(rank: int) -> float:
    return 1 / math.log2(1 + rank)


def test_lambda_rank_is_the_mean_over_the_orders_of_equal_scores():
    y, z = np.array([3.0, 0, 1, 2, 0]), np.array([1.0, 1, 1, -1, -1])
    gains = 2**y - 1
    ideal = sum(g * discount(1 + k) for k, g in enumerate(sorted(gains, reverse=True)))
    found = []
    for order in itertools.permutations(range(5)):
        if (np.diff(z[list(order)]) > 0).any():
            continue
        d = {item: discount(1 + k) for k, item in enumerate(order)}
        change = [
            abs((gains[i] - gains[j]) * (d[i] - d[j])) / ideal * np.logaddexp(0, z[j] - z[i])
            for i in range(5)
            for j in range(5)
            if y[i] > y[j]
        ]
        found.append(sum(change))
    assert len(found) == 12
    close(jl.lambda_rank(y, z), np.mean(found), "mean over the orders")


def minus_log_of_order(z: np.ndarray) -> float:
    return sum(np.logaddexp.reduce(z[k:]) - z[k] for k in range(len(z)))


def test_list_mle_of_equal_relevances_is_near_the_mean_over_their_orders():
    """Never less, never more than if all of them were left for each, and exact for equal scores."""
    y, rng = np.array([1.0, 0, 2, 0, 1]), np.random.default_rng(0)
    for spread in (0.0, 0.5, 2.0):
        z = spread * rng.normal(size=5) + 2 * y
        orders = [list(o) for o in itertools.permutations(range(5)) if (np.diff(y[list(o)]) <= 0).all()]
        mean = np.mean([minus_log_of_order(z[order]) for order in orders])
        most = sum(np.logaddexp.reduce(z[y <= y[i]]) - z[i] for i in range(5))
        assert mean * (1 - 1e-6) <= jl.list_mle(y, z) < most
        if spread == 0:
            close(jl.list_mle(y, z), mean, "equal scores")
    close(jl.list_mle(np.arange(5.0), z), minus_log_of_order(z[::-1]), "without equal relevances")


def drawn_one_by_one(y: np.ndarray, z: np.ndarray) -> tuple[float, np.ndarray]:
    """ListMLE with Efron's approximation, and its derivative, in double precision."""
    order = np.argsort(y, kind="stable")
    y, z = y[order], z[order].astype(np.float64)
    w = np.exp(z - z.max())
    lower = np.concatenate([[0], np.cumsum(w)])
    groups = np.split(np.arange(y.size), np.flatnonzero(np.diff(y)) + 1)
    loss, slopes, later = 0.0, np.zeros(y.size), 0.0
    for group in groups[::-1]:
        share = 1 - np.arange(group.size) / group.size
        left = lower[group[0]] + share * w[group].sum()
        loss += (np.log(left) + z.max() - z[group]).sum()
        slopes[order[group]] = w[group] * (later + (share / left).sum()) - 1
        later += (1 / left).sum()
    return loss, slopes


@pytest.mark.parametrize("relevances", mostly_slow([5, 10**6], 5))
def test_list_mle_of_long_lists(relevances: int):
    """Of 50,000 items, which would make 2.5 billion pairs: with and without equal ones, and several in a row."""
    rng = np.random.default_rng(0)
    y, z = rng.integers(0, relevances, 50_000).astype(np.float32), (3 * rng.normal(size=50_000)).astype(np.float32)
    segments = np.sort(rng.integers(0, 3, y.size))
    loss, slopes = run(lambda y, z: graded("list_mle", y, z), y, z)
    wanted, slopes_wanted = drawn_one_by_one(y, z)
    close(loss, wanted, "loss")
    close(slopes, slopes_wanted, "slopes", rtol=1e-6, atol=1e-6)
    losses, slopes = run(lambda y, z: graded("list_mle", y, z, segments=segments), y, z)
    parts = [drawn_one_by_one(y[segments == i], z[segments == i]) for i in range(3)]
    close(losses[np.searchsorted(segments, range(3))], np.array([loss for loss, _ in parts]), "losses")
    close(slopes, np.concatenate([slopes for _, slopes in parts]), "slopes of lists", rtol=1e-6, atol=1e-6)


def test_gains_that_no_number_holds():
    """2^y - 1 for relevances in the hundreds."""
    y, z = np.array([[300.0, 299.0, 0.0]]), np.array([[0.0, 1.0, 2.0]])
    few = np.array([[30.0, 29.0, 0.0]])  # where 2^y - 1 is 2^y, to seven digits
    for name in ("approx_ndcg", "lambda_rank"):
        close(graded(name, y, z), graded(name, few, z), name)


OUTSIDE = {
    "y_true": ([[1.0, np.nan], [np.inf, 0.0]], [[0.0, 1.0], [1.0, 0.0]]),
    "y_pred": ([[1.0, 1.0], [1.0, 0.0]], [[0.0, np.nan], [-np.inf, 0.0]]),
}


@pytest.mark.parametrize("name", EACH)
def test_outside(name: str):
    """NaN and infinities, also where no pair would notice them; the list beside them does not."""
    good = np.array([[1.0, 0.0]])
    y, z = (np.concatenate([*lists, good]) for lists in zip(*OUTSIDE.values(), strict=True))
    losses, slopes = graded(name, y, z)
    assert np.isnan(losses[:4]).all()
    assert (slopes[:4] == 0).all()
    close((losses[4:], slopes[4:]), graded(name, good, good), "the list beside them")
    for argument, arrays in OUTSIDE.items():
        refuses(jl.BadValueError, (name, f"{argument} must be finite"), jl.checked(jl.LOSSES[name]), *arrays)


@pytest.mark.parametrize("name", ["list_softmax", "approx_ndcg", "lambda_rank"])
def test_negative_relevances(name: str):
    losses, slopes = graded(name, np.array([[1.0, -1.0]]), np.array([[0.0, 1.0]]))
    assert np.isnan(losses)
    assert (slopes == 0).all()


def _optax(y: Any, z: Any, where: Any, reduce: Callable[..., Any] | None) -> Any:
    return optax.losses.ranking_softmax_loss(z, y, where=where, reduce_fn=reduce)


@pytest.mark.parametrize("masked", [False, True])
def test_list_softmax_against_optax(masked: bool):
    """Losses, mean and gradient; a list without any item is not counted."""
    y, z, where = lists()
    where[1] = False
    mask = where if masked else None
    ours = run(lambda z: (graded("list_softmax", y, z, where=mask), jl.list_softmax(y, z, where=mask)), z)
    theirs = run(
        lambda z: (
            (_optax(y, z, mask, None), jax.grad(lambda z: _optax(y, z, mask, jnp.sum))(z)),
            _optax(y, z, mask, jnp.mean),
        ),
        z,
    )
    close(ours, theirs, "against optax", rtol=3e-6, atol=3e-6)


def test_lists_by_their_pairs():
    """Weighed by the number of its pairs, a list has the mean over all pairs of the batch."""
    y, z, where = lists()
    pairs = (y[:, :, None] > y[:, None, :]) & where[:, :, None] & where[:, None, :]
    costs = np.logaddexp(0, z[:, None, :] - z[:, :, None])
    got = jl.ranknet(y, z, where=where, weights=pairs.sum((1, 2)))
    close(got, costs[pairs].mean(), "mean over all pairs")


# ---------------------------------------------------------------------------------------------------------------------
# Several lists in one row

OPTIONS = {"pairwise_hinge": {"margin": 0.5}, "approx_ndcg": {"temperature": 0.5}}


class Packed(NamedTuple):
    """Rows that hold lists of different length, in any order, and the same lists as rows of their own.

    row, first: in which row a list is, and where the first of its items stands that exists.
    """

    y: np.ndarray
    z: np.ndarray
    segments: np.ndarray
    where: np.ndarray
    row: np.ndarray
    first: np.ndarray
    own: np.ndarray

    @classmethod
    def of(cls, batch: int = 4, items: int = 9, masked: bool = True) -> Packed:
        rng = np.random.default_rng(0)
        shape = batch, items
        where = rng.random(shape) < 0.75 if masked else np.ones(shape, bool)
        if masked:
            where[1] = False
        y, z = rng.integers(0, 4, shape).astype(np.float32), rng.normal(size=shape).astype(np.float32)
        segments = rng.integers(-1, 3, shape).astype(np.int32)
        row, own = zip(
            *((i, where[i] & (segments[i] == k)) for i in range(batch) for k in np.unique(segments[i][where[i]])),
            strict=True,
        )
        return cls(y, z, segments, where, np.array(row), np.argmax(own, 1), np.array(own))

    def padded(self, poison: float) -> tuple[np.ndarray, np.ndarray]:
        y, z = (np.where(self.where, x, np.float32(poison)) for x in (self.y, self.z))
        return y, z

    def placed(self, losses: Any) -> np.ndarray:
        """What belongs to the lists, where their losses stand."""
        found = np.zeros(self.y.shape, np.float32)
        found[self.row, self.first] = losses
        return found

    def summed(self, slopes: Any) -> np.ndarray:
        found = np.zeros(self.y.shape, np.float32)
        np.add.at(found, self.row, slopes)
        return found


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", EACH)
def test_segments_are_rows_of_their_own(name: str, masked: bool):
    """Losses, mean and gradients, compiled with traced segments, whatever lies under the mask."""
    lists, options = Packed.of(masked=masked), OPTIONS.get(name, {})
    alone = run(lambda y, z: graded(name, y, z, where=lists.own, **options), lists.y[lists.row], lists.z[lists.row])
    want = lists.placed(alone[0]), lists.summed(alone[1])

    @jax.jit
    def packed(y: Any, z: Any, segments: Any, where: Any) -> Any:
        options_ = {**options, "segments": segments, "where": where}
        return graded(name, y, z, **options_), jl.LOSSES[name](y, z, **options_)

    for poison in (0.0, 7.0, np.nan, np.inf) if masked else (0.0,):
        got, mean = packed(*lists.padded(poison), lists.segments, lists.where if masked else None)
        close(got, want, f"padded with {poison}", rtol=2e-6, atol=2e-7)
        close(mean, alone[0].mean(), f"mean, padded with {poison}", rtol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("spread", [1.0, 30.0, 1e30, 3e38])
def test_softmax_of_segments_is_as_exact(spread: float):
    """Value and gradients by both arguments where an item is almost certain, and the second derivative."""
    lists = Packed.of()
    y, z = lists.y / 8, np.float32(spread) * np.clip(lists.z / 3, -1, 1)

    def alone(y: Any, z: Any) -> Any:
        return jl.list_softmax(y[lists.row], z[lists.row], where=lists.own, reduction="sum")

    got = jl.list_softmax(y, z, segments=lists.segments, where=lists.where, reduction="none")
    want = jl.list_softmax(y[lists.row], z[lists.row], where=lists.own, reduction="none")
    np.testing.assert_allclose(got, lists.placed(want), rtol=1e-6, atol=0)

    def total(y: Any, z: Any) -> Any:
        return jl.list_softmax(y, z, segments=lists.segments, where=lists.where, reduction="sum")

    rng = np.random.default_rng(1)
    direction = rng.normal(size=z.shape).astype(np.float32)
    for of, argnum in (("targets", 0), ("scores", 1)):
        slopes = [jax.grad(f, argnum)(jnp.asarray(y), jnp.asarray(z)) for f in (total, alone)]
        np.testing.assert_allclose(*slopes, rtol=2e-6, atol=1e-44, err_msg=of)
    if spread < 1e3:
        curves = [jax.jvp(jax.grad(functools.partial(f, y)), (z,), (direction,))[1] for f in (total, alone)]
        np.testing.assert_allclose(*curves, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", mostly_slow(NAMES, "pairwise_hinge"))
def test_segments_outside(name: str):
    """An item outside its domain spoils its list, and no other of its row."""
    lists = Packed.of()
    for x, bad in ((lists.y, np.nan), (lists.z, np.nan), (lists.z, np.inf)):
        good = x.copy()
        spoilt = 2
        x[lists.row[spoilt], np.flatnonzero(lists.own[spoilt])[-1]] = bad
        losses, slopes = graded(name, lists.y, lists.z, segments=lists.segments, where=lists.where)
        refuses(
            jl.BadValueError,
            (name, "must be finite", "1 of"),
            jl.checked(jl.LOSSES[name]),
            *lists[:2],
            segments=lists.segments,
            where=lists.where,
        )
        x[:] = good
        want, wanted = graded(name, lists.y, lists.z, segments=lists.segments, where=lists.where)
        place = lists.row[spoilt], lists.first[spoilt]
        assert np.isnan(losses[place])
        assert (slopes[lists.row[spoilt]][lists.own[spoilt]] == 0).all()
        close(losses.at[place].set(0), want.at[place].set(0), "the other lists")
        mine = np.zeros(x.shape, bool)
        mine[lists.row[spoilt]] = lists.own[spoilt]
        close(jnp.where(mine, 0, slopes), jnp.where(mine, 0, wanted), "gradients of the other lists")


def test_segments_reduced():
    """The units are the lists: no other place counts."""
    lists = Packed.of()
    losses = jl.ranknet(lists.y[lists.row], lists.z[lists.row], where=lists.own, reduction="none")
    options: dict[str, Any] = {"segments": lists.segments, "where": lists.where}
    weights = np.random.default_rng(1).random(lists.y.shape).astype(np.float32)
    own = weights[lists.row, lists.first]
    cases: tuple[tuple[Any, Any, Any], ...] = (
        ("mean", losses.mean(), (losses * own).sum() / own.sum()),
        ("sum", losses.sum(), (losses * own).sum()),
        ("sum_over_batch_size", losses.mean(), (losses * own).mean()),
        ("sum_and_weight", (losses.sum(), len(losses)), ((losses * own).sum(), own.sum())),
        ("none", lists.placed(losses), lists.placed(losses * own)),
        (lambda losses, weights: losses.sum() / weights.sum(), losses.mean(), losses.sum() / own.sum()),
    )
    of_row = weights[:, 0]
    by_row = losses * of_row[lists.row]
    rows = [losses[lists.row == i].mean() for i in np.unique(lists.row)]

    def reduced(**how: Any) -> Any:
        return jl.ranknet(*lists[:2], **options, **how)

    got = run(
        lambda: [
            [(reduced(reduction=kind), reduced(reduction=kind, weights=weights)) for kind, *_ in cases],
            (reduced(weights=of_row), reduced(reduction=jl.mean_of_means())),
        ]
    )
    for (kind, *want), (plain, weighed) in zip(cases, got[0], strict=True):
        close(plain, want[0], f"{kind}")
        close(weighed, want[1], f"{kind}, weights")
    close(got[1][0], by_row.sum() / of_row[lists.row].sum(), "a weight for each row")
    close(got[1][1], np.mean(rows), "each row counts the same")


@pytest.mark.slow
def test_segments_of_nothing():
    y = z = np.ones((2, 3), np.float32)
    segments = np.zeros((2, 3), np.int32)

    def of_nothing(loss: Any) -> Any:
        return (
            loss(y, z, segments=segments, where=np.zeros((2, 3), bool)),
            loss(y[:, :0], z[:, :0], segments=segments[:, :0]),
            loss(y[:0], z[:0], segments=segments[:0], reduction="none"),
        )

    found = run(lambda: [of_nothing(jl.LOSSES[name]) for name in NAMES])
    for name, (masked, empty, none) in zip(NAMES, found, strict=True):
        assert masked == empty == 0, name
        assert none.shape == (0, 3), name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pairwise_hinge", "approx_ndcg"])
def test_segments_with_options_of_their_own(name: str):
    """An array holds the option of each list at each of its items."""
    lists, (option,) = Packed.of(), OPTIONS[name]
    values = np.linspace(0.5, 2, len(lists.row)).astype(np.float32)
    each = np.ones(lists.y.shape, np.float32)
    for i, own, value in zip(lists.row, lists.own, values, strict=True):
        each[i, own] = value
    alone = graded(name, lists.y[lists.row], lists.z[lists.row], where=lists.own, **{option: values})
    got = graded(name, *lists[:2], segments=lists.segments, where=lists.where, **{option: each})
    close(got, (lists.placed(alone[0]), lists.summed(alone[1])), "an option for each list", rtol=2e-6, atol=2e-7)


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["tpu"], indirect=True)
def test_segments_in_the_ideal_order(machine: str):
    """A TPU puts the lists of a row beside each other, and their items and options in the ideal order."""
    test_segments_are_rows_of_their_own("approx_ndcg", True)
    test_segments_with_options_of_their_own("approx_ndcg")


@pytest.mark.slow
def test_segments_along_an_axis_and_mapped():
    lists = Packed.of(masked=False)
    want = jl.lambda_rank(*lists[:2], segments=lists.segments, reduction="none")
    got = jl.lambda_rank(lists.y.T, lists.z.T, segments=lists.segments.T, axis=0, reduction="none")
    close(got, want.T, "axis 0")

    def row(y: Any, z: Any, segments: Any) -> Any:
        return jl.lambda_rank(y, z, segments=segments, reduction="none")

    close(jax.vmap(row)(*lists[:3]), want, "vmap")
    close(jax.lax.map(lambda x: row(*x), tuple(map(jnp.asarray, lists[:3]))), want, "lax.map")
    deep = [x.reshape(2, 2, 1, -1) for x in lists[:3]]
    close(row(*deep), want.reshape(deep[0].shape), "more axes")


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(AxisType.Auto, marks=pytest.mark.nightly),
        pytest.param(AxisType.Explicit, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", mostly_slow(NAMES, nightly=set(NAMES) - {"list_softmax", "lambda_rank"}))
def test_segments_sharded(name: str, kind: AxisType):
    """Rows over devices, and their items too."""
    lists = Packed.of(items=12)

    def both(y: Any, z: Any, segments: Any, where: Any) -> Any:
        return graded(name, y, z, segments=segments, where=where)

    want = run(both, *lists[:4])
    mesh = jax.make_mesh((2, 4), ("rows", "items"), axis_types=(kind, kind))
    for spec in (PartitionSpec("rows"), PartitionSpec("rows", "items"), PartitionSpec(None, "items")):
        placed = [jax.device_put(x, NamedSharding(mesh, spec)) for x in lists[:4]]
        got = jax.jit(both)(*placed)
        close(got, want, f"{spec}", rtol=2e-6, atol=2e-7)
        if kind is AxisType.Explicit:
            assert all(x.sharding.is_equivalent_to(placed[0].sharding, x.ndim) for x in got)


@pytest.mark.parametrize("masked", mostly_slow((False, True), nightly=(False,)))
def test_segments_in_shard_map(masked: bool):
    lists = Packed.of(masked=masked)
    mesh = jax.make_mesh((2, 4), ("rows", "items"), axis_types=(AxisType.Auto,) * 2)

    def mean(y: Any, z: Any, segments: Any, where: Any, **options: Any) -> Any:
        return jl.lambda_rank(y, z, segments=segments, where=where if masked else None, **options)

    spread = jax.shard_map(
        functools.partial(mean, reduction=jl.mean_over("rows")),
        mesh=mesh,
        in_specs=(PartitionSpec("rows"),) * 4,
        out_specs=PartitionSpec(),
    )
    graded = functools.partial(jax.value_and_grad, argnums=1)
    close(run(graded(spread), *lists[:4]), run(graded(mean), *lists[:4]), "rows over devices")


def test_segments_are_numbers_of_any_size():
    """Of 64 bits too, where jax has 32: only which ones are equal counts."""
    lists = Packed.of(masked=False)
    far = np.array([-(2**60), 2**40, 2**40 + 1, 2**40 + 2])[lists.segments + 1]
    want = jl.ranknet(*lists[:2], segments=lists.segments)
    assert jl.ranknet(*lists[:2], segments=far) == want
    assert jl.checked(jl.ranknet)(*lists[:2], segments=far) == want
    assert jax.jit(lambda y, z: jl.ranknet(y, z, segments=far))(*lists[:2]) == want


def test_segments_refused():
    y, z, segments, *_ = Packed.of()
    refuses(ValueError, ("ranknet: ", "segments has shape (4, 8)"), jl.ranknet, y, z, segments=segments[:, 1:])
    refuses(ValueError, ("ranknet: ", "segments has shape (9,)"), jl.ranknet, y, z, segments=segments[0])
    refuses(TypeError, ("segments must hold integers", "segments.astype(int)"), jl.ranknet, y, z, segments=segments / 2)
    refuses(ValueError, ("ranknet: ", "axis 2"), jl.ranknet, y, z, segments=segments, axis=2)
    refuses(ValueError, ("weights", "(4, 9)"), jl.ranknet, y, z, segments=segments, weights=np.ones(9))
    refuses(TypeError, ("where must be bool",), jl.ranknet, y, z, segments=segments, where=np.ones(4))
    refuses(ValueError, ("margin", "(4, 9)"), jl.pairwise_hinge, y, z, segments=segments, margin=np.ones(4))
