"""linear_cce is sparse_cce of logits that nobody holds: the same numbers, in the memory of a chunk, on many devices.

Its kernel has no batch axis, so that the generic checks of contract.py do not fit; the same promises are kept here.
"""

from __future__ import annotations

import functools
import inspect
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import close, mostly_slow, refuses, run, x64
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxloss
from jaxloss import linear_cce, linear_cce_stats, mean_over, sparse_cce
from jaxloss._numerics.chunks import chunk_count, chunk_counts

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def inputs(batch: tuple[int, ...], features: int, classes: int, scale: float = 1.0) -> Arrays:
    """Labels, hidden, kernel, bias; the logits have this standard deviation."""
    rng = np.random.default_rng([*batch, features, classes])
    hidden = scale * rng.normal(size=(*batch, features))
    kernel = rng.normal(size=(features, classes)) / features**0.5
    bias = scale * rng.normal(size=classes)
    labels = rng.integers(classes, size=batch).astype(np.int32)
    return labels, hidden.astype(np.float32), kernel.astype(np.float32), bias.astype(np.float32)


def exact(arrays: Any, cotangents: Any) -> tuple[np.ndarray, list[np.ndarray]]:
    """The losses and the derivatives of sum(cotangents * losses), in NumPy and float64."""
    labels, (hidden, kernel, bias) = arrays[0], (np.asarray(x, np.float64) for x in arrays[1:])
    z = hidden @ kernel + bias
    shift = z.max(-1, keepdims=True)
    p = np.exp(z - shift)
    sums = p.sum(-1, keepdims=True)
    picked = np.take_along_axis(z, labels[..., None], -1)
    losses = (np.log(sums) + shift - picked)[..., 0]
    dz = p / sums
    np.put_along_axis(dz, labels[..., None], np.take_along_axis(dz, labels[..., None], -1) - 1, -1)
    dz *= np.asarray(cotangents, np.float64)[..., None]
    flat = dz.reshape(-1, dz.shape[-1])
    return losses, [dz @ kernel.T, hidden.reshape(-1, hidden.shape[-1]).T @ flat, flat.sum(0)]


def materialised(labels: Any, hidden: Any, kernel: Any, bias: Any = None, softcap: Any = None, **given: Any) -> Any:
    z = jnp.dot(hidden, kernel)
    if bias is not None:
        z = z + bias.reshape(*(1,) * (z.ndim - 1), -1)
    if softcap is not None:
        z = softcap * jnp.tanh(z / softcap)
    return sparse_cce(labels, z, from_logits=True, **given)


def graded(loss: Any, labels: Any, *floats: Any, **given: Any) -> Any:
    def of(hidden: Any, kernel: Any, bias: Any = None) -> Any:
        return loss(labels, hidden, kernel, bias=bias, **given)

    return jax.value_and_grad(of, tuple(range(len(floats))))(*floats)


def mean_by_function(losses: Any, weights: Any) -> Any:
    return jnp.sum(losses * weights) / jnp.sum(weights)


# ---------------------------------------------------------------------------------------------------------------------
# What it computes


@pytest.mark.parametrize(
    ("batch", "features", "classes", "chunk"),
    [((37,), 8, 2049, 10), ((3, 7), 5, 50257, 4), ((16,), 4, 131072, None), ((1,), 1, 1, None), ((), 3, 7, None)],
)
def test_value_and_gradients(batch: tuple[int, ...], features: int, classes: int, chunk: int | None):
    program = jax.jit(functools.partial(graded, functools.partial(linear_cce, chunk=chunk)))
    for scale in (0.02, 1.0, 30.0):
        arrays = inputs(batch, features, classes, scale)
        losses, slopes = exact(arrays, np.full(batch, 1 / np.prod(batch)))
        got = program(*arrays)
        close(got[0], losses.mean(), f"mean, {scale}", rtol=2e-6)
        for name, g, w in zip(("hidden", "kernel", "bias"), got[1], slopes, strict=True):
            close(g, w, f"{name}, {scale}", rtol=2e-5, atol=3e-6 * np.abs(w).max() + 1e-7)


