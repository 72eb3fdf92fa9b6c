"""Losses of rows of logits where the program around them is no plain one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from contract import close, mostly_slow, run

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


@pytest.mark.parametrize("machine", ["cpu", "gpu"], indirect=True)
@pytest.mark.parametrize("classes", mostly_slow((40_960, 32_771), 40_960))
def test_long_rows(classes: int, machine: str):
    """In pieces, and whole where the length is prime: against float64, and of no rows at all."""
    rng = np.random.default_rng(2)
    z, a = (10 * rng.normal(size=(2, classes)).astype(np.float32) for _ in range(2))
    z[1, 5] = 90  # near certain
    label = np.array([classes - 1, 5])
    one_hot = (np.arange(classes) == label[:, None]).astype(np.float32)
    (p, log_p), (q, log_q) = map(softmax, (z, a))
    q = q.astype(np.float32)
    cross, entropy = (-np.sum(q * x, axis=1) for x in (log_p, log_q))
    want = {
        "sparse_cce": (-log_p[one_hot == 1], p - one_hot),
        "cce": (cross, p - q),
        "distillation": (cross - entropy, p - q),
        "kl_divergence": (cross - entropy, p - q),
        "categorical_focal": (-np.sum(q * (1 - p) ** 2 * log_p, axis=1), None),
    }

    def found(label: Any, q: Any, a: Any, z: Any) -> Any:
        losses = {
            "sparse_cce": lambda z: jl.sparse_cce(label, z, from_logits=True, reduction="none"),
            "cce": lambda z: jl.cce(q, z, from_logits=True, reduction="none"),
            "distillation": lambda z: jl.distillation(a, z, reduction="none"),
            "kl_divergence": lambda z: jl.kl_divergence(q, z, from_logits=True, reduction="none"),
            "categorical_focal": lambda z: jl.categorical_focal(q, z, from_logits=True, reduction="none"),
        }
        return {name: (loss(z), jax.grad(lambda z, loss=loss: jnp.sum(loss(z)))(z)) for name, loss in losses.items()}

    for name, (value, slope) in run(found, label, q, a, z).items():
        close(value, want[name][0], name, rtol=1e-5)
        if want[name][1] is not None:
            close(slope, want[name][1], name, rtol=1e-4, atol=1e-7)
    nothing = run(found, label[:0], q[:0], a[:0], z[:0])
    assert all(value.shape == (0,) and slope.shape == (0, classes) for value, slope in nothing.values())


def softmax(z: Any) -> tuple[Any, Any]:
    log = z.astype(np.float64) - scipy.special.logsumexp(z.astype(np.float64), axis=1, keepdims=True)
    return np.exp(log), log


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
