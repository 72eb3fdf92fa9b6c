"""`partials`: an elementwise function with derivatives by hand, under every transformation of jax."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import jaxloss as jl
from jaxloss._platform import cpu
from jaxloss.contract import partials


@partials(lambda x, a: a * jnp.cos(a * x), lambda x, a: x * jnp.cos(a * x))
def wave(x, a):
    return jnp.sin(a * x)


@partials(lambda x, a: jnp.full((), 3, x.dtype), lambda x, a: jnp.ones((), x.dtype))
def plane(x, a):
    return 3 * x + a


def as_jax_differentiates(x, a):
    return jnp.sin(a * x)


X, A = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4), np.array([0.5, 1, 2], np.float32)


@pytest.mark.parametrize("places", [(0, 0), (0, None), (1, 0), (1, None), (None, 0)])
def test_arrays_beside_numbers_are_mapped_together(places):
    x = {0: X, 1: X.T, None: X[0]}[places[0]]
    a = A if places[1] == 0 else A[0]
    for function, truth in ((wave, as_jax_differentiates), (jax.grad(total(wave), (0, 1)), jax.grad(total(), (0, 1)))):
        found, expected = (jax.vmap(f, places)(x, jnp.asarray(a)) for f in (function, truth))
        jax.tree.map(lambda f, e: np.testing.assert_allclose(f, e, atol=1e-6), found, expected)


def total(function=as_jax_differentiates):
    return lambda x, a: jnp.sum(function(x, a))


@pytest.mark.parametrize(("function", "formula"), [(wave, as_jax_differentiates), (plane, lambda x, a: 3 * x + a)])
def test_second_derivatives_of_mapped_functions(function, formula):
    found, expected = (jax.vmap(jax.hessian(total(f), (0, 1)))(X, A) for f in (function, formula))
    jax.tree.map(lambda f, e: np.testing.assert_allclose(f, e, atol=1e-6), found, expected)


def test_forward_mode_and_linearize():
    moved = jnp.ones_like(X), jnp.float32(0)
    primals = X, jnp.float32(2)
    value, slope = jax.jvp(wave, primals, moved)
    np.testing.assert_allclose(value, np.sin(2 * X), atol=1e-6)
    np.testing.assert_allclose(slope, 2 * np.cos(2 * X), atol=1e-6)
    np.testing.assert_allclose(jax.linearize(wave, *primals)[1](*moved), slope, atol=1e-6)


@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
def test_on_devices(kind):
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(kind,))
    x = jax.device_put(np.tile(X, (2, 1)), jax.NamedSharding(mesh, P("batch")))
    a = jax.device_put(jnp.float32(2), jax.NamedSharding(mesh, P()))
    expected = jax.grad(total(), (0, 1))(np.tile(X, (2, 1)), jnp.float32(2))
    found = jax.jit(jax.grad(total(wave), (0, 1)))(x, a)

    @jax.shard_map(mesh=mesh, in_specs=(P("batch"), P()), out_specs=(P("batch"), P()))
    def on_each(x, a):  # jax adds up over the devices what a number that they share moves
        return jax.grad(total(wave), (0, 1))(x, a)

    for result in (found, on_each(x, a)):
        jax.tree.map(lambda f, e: np.testing.assert_allclose(f, e, rtol=1e-5), result, expected)


def test_what_is_not_elementwise_is_refused():
    mean = partials(lambda x: jnp.ones_like(x) / x.size)(lambda x: jnp.mean(x))
    with pytest.raises(ValueError, match=r"partials: the function returned an array of shape \(\).*\(3, 4\)"):
        mean(jnp.asarray(X))
    with pytest.raises(ValueError, match="not elementwise"):
        jax.jit(mean)(jnp.asarray(X))


def test_outside_jit_a_derivative_is_one_step():
    """Otherwise each step would be dispatched, and a NaN that `jnp.where` leaves out reported."""
    grown = partials(lambda x: jnp.where(x > 0, 1 + 0 * jnp.exp(-x), 0))(lambda x: jnp.maximum(x, 0))
    x = jnp.array([-1000.0, 1.0])
    with jax.debug_nans(True):
        np.testing.assert_array_equal(jax.grad(jax.checkpoint(lambda x: jnp.sum(grown(x))))(x), [0, 1])


def test_without_jit_at_all():
    y, p = np.array([1.0, 0.0], np.float32), np.array([0.2, 0.3], np.float32)

    def loss(p: Any) -> Any:  # the terms of df alone are made of constants
        return jl.student_t_nll(y, p, np.ones(2), full=True)

    compiled = jax.value_and_grad(loss)(p)
    with jax.disable_jit():
        np.testing.assert_allclose(np.hstack(jax.value_and_grad(loss)(p)), np.hstack(compiled), rtol=1e-6)


@pytest.mark.parametrize("reduction", ["mean", jl.mean_of_means()])
@pytest.mark.parametrize("size", [1e-22, 1.0, 1e25])
def test_by_weights_of_any_size(size: float, reduction: Any):
    """(l_i - mean) / sum(w), which holds the square of no sum."""
    y, p, w = np.array([1.0, 0.0, 1.0]), np.array([0.2, 0.3, 0.9]), size * np.array([1.0, 2.0, 0.5])
    losses = (p - y) ** 2
    by_weights = jax.grad(lambda w: jl.mse(y, p, weights=w, reduction=reduction))(jnp.asarray(w, jnp.float32))
    np.testing.assert_allclose(by_weights, (losses - losses @ w / w.sum()) / w.sum(), rtol=2e-6)


def test_a_derivative_made_of_others_shares_nothing_with_the_value():
    y, z = np.ones((512, 512), np.float32), np.zeros((512, 512), np.float32)
    program = jax.jit(jax.value_and_grad(functools.partial(jl.binary_focal, from_logits=True), 1)).lower(y, z)
    stored: Any = program.compile().memory_analysis()
    assert stored.temp_size_in_bytes <= 1.001 * z.nbytes  # jax 0.7.2 stores 1 KB more


@pytest.mark.parametrize("keep", [[[True, False, True], [False, True, True]], [True, False]])
def test_what_is_kept_of_an_array_in_common(keep: list[Any]):
    """`vmap` over what is to be kept alone spreads the array, and sums in the transpose."""
    x, keep_ = jnp.arange(1.0, 4.0), jnp.asarray(keep)
    mapped = jax.jit(jax.vmap(lambda k: cpu.kept(x, k)))(keep_)
    want = np.where(np.reshape(keep, (2, -1)), x, 0)
    assert np.array_equal(mapped, want)
    moved = jax.jit(jax.grad(lambda x: jax.vmap(lambda k: cpu.kept(x, k))(keep_).sum()))(x)
    assert np.array_equal(moved, (want != 0).sum(0))
