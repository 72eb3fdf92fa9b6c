"""Ranking losses where lists are short, padded or tied, and against optax."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import close, refuses, run

import jaxloss as jl
from jaxloss.ranking import __all__ as NAMES

QUICK = ("list_softmax", "lambda_rank")
EACH = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in NAMES]
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