def test_near_certain_tokens():
    """Of a gap between two logits the loss is log(1 + exp(-gap)), and its derivative -1 / (1 + exp(gap))."""
    gaps = np.array([10, 17, 20, 40, 80], np.float32)
    hidden = np.ones((1, 1), np.float32)

    def loss(gap: Any) -> Any:
        return linear_cce([0], hidden, jnp.stack([gap, 0])[None], reduction="sum")

    value, slope = run(jax.vmap(jax.value_and_grad(loss)), gaps)
    wide = gaps.astype(np.float64)
    close((value, slope), (np.log1p(np.exp(-wide)), -1 / (1 + np.exp(wide))), "a gap", rtol=8 * 2**-23, atol=0)


@pytest.mark.parametrize(
    "reduction", ["mean", "sum", "sum_over_batch_size", "none", mean_by_function, jaxloss.mean_of_means()]
)
def test_reductions_with_masks_and_weights(reduction: Any):
    arrays = inputs((5, 3), 6, 11)
    mask = np.arange(15).reshape(5, 3) % 4 != 1
    weights = np.arange(5, dtype=np.float32)
    hidden = np.where(mask[..., None], arrays[1], np.nan)
    labels = np.where(mask, arrays[0], -100).astype(np.int32)
    ct = np.linspace(-1, 1, 15, dtype=np.float32).reshape(5, 3)

    def ours(loss: Any, labels: Any, hidden: Any) -> Any:
        def scalar(*a: Any, **k: Any) -> Any:
            result = loss(*a, **k, where=mask, weights=weights, reduction=reduction)
            return jnp.sum(ct * result) if reduction == "none" else result

        return graded(scalar, labels, hidden, *arrays[2:])

    ways = [functools.partial(linear_cce, chunk=chunk) for chunk in (4, 1000)]
    got = run(lambda labels, hidden: [ours(way, labels, hidden) for way in ways], labels, hidden)
    want = run(functools.partial(ours, materialised), arrays[0], arrays[1])
    for result in got:
        close(result, want, "against sparse_cce", rtol=1e-5, atol=1e-6)
        assert (result[1][0][~mask] == 0).all()


def test_sum_and_weight():
    """For means over parts of a batch: the same pass as for a sum, so three matrix products and no more."""
    labels, hidden, kernel, bias = inputs((5, 3), 6, 11)
    given = {"where": np.arange(15).reshape(5, 3) % 4 != 1, "weights": np.arange(5, dtype=np.float32)}

    def ratio(loss: Any, hidden: Any, kernel: Any, **how: Any) -> Any:
        total, weight = loss(labels, hidden, kernel, bias=bias, reduction="sum_and_weight", **given, **how)
        return total / weight, (total, weight)

    def both(loss: Any, **how: Any) -> Any:
        return jax.value_and_grad(functools.partial(ratio, loss, **how), (0, 1), has_aux=True)

    close(run(both(linear_cce, chunk=4), hidden, kernel), run(both(materialised), hidden, kernel), "a pair", rtol=1e-5)
    assert products(both(linear_cce, chunk=4), hidden, kernel) == 3


OPTIONS: list[dict[str, Any]] = [
    {"label_smoothing": 0.1},
    {"z_loss": 1e-2},
    {"class_weights": np.linspace(0.5, 2, 11, dtype=np.float32)},
    {"softcap": 2.0},
    {"label_smoothing": 0.2, "z_loss": 0.1, "class_weights": np.linspace(0, 1, 11, dtype=np.float32), "softcap": 3.0},
]


@pytest.mark.parametrize(
    "options",
    [*(pytest.param(o, marks=pytest.mark.slow) for o in OPTIONS[:-1]), OPTIONS[-1]],
    ids=lambda o: "-".join(o),
)
def test_options(options: dict[str, Any]):
    """As constants and as arrays; the derivatives by the arrays, too."""
    labels, *floats = inputs((9,), 6, 11)
    traced = {k: jnp.asarray(v) for k, v in options.items()}

    def by_all(loss: Any, floats: Any, traced: Any) -> Any:
        return jax.value_and_grad(lambda f, t: loss(labels, f[0], f[1], bias=f[2], **t), (0, 1))(floats, traced)

    ours = functools.partial(linear_cce, chunk=4)

    def all_ways(floats: Any, traced: Any) -> Any:
        return (
            by_all(materialised, floats, traced),
            by_all(ours, floats, traced),
            by_all(functools.partial(ours, reduction=mean_by_function), floats, traced),
            graded(ours, labels, *floats, **options),
        )

    want, got, by_function, constant = run(all_ways, floats, traced)
    close(got, want, "traced", rtol=1e-5, atol=1e-6)
    close(by_function, want, "a function as reduction", rtol=1e-5, atol=1e-6)
    close(constant, (want[0], tuple(want[1][0])), "constants", rtol=1e-5, atol=1e-6)


