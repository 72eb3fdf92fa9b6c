"""The package as a whole: what importing it costs, what help shows, and that its functions travel and are shared."""

from __future__ import annotations

import concurrent.futures
import copy
import functools
import os
import pickle
import pydoc
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ROWS
from contract import same_family
from jax.sharding import AxisType, NamedSharding, PartitionSpec

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


@pytest.mark.slow
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
    parts = (
        "y_true: ArrayLike",
        "from_logits: bool = False",
        "label_smoothing: float | ArrayLike = 0.0",
        "axis: int = -1",
    )
    parts += ("reduction: Reduction = mean", "-> Array", "-sum_k y_k log p_k", "(..., K)", "one loss per example")
    parts += ("ValueError", "Example:", "Source:")
    for part in parts:
        assert part in shown, shown


@pytest.mark.parametrize("name", jaxloss.LOSSES)
def test_losses_can_be_pickled_and_copied(name: str):
    loss = jaxloss.LOSSES[name]
    assert pickle.loads(pickle.dumps(loss)) is loss
    assert copy.deepcopy(loss) is loss
    assert getattr(jaxloss, name) is loss


@pytest.mark.slow
def test_threads_share_the_first_call():
    """16 threads make the first calls of a loss of each family: eight at a time, each by two threads."""
    rows = list({same_family(row): row for row in reversed(ROWS)}.values())
    rounds = range(0, len(rows), 8)
    together = threading.Barrier(16)

    def calls(thread: int) -> dict[str, np.ndarray]:
        results = {}
        for first in rounds:
            together.wait(600)
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


CLASSES = 4099  # no block size divides it
CLASS_WEIGHTS = np.linspace(0.5, 2, CLASSES, dtype=np.float32)
LOGITS = {"from_logits": True}
# The options of sparse_cce, and how many float32 copies of the scores its derivative may keep beside itself.
MEMORY: dict[str, tuple[int, dict[str, Any]]] = {
    "logits": (0, LOGITS),
    "logits, masked": (0, LOGITS),
    "logits, smoothed": (0, {**LOGITS, "label_smoothing": 0.1}),
    "logits, weighted": (0, {**LOGITS, "class_weights": CLASS_WEIGHTS}),
    "logits, z_loss": (0, {**LOGITS, "z_loss": 1e-4}),
    "logits, all": (0, {**LOGITS, "label_smoothing": 0.1, "class_weights": CLASS_WEIGHTS, "z_loss": 1e-4}),
    "probabilities": (0, {}),
    "probabilities, weighted": (0, {"class_weights": CLASS_WEIGHTS}),
    "probabilities, smoothed": (1, {"label_smoothing": 0.1}),
    "probabilities, all": (1, {"label_smoothing": 0.1, "class_weights": CLASS_WEIGHTS}),
}


@pytest.mark.skipif(jax.__version_info__ < (0, 10), reason="an older compiler stores what it sums")
@pytest.mark.parametrize("case", MEMORY)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_integer_labels_never_become_one_hot(case: str, dtype: type):
    """Nor is anything else as large as the scores kept: a one-hot even of bytes would be a quarter of them."""
    copies, options = MEMORY[case]
    # In half precision the sums of smoothed probabilities share a widened copy, see RESULTS.md.
    extra = {"probabilities, smoothed": 1, "probabilities, all": 2}
    copies += extra.get(case, 0) if dtype == jnp.bfloat16 else 0
    rows = 512
    shapes = jax.ShapeDtypeStruct((rows,), jnp.int32), jax.ShapeDtypeStruct((rows, CLASSES), dtype)

    def graded(y: Any, z: Any) -> Any:
        where = y >= 0 if "masked" in case else None
        return jax.value_and_grad(lambda z: jaxloss.sparse_cce(y, z, where=where, **options))(z)

    program = jax.jit(graded).lower(*shapes).compile()
    memory = program.memory_analysis()
    assert memory is not None
    some_for_each = 64 * (rows + CLASSES)  # bytes: numbers of a row, and weights of a class
    assert memory.temp_size_in_bytes <= copies * 4 * rows * CLASSES + some_for_each
    # Another array could lie in the memory of the gradient before that is made.
    main = (program.as_text() or "").partition("\nENTRY ")[2]
    large = re.findall(rf"^ *(?:ROOT )?%\S+ = \w+\[{rows},{CLASSES}\]\S* (?!parameter)", main, re.MULTILINE)
    assert len(large) == 1 or copies, large


