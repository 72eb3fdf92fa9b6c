"""Logarithms and sums that have forms of their own on some machines."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from contract import mostly_slow

from jaxloss._numerics.elementary import log1p, log1p_of_fraction
from jaxloss._platform import cpu, x64

ENDS = [0, -0.0, 1, 1e-30, -1e-30, 2.0**-24, 0.4142135, 0.4142137]


def numbers(dtype: type, fractions: bool, count: int) -> np.ndarray:
    """From -1 to the largest, or of [0, 1]; many near each power of two."""
    rng, info = np.random.default_rng(0), np.finfo(dtype)
    small = np.exp(rng.uniform(np.log(info.tiny), 0, count))
    if fractions:
        return np.concatenate([ENDS, rng.random(count), small]).astype(dtype)
    large = np.exp(rng.uniform(0, np.log(info.max), count))
    near = 2.0 ** rng.integers(-20, 100, count) * (1 + rng.normal(size=count) / 1e3) - 1
    inside = [*ENDS, info.max, info.max / 2, info.max / 1.5, info.eps / 2 - 1]
    return np.concatenate([inside, small, -small[small < 0.5], large, near]).astype(dtype)


@pytest.mark.parametrize("function", [log1p, log1p_of_fraction])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log1p(function: Any, dtype: type):
    """Off by less than two units in the last place, and as jax.numpy has it where there is nothing to round."""
    x = numbers(dtype, function is log1p_of_fraction, 100_000 if dtype == np.float32 else 500)
    with x64():
        found = np.asarray(jax.jit(function)(jnp.asarray(x)))
    assert found.dtype == dtype
    if dtype == np.float32:
        truth = np.log1p(x.astype(np.float64))
        error = np.abs(found - truth)
    else:
        exact = [mp.log1p(mp.mpf(float(number))) for number in x]
        error = np.array([float(abs(mp.mpf(float(a)) - b)) for a, b in zip(found, exact, strict=True)])
        truth = np.array([float(b) for b in exact])
    assert (error <= 2 * np.spacing(np.abs(truth).astype(dtype))).all()


def test_log1p_at_its_ends():
    found = jax.jit(log1p)(jnp.array([np.inf, np.nan, -1]))
    assert found[0] == np.inf
    assert np.isnan(found[1])
    assert found[2] <= np.log(np.finfo(np.float32).tiny)


@pytest.mark.parametrize("shape", [(63,), (64,), (1000,), (1003,), (3, 1000), (70, 3), (2, 71, 3), (5, 1024), (9000,)])
@pytest.mark.parametrize("dtype", mostly_slow([np.float32, np.int32], np.float32))
def test_a_sum_in_parts(shape: tuple[int, ...], dtype: type):
    """Each number counts once, along any axes; a NaN or an infinity is not lost."""
    x = np.random.default_rng(0).integers(-9, 9, shape).astype(dtype)
    for axes in ((), *((i,) for i in range(x.ndim)), tuple(range(x.ndim - 1)) or (0,)):
        found = jax.jit(lambda x, axes=axes: cpu.total(x, *axes))(x)
        np.testing.assert_array_equal(found, x.sum(axes or None))
        mapped = jax.jit(jax.vmap(lambda x, axes=axes: cpu.total(x, *axes), in_axes=1, out_axes=-1))
        np.testing.assert_array_equal(mapped(np.stack([x, 2 * x], 1)), np.stack([found, 2 * found], -1))
    if dtype == np.float32:
        for number in (np.nan, np.inf):
            places = np.random.default_rng(1).integers(0, x.size, 3)
            for place in (0, *places, x.size - 1):
                spoilt = x.copy()
                spoilt.flat[place] = number
                np.testing.assert_equal(np.asarray(jax.jit(cpu.total)(spoilt)), np.float32(number))