def test_an_option_of_tokens_in_chunks_that_do_not_divide():
    """What pads the last chunk has no softcap of 0, by which the gradient of the kernel would be NaN."""
    labels, *floats = inputs((7,), 4, 9)
    softcap = np.linspace(1, 2, 7, dtype=np.float32)

    def by_all(chunk: int, reduction: Any) -> Any:
        def value(softcap: Any, floats: Any) -> Any:
            hidden, kernel, bias = floats
            return linear_cce(labels, hidden, kernel, bias=bias, softcap=softcap, chunk=chunk, reduction=reduction)

        return jax.value_and_grad(value, (0, 1))(softcap, floats)

    for got, want in run(lambda: [(by_all(3, how), by_all(7, how)) for how in ("mean", mean_by_function)]):
        close(got, want, "as in one chunk", rtol=1e-5, atol=1e-6)


def test_precision():
    """bfloat16 is multiplied as it is and accumulated in float32: no worse than logits held in float32."""
    arrays = inputs((256,), 32, 517)
    half = [jnp.asarray(x, jnp.bfloat16) for x in arrays[1:3]]
    stored = [np.asarray(x, np.float32) for x in half]
    _, slopes = exact((arrays[0], *stored, np.zeros(517)), np.full(256, 1 / 256))

    def naive(labels: Any, hidden: Any, kernel: Any, **_: Any) -> Any:
        z = jnp.dot(hidden, kernel, preferred_element_type=jnp.float32)
        return jnp.mean(jax.nn.logsumexp(z, axis=-1) - jnp.take_along_axis(z, labels[:, None], -1)[:, 0])

    ways = {
        "mean": functools.partial(linear_cce, chunk=32),
        "function": functools.partial(linear_cce, chunk=32, reduction=mean_by_function),
    }
    reference = run(functools.partial(graded, naive), arrays[0], *half)
    for way, loss in ways.items():
        got = run(functools.partial(graded, loss), arrays[0], *half)
        assert got[0].dtype == np.float32
        for g, r, w in zip(got[1], reference[1], slopes, strict=False):
            assert g.dtype == jnp.bfloat16
            error, allowed = (np.linalg.norm(x.astype(np.float64) - w) / np.linalg.norm(w) for x in (g, r))
            assert error <= 1.02 * allowed, f"{way}: {error} instead of {allowed}"
    with x64():
        wide = [np.float64(x) for x in arrays[1:]]
        losses, slopes = exact((arrays[0], *wide), np.full(256, 1 / 256))
        got = run(functools.partial(graded, functools.partial(linear_cce, chunk=32)), arrays[0], *wide)
        close(got, (losses.mean(), tuple(slopes)), "float64", rtol=1e-10, atol=1e-14)


def test_nothing_left():
    labels, hidden, kernel, _ = inputs((6,), 4, 9)
    none, nan = np.zeros(6, bool), np.full_like(hidden, np.nan)
    losses = [functools.partial(linear_cce, reduction=how, chunk=2) for how in ("mean", "sum", "sum_over_batch_size")]
    losses.append(functools.partial(linear_cce, reduction=mean_by_function))

    def all_ways(labels: Any, nan: Any, hidden: Any) -> Any:
        masked = [graded(loss, labels, nan, kernel, where=none) for loss in losses]
        return masked + [graded(loss, labels[:0], hidden[:0], kernel) for loss in losses]

    for value, slopes in run(all_ways, np.full_like(labels, -100), nan, hidden):
        assert value == 0
        assert all((g == 0).all() for g in slopes)


def test_labels_outside():
    """Loud in the value, silent in the gradient."""
    labels, hidden, kernel, bias = inputs((6,), 4, 9)
    wrong = labels.copy()
    wrong[[1, 4]] = -1, 9
    loss = functools.partial(linear_cce, reduction="sum", chunk=2, z_loss=0.1, label_smoothing=0.1)
    right = np.isin(np.arange(6), (1, 4), invert=True)
    value, slopes = run(functools.partial(graded, loss), wrong, hidden, kernel, bias)
    _, want = run(functools.partial(graded, loss, where=right), labels, hidden, kernel, bias)
    assert np.isnan(value)
    close(slopes, want, "the gradient")
    losses = np.asarray(linear_cce(wrong, hidden, kernel, reduction="none"))
    assert (np.isnan(losses) == ~right).all()


