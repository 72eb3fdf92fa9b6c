"""Rows that are sorted, and sums along them, in the forms of all machines."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import close

from jaxloss._numerics.order import at_place, in_order, put_back, running

KEYS = {
    "float32": np.array(
        [0.5, 0, -1, -0.0, 3e38, 1, np.inf, 1e-37, -np.nan, -3e38, np.nan, -np.inf, 1, 0.5, -1e-37], np.float32
    ),
    "int32": np.array([3, -1, 2**31 - 1, 0, -1, -(2**31), 3], np.int32),
    "float16": np.array([0.5, -2, 0.5, 0], np.float16),
}


@pytest.mark.parametrize("machine", ["cpu", "tpu"], indirect=True)
@pytest.mark.parametrize("dtype", KEYS)
def test_in_order(dtype: str, machine: str):
    """Equal numbers, 0 and -0 among them, as they stand, NaN of either sign last; and back again."""
    key = np.stack([KEYS[dtype], KEYS[dtype][::-1]])
    wanted = np.argsort(key, kind="stable")
    order, found, flags = jax.jit(in_order)(key, key, key > 0)
    np.testing.assert_array_equal(order, wanted)
    np.testing.assert_array_equal(found, np.take_along_axis(key, wanted, 1))
    np.testing.assert_array_equal(flags, np.take_along_axis(key > 0, wanted, 1))
    np.testing.assert_array_equal(jax.jit(put_back)(order, found), key)


@pytest.mark.parametrize("machine", ["cpu", "tpu"], indirect=True)
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("sizes", [(1,), (8,), (1, 4, 2, 1, 5), (3, 70)])
def test_sums_along_a_row(sizes: tuple[int, ...], after: bool, machine: str):
    """Of exponents that no exponential could hold, in each stretch by itself."""
    size, rng = sum(sizes), np.random.default_rng(0)
    begin = np.repeat(np.cumsum((0, *sizes[:-1])), sizes)
    end = begin + np.repeat(sizes, sizes) - 1
    m = (100 * rng.normal(size=size)).astype(np.float32)
    s = rng.random(size).astype(np.float32)

    @jax.jit
    def found(m: Any, s: Any) -> Any:
        sums = running((m, s), jnp.asarray(end if after else begin), after)
        of_all = at_place(sums, jnp.asarray(begin if after else end), after=not after)
        return sums, of_all

    for (top, total), whole in zip(found(m, s), (False, True), strict=True):
        for i in range(size):
            ahead = slice(i, end[i] + 1) if after else slice(begin[i], i + 1)
            part = slice(begin[i], end[i] + 1) if whole else ahead
            assert top[i] == m[part].max()
            close(total[i], (s[part] * np.exp(m[part].astype(np.float64) - m[part].max())).sum(), f"{i}", rtol=2e-6)
