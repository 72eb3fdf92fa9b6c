"""Second derivatives where a formula is smooth but its computation changes sides, against mpmath."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from cases import ROWS, Row
from contract import same_in_family, when, x64

import jaxloss

mp: Any = mpmath.mp  # its functions are not all in its types


def bce(z: Any) -> Any:
    return mp.log(1 + mp.exp(z)) - mp.mpf("0.3") * z


def soft_margin(z: Any) -> Any:
    return mp.log(1 + mp.exp(-z))


def focal(gamma: Any) -> Callable[[Any], Any]:
    return lambda z: (1 / (1 + mp.exp(z))) ** gamma * mp.log(1 + mp.exp(-z))


def negative_binomial(log_mean: Any) -> Any:
    """With a = 1/2, so n = 2, and y = 3, but for what does not depend on the mean."""
    m = mp.exp(log_mean)
    return 5 * mp.log(2 + m) - 3 * mp.log(m)


AT_0: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "bce": (lambda z: jaxloss.bce([0.3], z, from_logits=True), bce),
    "multilabel_soft_margin": (lambda z: jaxloss.multilabel_soft_margin([[1.0]], z[None]), soft_margin),
    "soft_margin": (lambda z: jaxloss.soft_margin([1.0], z), soft_margin),
    "binary_focal": (lambda z: jaxloss.binary_focal([1.0], z, from_logits=True), focal(2)),
    "binary_focal, a root": (lambda z: jaxloss.binary_focal([1.0], z, from_logits=True, gamma=0.5), focal(mp.mpf(0.5))),
    "negative_binomial_nll": (
        lambda z: jaxloss.negative_binomial_nll([3.0], z, jnp.full_like(z, 0.5), log_rate=True),
        negative_binomial,
    ),
    # x = b e: alpha / b ((1 + x) log(1 + x) - x), whose second derivative at 0 is alpha b, b = exp(gamma / alpha) - 1
    "balanced_l1": (lambda e: jaxloss.balanced_l1(0 * e, e), lambda e: mp.mpf(0.5) * mp.expm1(3) * e * e / 2),
}


@pytest.mark.parametrize("name", AT_0)
def test_second_derivative_at_0(name: str):
    loss, formula = AT_0[name]
    with x64():
        zero = np.zeros(1)
        reverse = jax.jacobian(jax.grad(loss))(zero)
        forward = jax.jvp(jax.grad(loss), (zero,), (np.ones(1),))[1]
    want = float(mp.diff(formula, 0, 2))
    np.testing.assert_allclose(np.ravel(reverse), want, rtol=1e-10)
    np.testing.assert_allclose(np.ravel(forward), want, rtol=1e-10)


TRACED = ("barron-alpha 1", "cauchy", "dpo", "student_t_nll", "triplet")
EACH = when(ROWS, alike=lambda row: row.id if row.name in TRACED else None, slow=same_in_family)


@pytest.mark.parametrize("row", [pytest.param(row, id=row.id, marks=marks) for row, marks in EACH])
def test_hessians_of_a_batch(row: Row):
    """By all inputs, of a batch with an axis, and a third derivative: all have their shapes."""
    arrays, places = row.make((2,)), row.differentiable
    loss = row.judged(jaxloss.LOSSES[row.name])

    def mean(*arrays: Any) -> Any:
        return loss(*arrays, **row.options)

    def third(*arrays: Any) -> Any:
        slope = jax.grad(mean, places[0])
        bend = jax.grad(lambda *a: jnp.sum(slope(*a)), places[0])
        return jax.grad(lambda *a: jnp.sum(bend(*a)), places[0])(*arrays)

    hessian = jax.eval_shape(jax.hessian(mean, places), *arrays)
    shapes = [np.shape(arrays[i]) for i in places]
    want = [[one + other for other in shapes] for one in shapes]
    assert [[x.shape for x in found] for found in hessian] == want
    assert jax.eval_shape(third, *arrays).shape == np.shape(arrays[places[0]])


@pytest.mark.parametrize("gamma", [0.5, 1, 1.5, 2.5])
def test_a_power_of_no_error(gamma: float):
    """The loss of a class that is certain is flat in its logits, and that of dense targets is linear in them."""

    def loss(y: Any, z: Any) -> Any:
        return jaxloss.categorical_focal(y, z, from_logits=True, gamma=gamma)

    y, z = jnp.array([[0.7, 0.3, 0]]), jnp.array([[1e4, 0, -1e4]])
    np.testing.assert_array_equal(jax.hessian(loss)(y, z), 0)
    np.testing.assert_array_equal(jax.hessian(loss, 1)(jnp.array([[1.0, 0, 0]]), z), 0)