@pytest.mark.parametrize(("name", "value"), [("class_weights", [np.nan] + [1] * 8), ("z_loss", np.nan), ("softcap", 0)])
def test_traced_options_outside(name: str, value: Any):
    """Loud in the value, silent in the gradient."""
    labels, hidden, kernel, _ = inputs((6,), 4, 9)

    def loss(hidden: Any, kernel: Any, option: Any) -> Any:
        return linear_cce(labels, hidden, kernel, chunk=2, **{name: option})

    value, slopes = jax.value_and_grad(loss, (0, 1, 2))(hidden, kernel, np.array(value, np.float32))
    assert np.isnan(value)
    assert all((slope == 0).all() for slope in slopes)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_excluded_classes(softcap: float | None):
    """A bias of -inf, as for the padding of a vocabulary."""
    labels, hidden, kernel, bias = inputs((6,), 4, 9)
    wide = np.pad(kernel, [(0, 0), (0, 3)], constant_values=1), np.pad(bias, (0, 3), constant_values=-np.inf)

    def of(hidden: Any, kernel: Any, bias: Any, softcap: Any, **options: Any) -> Any:
        return linear_cce(labels, hidden, kernel, bias=bias, softcap=softcap, **options)

    by = (0, 1, 2) if softcap is None else (0, 1, 2, 3)
    want = run(jax.value_and_grad(of, by), hidden, kernel, bias, softcap)
    got = run(jax.value_and_grad(functools.partial(of, chunk=2), by), hidden, *wide, softcap)
    close((got[0], got[1][0], got[1][1][:, :9], got[1][2][:9], *got[1][3:]), (want[0], *want[1]), "excluded")
    assert (got[1][1][:, 9:] == 0).all()
    assert (got[1][2][9:] == 0).all()


@pytest.mark.slow
def test_transformations():
    """vmap and scan are loops; jvp, Hessian-vector products and checkpoint agree with the logits held."""
    labels, hidden, kernel, bias = inputs((3, 7), 4, 9)
    ours = functools.partial(linear_cce, chunk=3, z_loss=0.1)
    theirs = functools.partial(materialised, z_loss=0.1)
    moved = jax.tree.map(lambda x: np.cos(x).astype(np.float32), (hidden, kernel, bias))

    def all_ways(loss: Any) -> Any:
        def value(hidden: Any, kernel: Any, bias: Any) -> Any:
            return loss(labels, hidden, kernel, bias=bias)

        floats = (hidden, kernel, bias)
        slopes = jax.grad(value, (0, 1, 2))
        mapped = jax.vmap(lambda l, h: graded(loss, l, h, kernel, bias))
        _, scanned = jax.lax.scan(lambda none, at: (none, graded(loss, *at, kernel, bias)), None, (labels, hidden))
        return {
            "vmap": mapped(labels, hidden),
            "scan": scanned,
            "jvp": jax.jvp(value, floats, moved),
            "forward over reverse": jax.jvp(slopes, floats, moved)[1],
            "reverse over reverse": jax.vjp(slopes, *floats)[1](moved),
            "reverse over forward": jax.grad(lambda *f: jax.jvp(value, f, moved)[1], (0, 1, 2))(*floats),
            "checkpoint": jax.grad(jax.checkpoint(value), 1)(*floats),
            "vmap over kernels": jax.vmap(jax.grad(value, 1), (None, 0, None))(
                hidden, np.stack([kernel, 2 * kernel]), bias
            ),
        }

    by_function = functools.partial(ours, reduction=mean_by_function)
    got, want, moved_by_function = run(lambda: (all_ways(ours), all_ways(theirs), all_ways(by_function)["jvp"]))
    for way in want:
        close(got[way], want[way], way, rtol=2e-5, atol=1e-6)
    close(moved_by_function, want["jvp"], "jvp, a function as reduction", rtol=1e-5)


