"""The outputs that the documentation promises, to six digits: called with lists and arrays, eagerly and compiled."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss

DOCUMENTED = [
    ("cce", [[0, 1, 0], [0, 0, 1]], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]], 1.176939),
    ("bce", [[0], [1]], [[0.4], [0.6]], 0.5108254),
    ("mae", [[0.0], [0.0]], [[1.0], [1.0]], 1.0),
    ("mse", [[0.0], [1.0]], [[1.0], [1.0]], 0.5),
    ("huber", [[0], [1]], [[0.6], [0.4]], 0.18),
]


@pytest.mark.parametrize("call", ["lists", "arrays", "lists, compiled", "arrays, compiled"])
@pytest.mark.parametrize(("name", "y_true", "y_pred", "output"), DOCUMENTED, ids=[row[0] for row in DOCUMENTED])
def test_documented(name: str, y_true: Any, y_pred: Any, output: float, call: str):
    loss = jaxloss.LOSSES[name]
    if "arrays" in call:
        y_true, y_pred = jnp.asarray(y_true), jnp.asarray(y_pred)
    if "compiled" in call:
        loss = jax.jit(loss)
    result = loss(y_true, y_pred)
    chex.assert_shape(result, ())
    chex.assert_type(result, jnp.float32)
    chex.assert_trees_all_close(result, jnp.asarray(output), rtol=0, atol=1e-6)
    chex.assert_tree_all_finite(jax.grad(lambda p: loss(y_true, p))(jnp.asarray(y_pred)))


def test_sparse_cce_is_cce_of_the_one_hot():
    labels, p = np.array([1, 2]), np.array([[0.05, 0.95, 0], [0.1, 0.8, 0.1]], np.float32)
    chex.assert_trees_all_close(jaxloss.sparse_cce(labels, p), jaxloss.cce(np.eye(3)[labels], p), rtol=1e-7)
