"""The package as a whole: what importing it costs, what help shows, and that its functions travel and are shared."""

from __future__ import annotations

import concurrent.futures
import copy
import gc
import os
import pickle
import pydoc
import subprocess
import sys
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss


def python(code: str, *flags: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, *flags, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_importing_is_light():
    """Neither chex nor optax nor checkify, no configuration changed, no backend started, no warning."""
    code = """
import sys, jax
before = dict(jax.config.values)
import jaxloss
heavy = {"chex", "optax", "jax.experimental.checkify"} & set(sys.modules)
assert not heavy, f"imported: {heavy}"
assert dict(jax.config.values) == before, "the configuration changed"
from jax._src import xla_bridge
assert not xla_bridge._backends, "a backend was started"
"""
    python(code, "-W", "error")


def test_without_asserts():
    """python -O drops assert statements; the checks must not be among them."""
    code = """
import jaxloss
try:
    jaxloss.mse([1.0], [[1.0]])
except ValueError as error:
    print(error)
"""
    assert "mse: y_true has shape (1,), y_pred has shape (1, 1)" in python(code, "-O")


def test_help_shows_the_whole_signature():
    shown = pydoc.plain(pydoc.render_doc(jaxloss.cce)).replace("'", "")
    parts = ("y_true: ArrayLike", "from_logits: bool = False", "label_smoothing: float | Array = 0.0", "axis: int = -1")
    parts += ("reduction: Reduction = mean", "-> Array", "-sum_k y_k log p_k", "(..., K)", "one loss an example")
    parts += ("ValueError", "Example:", "Source:")
    for part in parts:
        assert part in shown, shown


@pytest.mark.parametrize("name", jaxloss.LOSSES)
def test_losses_can_be_pickled_and_copied(name: str):
    loss = jaxloss.LOSSES[name]
    assert pickle.loads(pickle.dumps(loss)) is loss
    assert copy.deepcopy(loss) is loss
    assert getattr(jaxloss, name) is loss


def test_threads_share_the_first_call():
    y = np.linspace(0, 1, 7, dtype=np.float32)

    def call(i: int) -> float:
        return float(jaxloss.huber(y, y + i % 3, delta=0.5 + i % 4))

    alone = [call(i) for i in range(32)]
    jax.clear_caches()
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        together = list(pool.map(call, range(32)))
    np.testing.assert_array_equal(together, alone)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(10_000_000,), (10_000, 1000)])
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_the_mean_of_ten_million(shape: tuple[int, ...], dtype: type):
    """As exact as one rounding to float32: half precision is widened before the first difference."""
    rng = np.random.default_rng(0)
    y, p = (rng.normal(size=shape).astype(dtype) for _ in range(2))
    exact = np.mean((p.astype(np.float64) - y.astype(np.float64)) ** 2)
    assert abs(float(jaxloss.mse(y, p)) - exact) <= np.spacing(np.float32(exact))


@pytest.mark.slow
def test_nothing_grows():
    """A new lambda at every step makes a new program each time: the old ones must go."""

    def step(i: int) -> None:
        jaxloss.mse(jnp.zeros(i % 50 + 1), jnp.ones(i % 50 + 1), reduction=lambda l, w: jnp.sum(l * w) + i)

    for i in range(150):
        step(i)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for i in range(150):
        step(i)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 20e6, f"150 calls left {grown / 1e6:.1f} MB behind"