def test_statistics_from_the_same_pass():
    labels, hidden, kernel, bias = inputs((5, 3), 6, 11)
    mask = np.arange(15).reshape(5, 3) % 4 != 1
    given = {"where": mask, "z_loss": 0.1, "softcap": 5.0, "chunk": 4}

    def by_kernel(kernel: Any) -> Any:
        return linear_cce_stats(labels, hidden, kernel, bias=bias, **given)

    (loss, stats), slope = run(jax.value_and_grad(by_kernel, has_aux=True), kernel)
    plain = run(jax.value_and_grad(lambda k: linear_cce(labels, hidden, k, bias=bias, **given)), kernel)
    close((loss, slope), plain, "the loss itself")
    z = 5 * np.tanh((hidden @ kernel + bias).astype(np.float64) / 5)
    lse = np.log(np.exp(z).sum(-1))
    ce = lse - np.take_along_axis(z, labels[..., None], -1)[..., 0]
    right = z.argmax(-1) == labels
    p = np.exp(z - lse[..., None])
    want = tuple(x[mask].mean() for x in (ce, 0.1 * lse**2, lse, right, -(p * np.log(p)).sum(-1)))
    close(tuple(stats), want, "means", rtol=1e-5)
    _, units = linear_cce_stats(labels, hidden, kernel, bias=bias, **given, reduction="none")
    close(units.correct, np.where(mask, right, 0), "a token each")
    zero = jax.grad(lambda k: by_kernel(k)[1].cross_entropy)(jnp.asarray(kernel))
    assert (zero == 0).all()


# ---------------------------------------------------------------------------------------------------------------------
# How it is called


def test_signature():
    parameters = inspect.signature(linear_cce).parameters
    assert list(parameters)[:3] == ["y_true", "hidden", "kernel"]
    assert list(parameters)[-3:] == ["weights", "where", "reduction"]
    assert dict(inspect.signature(linear_cce_stats).parameters) == dict(parameters)
    assert linear_cce([0], [[1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]], bias=[0.0, 0.0], weights=[2]) == np.float32(
        np.log(2)
    )


def test_refusals():
    labels, hidden, kernel, bias = inputs((4, 2), 3, 7)

    def refused(error: Any, *words: str, y: Any = labels, h: Any = hidden, k: Any = kernel, **given: Any) -> None:
        refuses(error, ("linear_cce", *words), linear_cce, y, h, k, **given)

    refused(ValueError, "(4, 2, 3)", "(7, 3)", "kernel.T", k=kernel.T)
    refused(ValueError, "(4, 2, 3)", "(5, 7)", k=np.ones((5, 7)))
    refused(ValueError, "(4, 2, 3)", "(7,)", k=bias)
    refused(ValueError, "(4, 1)", "(4, 2, 3)", y=labels[:, :1])
    refused(ValueError, "y_true.squeeze(-1)", y=labels[..., None])
    refused(ValueError, "(4,)", "(4, 2, 3)", y=labels[:, 0])
    refused(ValueError, "bias", "(6,)", "(3, 7)", bias=bias[:6])
    refused(ValueError, "class_weights", "(1, 7)", class_weights=bias[None])
    refused(ValueError, "label_smoothing", label_smoothing=1.5)
    refused(ValueError, "softcap", softcap=0.0)
    refused(ValueError, "chunk", chunk=0)
    refused(TypeError, "chunk", chunk=2.5)
    refused(ValueError, "reduction", "avg", reduction="avg")
    refused(ValueError, "weights", "(2,)", weights=np.ones(2))
    refused(TypeError, "where", "bool", where=np.ones((4, 2)))
    refused(TypeError, "y_true", "integer", y=labels.astype(np.float32))
    refused(TypeError, "hidden", "swapped", h=hidden.astype(np.int32))