# Losses of two inputs of this shape, and how many float32 numbers they may store besides.
STORED: dict[str, tuple[Callable[..., Any], tuple[int, ...], int]] = {
    "huber": (jaxloss.huber, (256, CLASSES), 32 * CLASSES + 256),  # an eighth, and the sums of pieces of that
    "mse-masked": (lambda y, p: jaxloss.mse(y, p, where=y > 0), (256, CLASSES), 128 * CLASSES),  # the mask, too
    "cce-logits": (functools.partial(jaxloss.cce, from_logits=True), (256, CLASSES), 16 * 256),
    "list_softmax": (jaxloss.list_softmax, (256, CLASSES), 16 * 256),
    "kl_divergence-logs": (functools.partial(jaxloss.kl_divergence, from_logs=True), (256, CLASSES), 16 * 256),
    "cosine_distance": (jaxloss.cosine_distance, (256, CLASSES), 32 * 256),
    "triplet": (lambda a, p: jaxloss.triplet(a, p, a), (256, CLASSES), 32 * 256),
    "distillation": (jaxloss.distillation, (256, CLASSES), 2 * 256 * CLASSES + 32 * 256),  # what its two sums add
    "list_mle": (jaxloss.list_mle, (32, 128), 36 * 32 * 128),  # some numbers for each item, which is sorted
    "lambda_rank": (jaxloss.lambda_rank, (32, 128), 32 * 128**2 // 2),  # less than one for each pair
}


# Nor do these store inputs of half precision, widened.
HALF = "cce-logits", "kl_divergence-logs"


@pytest.mark.skipif(jax.__version_info__ < (0, 10), reason="an older compiler stores what it sums")
@pytest.mark.parametrize(("case", "dtype"), [*((c, "float32") for c in STORED), *((c, "bfloat16") for c in HALF)])
@pytest.mark.parametrize("graded", [False, True])
def test_no_array_is_stored(case: str, dtype: str, graded: bool):
    loss, shape, numbers = STORED[case]
    function = jax.value_and_grad(loss, 1) if graded else loss
    memory = jax.jit(function).lower(*[jax.ShapeDtypeStruct(shape, dtype)] * 2).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes <= 4 * numbers


def test_a_sum_in_parts_moves_nothing():
    """Each device adds its own losses, since the parts of a spread array would lie elsewhere."""
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    here = NamedSharding(mesh, PartitionSpec("batch"))
    x = jax.ShapeDtypeStruct((512, 64), jnp.float32, sharding=here)
    where = jax.ShapeDtypeStruct(x.shape, bool, sharding=here)
    graded = jax.value_and_grad(lambda y, p, where: jaxloss.mse(y, p, where=where), 1)
    text = jax.jit(graded).lower(x, x, where).compile().as_text() or ""
    moved = re.findall(r"= (\S+) (all-gather|all-to-all|collective-permute|all-reduce)(?:-start)?\(", text)
    assert {how for _, how in moved} == {"all-reduce"}, moved
    assert not re.search(r"\[\d+,\d+\]", " ".join(what for what, _ in moved)), moved


ELEMENTS, TABLE, EXAMPLES = (10_000_000,), (10_000, 1000), (100_000, 100)
MILLIONS: dict[str, tuple[tuple[int, ...], dict[str, Any], Callable[..., np.ndarray]]] = {
    "mse": (ELEMENTS, {}, lambda y, p: (p - y) ** 2),
    "mse-table": (TABLE, {}, lambda y, p: (p - y) ** 2),
    "mae": (ELEMENTS, {}, lambda y, p: abs(p - y)),
    "huber": (ELEMENTS, {}, lambda y, p: np.where(abs(p - y) <= 1, (p - y) ** 2 / 2, abs(p - y) - 0.5)),
    "log_cosh": (ELEMENTS, {}, lambda y, p: np.logaddexp(p - y, y - p) - np.log(2)),
    "bce": (ELEMENTS, LOGITS, lambda y, p: np.logaddexp(0, p) - y * p),
    "sparse_cce": (EXAMPLES, LOGITS, lambda y, p: np.log(np.exp(p).sum(-1)) - p[np.arange(len(p)), y]),
    "kl_divergence": (EXAMPLES, {}, lambda y, p: (y * np.log(y / p)).sum(-1)),
}


def simplex(z: np.ndarray) -> np.ndarray:
    p = np.exp(z)
    return p / p.sum(-1, keepdims=True)


@pytest.mark.slow
@pytest.mark.parametrize("case", MILLIONS)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_the_mean_of_ten_million(case: str, dtype: type):
    """Within one eps of float32, relatively: half precision is widened before the first difference."""
    shape, options, formula = MILLIONS[case]
    name = case.partition("-")[0]
    rng = np.random.default_rng(0)
    y, p = (rng.normal(size=shape) for _ in range(2))
    if name == "kl_divergence":
        y, p = simplex(y), simplex(p)
    p = p.astype(dtype)
    if name == "sparse_cce":
        y = rng.integers(shape[-1], size=shape[:-1]).astype(np.int32)
        exact = np.mean(formula(y, p.astype(np.float64)))
    else:
        y = (abs(y) % 1 if name == "bce" else y).astype(dtype)
        exact = np.mean(formula(y.astype(np.float64), p.astype(np.float64)))
    assert abs(float(jaxloss.LOSSES[name](y, p, **options)) - exact) <= np.finfo(np.float32).eps * exact


@pytest.mark.nightly
def test_nothing_grows():
    """10,000 calls, each with a new lambda: what the old ones left must go, whether they were compiled or traced.

    The first 150 are compiled, and then one of 500, each for a new shape, too; the traced ones have 50 shapes. A new
    shape alone, without a new constant, leaves a program in the caches of jax, as for every function under jit.
    """
    code = """
import gc, os, resource, sys, weakref
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
import jax, jax.numpy as jnp, numpy as np, jaxloss
from jaxloss._contract.types import PROGRAMS

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
