"""Losses of rows of logits where the program around them is no plain one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import close, run

import jaxloss as jl
from jaxloss._numerics.rows import joined, part_of

LABELS = np.arange(6) % 5
ONE_HOT = np.eye(5, dtype=np.float32)[LABELS]
ROWS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "sparse_cce": lambda label, one_hot, z: jl.sparse_cce(label, z, from_logits=True, label_smoothing=0.1, z_loss=0.1),
    "cce": lambda label, one_hot, z: jl.cce(one_hot, z, from_logits=True, z_loss=0.1),
    "categorical_focal": lambda label, one_hot, z: jl.categorical_focal(one_hot, z, from_logits=True),
    "linear_cce": lambda label, one_hot, z: jl.linear_cce(label, z, np.eye(5, dtype=np.float32)),
}


@pytest.mark.parametrize("name", ROWS)
def test_logits_that_the_same_program_computes(name: str):
    """The compiler may compute them twice, and round them differently."""
    rng = np.random.default_rng(0)
    hidden, bias = rng.normal(size=(6, 4)), rng.normal(size=(1, 5))
    kernel = 2 * rng.normal(size=(4, 5))
    hidden, kernel, bias = (x.astype(np.float32) for x in (hidden, kernel, bias))

    def loss(hidden: Any) -> Any:
        return ROWS[name](LABELS, ONE_HOT, 3 * jnp.tanh((jnp.dot(hidden, kernel) + bias) / 3))

    apart = ROWS[name](LABELS, ONE_HOT, jnp.asarray(3 * np.tanh((hidden @ kernel + bias) / 3)))
    close(run(loss, hidden), apart, name, rtol=1e-5)
    close(run(lambda hidden: jax.value_and_grad(loss)(hidden)[0], hidden), apart, name, rtol=1e-5)


@pytest.mark.parametrize("name", ROWS)
def test_second_derivatives_inside_a_scan(name: str):
    """Also for a tie of the two largest logits: jax takes no rule there for what a first derivative computes."""
    z = np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)
    z[2, :2] = 4
    moved = np.cos(z)

    def inside(z: Any) -> Any:
        chunks = [x.reshape(3, 2, *x.shape[1:]) for x in (LABELS, ONE_HOT, z)]
        return jax.lax.scan(lambda total, chunk: (total + ROWS[name](*chunk), None), 0.0, tuple(chunks))[0] / 3

    def outside(z: Any) -> Any:
        return ROWS[name](LABELS, ONE_HOT, z)

    def second(loss: Any) -> Any:
        slope = jax.grad(loss)
        return jax.jvp(slope, (z,), (moved,))[1], jax.vjp(slope, z)[1](moved)[0]

    got, want = run(lambda: (second(inside), second(outside)))
    close(got, want, name, rtol=1e-5, atol=1e-6)


def test_parts_of_a_row_are_joined_in_any_order():
    """Entry by entry and in pairs, of ties and of excluded classes too: a compiler may do either."""
    lowest = -float(np.finfo(np.float32).max)
    for row in ([1, 4, 4, -2], [-np.inf, -np.inf, 3, 2], [-np.inf] * 4, [2, -np.inf, -np.inf, -80]):
        one, two, three, four = (part_of(jnp.asarray(x, jnp.float32)) for x in row)
        largest = max(*row, lowest)
        others = np.exp(np.delete(np.array(row), np.argmax(row)) - largest).sum()
        want = largest, others if max(row) > -np.inf else -1
        for found in (joined(joined(joined(one, two), three), four), joined(joined(one, two), joined(three, four))):
            np.testing.assert_allclose(found, want, rtol=1e-6)
