"""The package as a whole: what importing it costs, what help shows, and that its functions travel and are shared."""

from __future__ import annotations

import concurrent.futures
import copy
import os
import pickle
import pydoc
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ROWS

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
    """16 threads make the first calls of all losses: eight losses at a time, each by two threads at once."""
    rows = list({row.name: row for row in reversed(ROWS)}.values())
    assert {row.name for row in rows} == set(jaxloss.LOSSES)
    rounds = range(0, len(rows), 8)
    together = threading.Barrier(16)

    def calls(thread: int) -> dict[str, np.ndarray]:
        results = {}
        for first in rounds:
            together.wait(60)
            for row in rows[first + thread // 2 : first + 8][:1]:
                loss = row.judged(jaxloss.LOSSES[row.name])
                results[row.name] = np.asarray(loss(*row.make((3,)), **row.options, reduction="none"))
        return results

    jax.clear_caches()
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        found = list(pool.map(calls, range(16)))
    for row in rows:
        one, other = (results[row.name] for results in found if row.name in results)
        np.testing.assert_array_equal(one, other, row.id)
        np.testing.assert_allclose(one, row.losses(row.make((3,))), rtol=1e-4, atol=1e-5, err_msg=row.id)


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
    """10,000 calls, each with a new lambda: what the old ones left must go, whether they were compiled or traced.

    The first 150 are compiled, and then one of 500, each for a new shape, too; the traced ones have 50 shapes. A new
    shape alone, without a new constant, leaves a program in the caches of jax, as for every function under jit.
    """
    code = """
import gc, os, resource, sys, weakref
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
import jax, jax.numpy as jnp, numpy as np, jaxloss
from jaxloss._contract import PROGRAMS

reductions = weakref.WeakSet()

def call(i, y, p):
    def reduction(losses, weights):
        return jnp.sum(losses * weights) + i
    reductions.add(reduction)
    return jaxloss.mse(y, p, reduction=reduction)

def step(i):
    if i < 150 or i % 500 == 0:
        assert call(i, np.zeros(i + 1, np.float32), np.ones(i + 1, np.float32)) == 2 * i + 1
    else:
        shape = jax.ShapeDtypeStruct((i % 50 + 1,), jnp.float32)
        jax.eval_shape(lambda y, p: call(i, y, p), shape, shape)

def most():  # bytes that the process ever held
    gc.collect()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

def programs():
    return len(jax.devices()[0].client.live_executables())

for i in range(10_000):
    step(i)
    if i == 149:
        assert 100 < programs() <= PROGRAMS + 10, f"{programs()} programs of 150 calls are held"
    if i == 1000:
        before = most()
grown = most() - before
assert grown < 30e6, f"{grown / 1e6:.1f} MB more after 10,000 calls than after 1,000"
assert len(reductions) <= PROGRAMS, f"{len(reductions)} lambdas of 10,000 calls are held"
assert programs() <= PROGRAMS + 10, f"{programs()} programs of 10,000 calls are held"
"""
    python(code)
