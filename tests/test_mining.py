"""Mining against a search by hand."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss
from jaxloss.mining import hardest_negative, hardest_positive, semi_hard_negative


def by_hand(labels: Any, d: Any, exists: Any, choose: Any, allowed: Any) -> tuple[list[int], list[bool]]:
    """The chosen one of the allowed candidates, of all anchors that exist, one by one."""
    places, found = [], []
    for i in range(len(labels)):
        others = [j for j in range(len(labels)) if j != i and exists[i] and exists[j] and allowed(i, j)]
        places.append(choose(others, key=lambda j, i=i: d[i, j]) if others else 0)
        found.append(bool(others))
    return places, found


@pytest.mark.parametrize("seed", range(4))
def test_what_is_chosen(seed: int):
    rng = np.random.default_rng(seed)
    labels, exists = rng.integers(0, 4, 12), rng.random(12) < 0.8
    d = rng.integers(1, 9, (12, 12)).astype(np.float32)  # with ties
    spoiled = np.where(exists[:, None] & exists, d, np.nan)
    wanted = by_hand(labels, d, exists, max, lambda i, j: labels[i] == labels[j])
    positive = jax.jit(hardest_positive)(labels, spoiled, where=exists)
    np.testing.assert_array_equal(positive, wanted)
    wanted = by_hand(labels, d, exists, min, lambda i, j: labels[i] != labels[j])
    np.testing.assert_array_equal(jax.jit(hardest_negative)(labels, spoiled, where=exists), wanted)
    far = lambda i, j: labels[i] != labels[j] and d[i, j] > spoiled[i, positive[0][i]]  # noqa: E731
    negative = jax.jit(semi_hard_negative)(labels, spoiled, positive[0], where=exists)
    np.testing.assert_array_equal(negative, by_hand(labels, d, exists, min, far))
    both = jax.vmap(hardest_positive)(np.stack([labels] * 2), np.stack([d, d.T]))
    np.testing.assert_array_equal(both[0][1], hardest_positive(labels, d.T)[0])


def test_triplets_of_what_is_chosen():
    """Anchors without a positive or a negative are masked; the gradient is finite."""
    x, labels = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32), np.array([1, 1, 1, 2, 2, 2, 9])

    def loss(x: Any) -> Any:
        square = jnp.sum((x[:, None] - x[None]) ** 2, axis=-1)
        positive, some = hardest_positive(labels, square)
        negative, others = hardest_negative(labels, square)
        return jaxloss.triplet(x, x[positive], x[negative], where=some & others, reduction="none")

    d, alike = np.linalg.norm(x[:, None] - x[None], axis=-1), labels[:, None] == labels
    want = np.maximum(1 + np.where(alike, d, 0).max(1) - np.where(alike, np.inf, d).min(1), 0)
    np.testing.assert_allclose(loss(x), np.where(labels == 9, 0, want), rtol=1e-5)
    assert np.isfinite(jax.grad(lambda x: loss(x).sum())(x)).all()


def test_refuses():
    d = np.zeros((3, 3), np.float32)
    with pytest.raises(
        ValueError, match=r"hardest_positive: n labels need .*labels have shape \(2,\), distances \(3, 3\)"
    ):
        hardest_positive([0, 1], d)
    with pytest.raises(TypeError, match="hardest_negative: labels must be integers, got float32"):
        hardest_negative([0.0, 1.0, 1.0], d)
    with pytest.raises(TypeError, match="where must be bool"):
        hardest_negative([0, 1, 1], d, where=[1, 1, 1])
    with pytest.raises(ValueError, match="semi_hard_negative: positives must be 3 integers"):
        semi_hard_negative([0, 1, 1], d, [0, 1])