def test_chunks_of_any_size():
    for shape in [(1,), (7,), (2048,), (2049,), (8191,), (32, 1024), (7, 13), (3, 5, 7), (4096, 1), (0,), ()]:
        for chunk in (1, 8, 100, 512):
            counts = chunk_counts(shape, chunk)
            tokens = np.prod([-(-size // count) for size, count in zip(shape, counts, strict=True)])
            assert tokens <= chunk or tokens == 0, (shape, chunk, counts)
    assert chunk_counts((32, 1024), 512) == (1, 64)
    assert chunk_count(2048, 3) == 4  # a divisor, although three chunks would do


# ---------------------------------------------------------------------------------------------------------------------
# Memory


def products(program: Any, *arrays: Any) -> int:
    """How many matrix products of a chunk a program makes."""
    return str(jax.make_jaxpr(program)(*arrays)).count("dot_general")


def test_three_products_for_a_scalar_and_four_for_each():
    """The logits once for value and gradients of a scalar; where the cotangents come later, once more."""
    labels, hidden, kernel, _ = inputs((40,), 6, 11)
    mean = functools.partial(graded, functools.partial(linear_cce, chunk=8))
    assert products(linear_cce, labels, hidden, kernel) == 1
    assert products(mean, labels, hidden, kernel) == 3
    assert products(functools.partial(mean, reduction=mean_by_function), labels, hidden, kernel) == 4
    assert products(functools.partial(mean, reduction=jaxloss.mean_of_means()), labels, hidden, kernel) == 3


def test_temporaries():
    """At most the gradients in float32, a second copy of hidden, and three chunks of logits."""
    features, classes, chunk = 64, 5003, 128

    def temporaries(tokens: int, dtype: Any, **given: Any) -> int:
        shapes = [((tokens,), jnp.int32), ((tokens, features), dtype), ((features, classes), dtype)]
        arrays = [jax.ShapeDtypeStruct(*s) for s in shapes]
        program = jax.jit(functools.partial(graded, functools.partial(linear_cce, chunk=chunk, **given)))
        memory = program.lower(*arrays).compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    tokens = 8192
    gradients = 4 * features * (tokens + classes)
    bound = gradients + 4 * features * tokens + 3 * 4 * chunk * classes
    assert temporaries(tokens, jnp.float32) <= bound
    # More tokens need nothing more than their own gradients, and a copy of them: less than a tenth of a chunk here.
    more = temporaries(2 * tokens, jnp.float32) - temporaries(tokens, jnp.float32)
    assert more <= 2 * 4 * features * tokens + 64 * tokens
    # The CPU multiplies in float32, and keeps float32 copies of both factors for it.
    assert temporaries(tokens, jnp.bfloat16) <= bound + 2 * gradients
    assert temporaries(tokens, jnp.float32, reduction=mean_by_function) <= bound + gradients


# ---------------------------------------------------------------------------------------------------------------------
# Spread over devices: eight of them, as a mesh of two by four

LAYOUTS = {
    "tokens": (P(("data", "model")), P()),
    "vocabulary": (P(), P(None, "model")),
    "both": (P("data"), P(None, "model")),
    "features": (P(("data", "model")), P(("data", "model"), None)),
}
TOKENS, FEATURES, CLASSES = 64, 8, 520


def mesh(kind: AxisType) -> jax.sharding.Mesh:
    return jax.make_mesh((2, 4), ("data", "model"), axis_types=(kind, kind))


def spread(kind: AxisType, layout: str, batch: tuple[int, ...]) -> tuple[Any, Any]:
    tokens, kernel = LAYOUTS[layout]
    arrays = inputs(batch, FEATURES, CLASSES)
    mask = (np.arange(np.prod(batch)) % 5 > 1).reshape(batch)
    mask[:3] = False
    places = [NamedSharding(mesh(kind), p) for p in (tokens, tokens, kernel, P(*kernel[1:]), tokens)]
    whole = (*arrays, mask)
    return whole, [jax.device_put(x, place) for x, place in zip(whole, places, strict=True)]


def masked(reduction: Any, labels: Any, hidden: Any, kernel: Any, bias: Any, mask: Any) -> Any:
    loss = functools.partial(linear_cce, chunk=16, where=mask, label_smoothing=0.1, reduction=reduction)
    return graded(loss, labels, hidden, kernel, bias)


@pytest.mark.parametrize(
    ("layout", "reduction"), [*((layout, "mean") for layout in LAYOUTS), ("both", mean_by_function)]
)
@pytest.mark.parametrize("kind", mostly_slow((AxisType.Auto, AxisType.Explicit), AxisType.Explicit))
def test_sharded(kind: AxisType, layout: str, reduction: Any):
    whole, parts = spread(kind, layout, (TOKENS,))
    program = functools.partial(masked, reduction)
    want = run(program, *whole)
    got = jax.jit(program)(*parts)
    close(got, want, layout, rtol=1e-5)
    if kind is AxisType.Explicit:
        for slope, part in zip(got[1], parts[1:4], strict=True):
            assert slope.sharding.is_equivalent_to(part.sharding, slope.ndim)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_sharded_batch_of_sequences(kind: AxisType):
    whole, parts = spread(kind, "both", (4, 16))
    close(jax.jit(functools.partial(masked, "mean"))(*parts), run(functools.partial(masked, "mean"), *whole), "(4, 16)")


def compiled_text(program: Any, *args: Any) -> str:
    return program.lower(*args).compile().as_text() or ""


def arrays_of(text: str) -> set[tuple[int, ...]]:
    """The shapes of all floating arrays in a compiled program: those that one device holds."""
    return {tuple(map(int, s.split(","))) for s in re.findall(r"\b(?:f32|bf16)\[([\d,]+)\]", text)}


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("layout", ["vocabulary", "both"])
def test_no_device_holds_the_vocabulary(kind: AxisType, layout: str):
    """In the compiled program no array has the vocabulary's full length, so nothing of it is gathered."""
    _, parts = spread(kind, layout, (TOKENS,))
    places = jax.tree.map(lambda x: x.sharding, parts)
    out = (NamedSharding(mesh(kind), P()), tuple(places[1:4]))
    program = jax.jit(functools.partial(masked, "mean"), out_shardings=out)
    text = compiled_text(program, *parts)
    shapes = arrays_of(text)
    assert any(CLASSES // 4 in s for s in shapes), "the test reads no shard of the vocabulary"
    assert not [s for s in shapes if CLASSES in s]


@pytest.mark.parametrize("reduction", ["mean", mean_by_function])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_split_features_are_gathered_once(kind: AxisType, reduction: Any):
    """The kernel of fully sharded parameters, before the chunks; and nothing else is gathered."""
    _, parts = spread(kind, "features", (TOKENS,))
    places = jax.tree.map(lambda x: x.sharding, parts)
    out = (NamedSharding(mesh(kind), P()), tuple(places[1:4]))
    text = compiled_text(jax.jit(functools.partial(masked, reduction), out_shardings=out), *parts)
    before, main = text.split("\nENTRY ")
    assert "all-gather" not in before
    assert re.findall(r"= (\S+?)\{\S* all-gather(?:-start)?\(", main) == [f"f32[{FEATURES},{CLASSES}]"]


def test_tokens_stay_on_their_devices():
    """A chunk takes some tokens of each device, so that tokens, too, are never gathered."""
    _, parts = spread(AxisType.Auto, "tokens", (TOKENS,))
    places = jax.tree.map(lambda x: x.sharding, parts)
    program = jax.jit(functools.partial(masked, "mean"), out_shardings=(None, tuple(places[1:4])))
    text = compiled_text(program, *parts)
    assert "all-gather" not in text
    assert (16 // 8, CLASSES) in arrays_of(text), "each device makes its share of the logits of a chunk"


@pytest.mark.parametrize("check_vma", [True, False])
def test_inside_shard_map(check_vma: bool):
    """The mean over devices with different masks, with the kernel common to all; one sum of gradients at the end."""
    whole, _ = spread(AxisType.Auto, "tokens", (TOKENS,))
    axes = ("data", "model")

    def mean(kernel: Any, bias: Any, labels: Any, hidden: Any, mask: Any, reduction: Any) -> Any:
        return linear_cce(labels, hidden, kernel, bias=bias, where=mask, chunk=4, reduction=reduction)

    labels, hidden, kernel, bias, mask = whole
    local = jax.shard_map(
        functools.partial(mean, reduction=mean_over(axes)),
        mesh=mesh(AxisType.Auto),
        in_specs=(P(), P(), P(axes), P(axes), P(axes)),
        out_specs=P(),
        check_vma=check_vma,
    )
    args = (kernel, bias, labels, hidden, mask)
    want = run(jax.value_and_grad(functools.partial(mean, reduction="mean"), (0, 1, 3)), *args)
    program = jax.jit(jax.value_and_grad(local, (0, 1, 3)))
    close(program(*args), want, "mean_over")
    summed = re.findall(rf"= f32\[{FEATURES},{CLASSES}\]\S* all-reduce", compiled_text(program, *args))
    assert len(summed) <= 1


def test_it_is_public():
    assert jaxloss.LOSSES["linear_cce"] is linear_cce
