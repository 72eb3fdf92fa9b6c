"""What the losses of embeddings promise beside the contract: of sets, their masks, and their devices."""

from __future__ import annotations

import functools
import math
import re
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ROWS
from contract import close, mostly_slow, refuses, run, x64
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxloss

SETS = ("info_nce", "clip", "siglip", "nt_xent")
FEATURES = ("barlow_twins", "vicreg")
OF_LABELS = ("sup_con", "multi_similarity", "circle")
ORACLE = next(row.oracle for row in ROWS if row.name == "sup_con")
IN_CHUNKS = (*SETS, "sup_con")
EACH_IN_CHUNKS = mostly_slow(IN_CHUNKS, "info_nce", "sup_con")
ORACLES = {row.name: row.oracle for row in ROWS if row.name in IN_CHUNKS}


def embeddings(n: int, dtype: Any = np.float32, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    found = [rng.normal(size=(n, 16)) for _ in range(2)]
    return [(x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(dtype) for x in found]


def graded(loss: Any, *arrays: Any, **options: Any) -> Any:
    return jax.value_and_grad(lambda *x: loss(*x, **options), (0, 1))(*arrays)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("name", SETS)
def test_low_temperatures(name: str, dtype: Any):
    """At 0.01, of half precision, with pairs that are alike: scores of about 100, whose differences count."""
    a, noise = embeddings(12)
    a, b = a.astype(dtype), (a + noise).astype(dtype)
    value, slopes = run(functools.partial(graded, jaxloss.LOSSES[name], temperature=0.01), a, b)
    want = ORACLES[name](*(np.asarray(x, np.float64) for x in (a, b)), temperature=0.01).mean()
    np.testing.assert_allclose(value, want, rtol=2e-4)
    assert all(np.isfinite(np.asarray(x, np.float32)).all() for x in slopes)


@pytest.mark.parametrize("name", SETS)
def test_zeros_duplicates_and_a_single_member(name: str):
    loss = jaxloss.LOSSES[name]
    zeros, ones = np.zeros((5, 3), np.float32), np.ones((5, 3), np.float32)
    want = {"siglip": 4 * np.log1p(np.exp(-10.0)) + np.log1p(np.exp(10.0)), "nt_xent": np.log(9)}.get(name, np.log(5))
    value, slopes = run(functools.partial(graded, loss), zeros, zeros)
    close(value, want, "zeros", rtol=1e-6)
    assert all((x == 0).all() for x in slopes)
    if name != "siglip":
        value, slopes = run(functools.partial(graded, loss), ones, ones)
        close(value, want, "duplicates", rtol=1e-5)
        assert all(np.isfinite(x).all() for x in slopes)
        value, slopes = run(functools.partial(graded, loss), ones[:1], ones[:1])
        assert value == 0
        assert all((x == 0).all() for x in slopes)


@pytest.mark.parametrize("name", ["info_nce", "clip"])
def test_scores_of_a_billion(name: str):
    """Products that a program computes twice may be rounded in two ways, by more than an exponential can hold."""
    a, b = (1e4 * np.random.default_rng(0).normal(size=(2, 4, 8))).astype(np.float32)
    value, slopes = run(functools.partial(graded, jaxloss.LOSSES[name]), a, b)
    want = ORACLES[name](a.astype(np.float64), b.astype(np.float64), temperature=0.07).mean()
    np.testing.assert_allclose(value, want, rtol=1e-5)
    assert all(np.isfinite(x).all() for x in slopes)


@pytest.mark.parametrize("bad", mostly_slow([np.nan, np.inf], np.nan))
@pytest.mark.parametrize("name", SETS)
def test_what_is_masked_is_neither_anchor_nor_candidate(name: str, bad: float):
    loss, (a, b) = jaxloss.LOSSES[name], embeddings(7)
    where = np.array([True, False, True, True, False, True, False])
    want, slopes = run(functools.partial(graded, loss), a[where], b[where])
    spoiled = [np.where(where[:, None], x, bad) for x in (a, b)]
    for given in ([a, b], spoiled):
        value, got = run(functools.partial(graded, loss, where=where), *given)
        close((value, [x[where] for x in got]), (want, slopes), "as without them", rtol=2e-6, atol=1e-6)
        assert all((x[~where] == 0).all() for x in got)
    value, got = run(functools.partial(graded, loss, where=where & False), *spoiled)
    assert value == 0
    assert all((x == 0).all() for x in got)


# ---------------------------------------------------------------------------------------------------------------------
# Chunks of anchors: the same numbers, and never a matrix of all pairs


def inputs_of(name: str, n: int) -> tuple[tuple[Any, ...], tuple[int, ...]]:
    """Arrays, and which of them are differentiated."""
    a, b = embeddings(n)
    return ((np.arange(n) // 2 % 3, a), (1,)) if name == "sup_con" else ((a, b), (0, 1))


def spoiled(arrays: Any, where: Any) -> list[Any]:
    """NaN in what is masked."""
    return [np.where(where[:, None], x, np.nan) if x.ndim > 1 else x for x in arrays]


@pytest.mark.parametrize("name", EACH_IN_CHUNKS)
def test_chunks_of_any_size(name: str):
    """Value and derivatives, by the options of each member, too: whether or not the chunks divide the members."""
    n, loss = 7, jaxloss.LOSSES[name]
    arrays, by = inputs_of(name, n)
    where, weights = np.arange(n) % 5 != 1, np.arange(1, n + 1, dtype=np.float32)
    temperature = np.linspace(0.01, 0.5, n, dtype=np.float32)
    more = {"bias": np.float32(-2)} if name == "siglip" else {}

    def all_chunks(arrays: Any, temperature: Any, more: Any) -> Any:
        def of(chunk: int | None) -> Any:
            def each(points: Any, temperature: Any, more: Any) -> Any:
                given = [*arrays[: by[0]], *points]
                options = {"temperature": temperature, "weights": weights, "where": where, **more}
                losses = loss(*given, chunk=chunk, reduction="none", **options)
                return jnp.sum(np.linspace(-1, 1, n, dtype=np.float32) * losses), losses

            graded = jax.value_and_grad(each, (0, 1, 2), has_aux=True)
            return graded([arrays[i] for i in by], temperature, more)

        return [of(chunk) for chunk in (None, 1, 3, n, 2 * n)]

    want, *found = run(all_chunks, spoiled(arrays, where), temperature, more)
    for got in found:
        close(got, want, "as without chunks", rtol=1e-5, atol=1e-5)  # of derivatives of about 100
    exact = ORACLES[name](
        *(x[where].astype(x.dtype if x.ndim == 1 else np.float64) for x in arrays), temperature[where], **more
    )
    np.testing.assert_allclose(want[0][1][where], weights[where] * exact, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", mostly_slow(IN_CHUNKS, nightly=("nt_xent", "clip")))
def test_transformations_of_chunks(name: str):
    """vmap, scan, half precision, and second derivatives."""
    n, loss = 5, jaxloss.LOSSES[name]
    arrays, by = inputs_of(name, n)
    labels, points = arrays[: by[0]], [arrays[i] for i in by]
    moved, stacked = [np.cos(7 * x) for x in points], [np.stack([x, x[::-1]]) for x in points]

    def all_ways(chunk: int | None) -> Any:
        def value(*points: Any) -> Any:
            return loss(*labels, *points, chunk=chunk, temperature=0.5)

        slopes = jax.grad(value, range(len(by)))
        return {
            "vmap": jax.vmap(lambda *x: (value(*x), slopes(*x)))(*stacked),
            "scan": jax.lax.scan(lambda none, x: (none, slopes(*x)), None, stacked)[1],
            "sets in one batch": jax.grad(lambda *x: loss(*(jnp.stack([y, y]) for y in labels), *x, chunk=chunk))(
                *stacked
            )
            if not labels
            else None,
            "half": jax.grad(lambda x, *others: value(x, *others))(*(x.astype(jnp.bfloat16) for x in points)),
            "jvp": jax.jvp(value, points, moved),
            "forward over reverse": jax.jvp(slopes, points, moved)[1],
            "reverse over reverse": jax.vjp(slopes, *points)[1](tuple(moved)),
        }

    got, want = run(lambda: (all_ways(2), all_ways(None)))
    for way in want:
        close(got[way], want[way], way, rtol=1e-2 if way == "half" else 2e-5, atol=2e-6)


@pytest.mark.parametrize("name", EACH_IN_CHUNKS)
def test_no_matrix_of_all_pairs(name: str):
    """In the compiled program no array is larger than two chunks of pairs (of both views), or the embeddings."""
    n, chunk, loss = 768, 16, jaxloss.LOSSES[name]
    arrays, by = inputs_of(name, n)
    where, weights = np.arange(n) % 5 != 1, np.ones(n, np.float32)

    def program(chunk: int | None) -> Any:
        def graded(where: Any, weights: Any, *arrays: Any) -> Any:
            def value(*x: Any) -> Any:
                return loss(*x, chunk=chunk, where=where, weights=weights)

            return jax.value_and_grad(value, by)(*arrays)

        return jax.jit(graded).lower(where, weights, *arrays).compile()

    def largest(compiled: Any) -> int:
        shapes = re.findall(r"\b[a-z]+\d*\[([\d,]+)\]", compiled.as_text())
        return max(math.prod(map(int, shape.split(","))) for shape in shapes)

    whole, cut = program(None), program(chunk)
    assert largest(whole) >= n * n
    assert largest(cut) <= 2 * chunk * n
    assert cut.memory_analysis().temp_size_in_bytes < 4 * n * n


@pytest.mark.parametrize("name", IN_CHUNKS)
def test_chunks_refused(name: str):
    loss, (arrays, _) = jaxloss.LOSSES[name], inputs_of(name, 4)
    refuses(ValueError, (name, "chunk must be at least 1, got 0"), loss, *arrays, chunk=0)
    for chunk in (2.5, True, "3"):
        refuses(TypeError, (f"{name}: chunk must be an int or None, got {chunk!r}",), loss, *arrays, chunk=chunk)
    (n,) = jax.export.symbolic_shape("n")
    kinds = [jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype) for x in map(jnp.asarray, arrays)]
    program = jax.export.export(jax.jit(functools.partial(loss, chunk=2)))
    refuses(ValueError, (name, "(n, 16)", "its sizes must be known", "leave chunk out"), program, *kinds)


@pytest.mark.parametrize("kind", mostly_slow((AxisType.Auto, AxisType.Explicit), AxisType.Explicit))
@pytest.mark.parametrize("name", mostly_slow(IN_CHUNKS, "siglip", nightly=("nt_xent", "clip")))
def test_chunks_on_several_devices(name: str, kind: AxisType):
    """Members that are spread by their layout, and (where axes are not explicit) by shard_map; a common temperature."""
    n, loss, axes = 16, jaxloss.LOSSES[name], ("data", "model")
    arrays, by = inputs_of(name, n)
    where, temperature = np.arange(n) % 3 != 1, np.float32(0.5)
    mesh = jax.make_mesh((2, 4), axes, axis_types=(kind,) * 2)
    places = [i + 1 for i in by]

    def mean(temperature: Any, *given: Any, **options: Any) -> Any:
        return loss(*given[:-1], where=given[-1], temperature=temperature, **options)

    want = run(jax.value_and_grad(mean, (0, *places)), temperature, *arrays, where)
    laid_out = [jax.device_put(x, NamedSharding(mesh, P(axes))) for x in (*spoiled(arrays, where), where)]
    got = jax.jit(jax.value_and_grad(functools.partial(mean, chunk=3), (0, *places)))(temperature, *laid_out)
    close(got, want, "by layout", rtol=4e-6, atol=1e-6)
    for check_vma in (True, False) if kind is AxisType.Auto else ():
        for chunk in (None, 1):
            local = functools.partial(mean, chunk=chunk, axis_name=axes, reduction=jaxloss.mean_over(axes))
            specs = (P(), *[P(axes)] * 3)
            spread = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=check_vma)
            got = run(jax.value_and_grad(spread, (0, *places)), temperature, *spoiled(arrays, where), where)
            close(got, want, f"shard_map, {chunk}", rtol=4e-6, atol=1e-6)


@pytest.mark.parametrize("chunk", mostly_slow((None, 16), 16))
def test_siglip_holds_the_keys_of_one_device_at_a_time(chunk: int | None):
    """Nothing is gathered, and no array is as large as all keys: nor is what the derivative keeps."""
    n, here, axes = 512, 64, ("data", "model")
    (a, b), where = embeddings(n), np.arange(n) % 3 != 1
    where[here : 2 * here] = False  # a device with no member
    mesh = jax.make_mesh((2, 4), axes, axis_types=(AxisType.Auto,) * 2)

    def mean(temperature: Any, bias: Any, a: Any, b: Any, where: Any, **options: Any) -> Any:
        return jaxloss.siglip(a, b, temperature=temperature, bias=bias, where=where, **options)

    local = functools.partial(mean, chunk=chunk, axis_name=axes, reduction=jaxloss.mean_over(axes))
    spread = jax.shard_map(local, mesh=mesh, in_specs=(P(), P(), *[P(axes)] * 3), out_specs=P())
    options = jnp.float32(0.5), jnp.float32(-3)
    graded = jax.jit(jax.value_and_grad(spread, (0, 1, 2, 3)))
    want = run(jax.value_and_grad(mean, (0, 1, 2, 3)), *options, a, b, where)
    close(graded(*options, *spoiled((a, b), where), where), want, "spread", rtol=1e-5, atol=1e-7)

    text = graded.lower(*options, a, b, where).compile().as_text() or ""
    shapes = [tuple(map(int, s.split(","))) for s in re.findall(r"\b[a-z]+\d*\[([\d,]+)\]", text)]
    assert "all-gather" not in text
    assert "collective-permute" in text
    assert max(map(math.prod, shapes)) <= here * (chunk or here) < b.size


def test_derivatives_of_siglip_on_several_devices():
    """Forward, and second ones."""
    axes = ("data", "model")
    a, b = map(jnp.asarray, embeddings(16))
    mesh = jax.make_mesh((2, 4), axes, axis_types=(AxisType.Auto,) * 2)

    def mean(a: Any, b: Any) -> Any:
        return jaxloss.siglip(a, b, axis_name=axes, reduction=jaxloss.mean_over(axes))

    spread = jax.shard_map(mean, mesh=mesh, in_specs=(P(axes),) * 2, out_specs=P())

    def all_ways(loss: Any) -> Any:
        slopes, moved = jax.grad(loss, (0, 1)), (jnp.cos(7 * a), jnp.sin(3 * b))
        found = [jax.jvp(loss, (a, b), moved), jax.jvp(slopes, (a, b), moved)[1]]
        # jax 0.7 transposes no derivative of a shard_map that holds a loss, of whichever kind.
        return found if jax.__version_info__ < (0, 8) else [*found, jax.vjp(slopes, a, b)[1](moved)]

    close(run(lambda: all_ways(spread)), run(lambda: all_ways(jaxloss.siglip)), "spread", rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Several devices, and labels


@pytest.mark.parametrize("name", mostly_slow((*SETS, *FEATURES), "info_nce", "barlow_twins"))
def test_members_of_several_devices(name: str):
    """In shard_map each device has some anchors, and all candidates; one device has no member at all."""
    loss, (a, b) = jaxloss.LOSSES[name], embeddings(16)
    where = np.arange(16) % 3 != 1
    where[4:6] = False
    axes = ("data", "model")
    mesh = jax.make_mesh((2, 4), axes, axis_types=(AxisType.Auto,) * 2)

    def mean(a: Any, b: Any, where: Any) -> Any:
        return loss(a, b, where=where, axis_name=axes, reduction=jaxloss.mean_over(axes))

    spread = jax.shard_map(mean, mesh=mesh, in_specs=(P(axes),) * 3, out_specs=P())
    want = run(functools.partial(graded, loss, where=where), a, b)
    spoiled = [np.where(where[:, None], x, np.nan) for x in (a, b)]
    close(run(lambda *x: jax.value_and_grad(spread, (0, 1))(*x), *spoiled, where), want, "spread", rtol=4e-6, atol=1e-6)


def test_members_without_another_of_their_label():
    """They cost 0, are not counted, and remain candidates."""
    x, labels = embeddings(6)[0], np.array([3, 3, -5, 3, 8, 8])
    where = np.array([True, True, True, False, True, False])
    losses = ORACLE(labels[where], np.float64(x[where]), temperature=0.2)
    spoiled = np.where(where[:, None], x, np.nan)

    def mean(x: Any, **options: Any) -> Any:
        return jaxloss.sup_con(labels, x, temperature=0.2, where=where, **options)

    value, slope = run(jax.value_and_grad(mean), spoiled)
    np.testing.assert_allclose(value, losses[:2].mean(), rtol=1e-6)
    assert (slope[~where] == 0).all()
    assert (slope[[2, 4]] != 0).all()
    np.testing.assert_allclose(mean(spoiled, reduction="none"), [*losses[:2], 0, 0, 0, 0], rtol=1e-6, atol=1e-7)
    weights = np.arange(1, 7, dtype=np.float32)
    np.testing.assert_allclose(mean(spoiled, weights=weights), (losses[0] + 2 * losses[1]) / 3, rtol=1e-6)
    value, slope = run(jax.value_and_grad(lambda x: jaxloss.sup_con(np.arange(6), x)), x)
    assert value == 0
    assert (slope == 0).all()


@pytest.mark.parametrize("name", mostly_slow(OF_LABELS, "sup_con"))
def test_labels_on_several_devices(name: str):
    loss = jaxloss.LOSSES[name]
    x, labels = embeddings(16)[0], np.arange(16) % 5
    where = np.arange(16) % 3 != 1
    axes = ("data", "model")
    mesh = jax.make_mesh((2, 4), axes, axis_types=(AxisType.Auto,) * 2)

    def mean(labels: Any, x: Any, where: Any) -> Any:
        return loss(labels, x, where=where, axis_name=axes, reduction=jaxloss.mean_over(axes))

    spread = jax.shard_map(mean, mesh=mesh, in_specs=(P(axes),) * 3, out_specs=P())
    want = run(jax.value_and_grad(lambda x: loss(labels, x, where=where)), x)
    spoiled = np.where(where[:, None], x, np.nan)
    close(run(jax.value_and_grad(lambda x: spread(labels, x, where)), spoiled), want, "spread", rtol=4e-6, atol=1e-6)


@pytest.mark.parametrize("name", mostly_slow(OF_LABELS, "sup_con"))
def test_labels_that_are_masked(name: str):
    """They are neither anchors nor candidates; nor does a vector of zeros, or a duplicate, make a NaN.

    In float64, since the gradient of circle reaches 15: rounded to float32, terms that large hide what they cancel to.
    """
    loss, x, labels = jaxloss.LOSSES[name], embeddings(9, np.float64)[0], np.arange(9) % 3
    where = np.array([True, True, False, True, True, True, False, True, True])
    x[3], x[4] = x[0], 0
    with x64():
        want, slope = run(jax.value_and_grad(lambda x: loss(labels[where], x)), x[where])
        for given in (x, np.where(where[:, None], x, np.nan)):
            value, got = run(jax.value_and_grad(lambda x: loss(labels, x, where=where)), given)
            close((value, got[where]), (want, slope), "as without them", rtol=1e-12, atol=1e-13)
            assert (got[~where] == 0).all()
        value, got = run(jax.value_and_grad(lambda x: loss(labels, x, where=where & False)), x)
        assert value == 0
        assert (got == 0).all()
    assert loss([4], [[1.0, 2.0]]) == 0


@pytest.mark.parametrize(
    ("name", "option", "calm", "steep"),
    [("nt_xent", "temperature", 2 / 59, 2 / 61), ("multi_similarity", "beta", 53, 54)],
)
def test_exponents_that_need_no_shift(name: str, option: str, calm: float, steep: float):
    """Up to the largest that are summed as they are, and beyond, with members as near and as far as can be."""
    x = np.asarray([[1, 0], [1, 0], [-1, 0], [-1, 0], [0, 1], [0.6, 0.8]], np.float32)
    oracle = next(row for row in ROWS if row.name == name).oracle
    for labels in (np.arange(6) // 2, np.arange(6) % 2):
        arrays = (x, x[labels]) if name == "nt_xent" else (labels, x)
        for value in (calm, steep):
            got = jaxloss.LOSSES[name](*arrays, **{option: value}, reduction="none")
            np.testing.assert_allclose(got, oracle(*map(np.float64, arrays), **{option: value}), rtol=4e-6, atol=4e-6)
            slope = jax.grad(lambda x: jaxloss.LOSSES[name](*arrays[:-1], x, **{option: value}))(arrays[-1])  # noqa: B023
            assert np.isfinite(slope).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("name", ["multi_similarity", "circle"])
def test_steep_losses_of_labels(name: str, dtype: Any):
    """At their large factors, of half precision, with members that are almost alike."""
    labels, (x, noise) = np.arange(12) // 3, embeddings(12)
    x = (np.round(128 * (x[3 * labels] + noise / 8)) / 32).astype(dtype)  # of the grid that the oracle of circle needs
    row = next(row for row in ROWS if row.name == name)
    value, slope = run(jax.value_and_grad(lambda x: jaxloss.LOSSES[name](labels, x)), x)
    np.testing.assert_allclose(value, row.oracle(labels, np.asarray(x, np.float64)).mean(), rtol=2e-5)
    assert np.isfinite(np.asarray(slope, np.float32)).all()
    assert (np.asarray(slope, np.float32) != 0).any()


def arcface(labels: np.ndarray, c: np.ndarray, margin: float = 0.5, scale: float = 64.0) -> np.ndarray:
    angle, own = np.arccos(c), labels[..., None] == np.arange(c.shape[-1])
    beyond = c - margin * np.sin(margin)
    return scale * np.where(own, np.where(angle + margin < np.pi, np.cos(angle + margin), beyond), c)


def cosface(labels: np.ndarray, c: np.ndarray, margin: float = 0.35, scale: float = 64.0) -> np.ndarray:
    return scale * (c - margin * (labels[..., None] == np.arange(c.shape[-1])))


@pytest.mark.parametrize("oracle", [arcface, cosface])
def test_logits_with_a_margin(oracle: Any):
    logits = getattr(jaxloss, oracle.__name__)
    rng = np.random.default_rng(0)
    labels, c = rng.integers(0, 5, (40, 3)), np.float32(rng.uniform(-0.999, 0.999, (40, 3, 5)))
    for options in ({}, {"margin": 1.25, "scale": 8.0}, {"margin": jnp.float32(1.25), "scale": jnp.float32(8)}):
        given = {key: float(x) for key, x in options.items()}
        scale = given.get("scale", 64.0)
        got = run(lambda c, options=options: logits(labels, c, **options), c)
        np.testing.assert_allclose(got, oracle(labels, np.float64(c), **given), rtol=1e-6, atol=2e-7 * scale)
        slope = run(jax.grad(lambda c, options=options: jnp.sum(logits(labels, c, **options) ** 2) / 2), c)
        near = [oracle(labels, np.float64(c) + step, **given) for step in (-1e-7, 0, 1e-7)]
        want = near[1] * (near[2] - near[0]) / 2e-7
        np.testing.assert_allclose(slope, want, rtol=2e-5, atol=2e-5 * scale**2)
    half = jnp.asarray(c, jnp.bfloat16)
    assert logits(labels, half).dtype == jnp.float32
    np.testing.assert_allclose(logits(labels, half), oracle(labels, np.float64(half)), rtol=1e-6, atol=2e-5)


@pytest.mark.parametrize("logits", [jaxloss.arcface, jaxloss.cosface])
def test_the_loss_of_logits_with_a_margin(logits: Any):
    """At the ends of the cosines, rounded beyond them, and with labels and rows that are masked."""
    c = np.array([[1.0, -1], [-1, 1], [1 + 1e-7, -1 - 1e-7], [0, 0], [np.nan, 1]], np.float32)
    labels, where = np.array([0, 0, 0, -100, 1]), np.array([True, True, True, False, False])

    def loss(c: Any, where: Any = None) -> Any:
        return jaxloss.sparse_cce(labels, logits(labels, c), from_logits=True, where=where, reduction="none")

    value, slope = run(jax.value_and_grad(lambda c: loss(c, where).sum()), c)
    assert np.isfinite(value)
    assert np.isfinite(slope).all()
    assert (slope[3:] == 0).all()
    assert slope[1, 0] != 0
    assert np.isnan(loss(c)).tolist() == [False, False, False, True, True]
    assert (jax.vmap(logits)(labels[:3], c[:3]) == logits(labels[:3], c[:3])).all()


@pytest.mark.parametrize("logits", [jaxloss.arcface, jaxloss.cosface])
def test_vectors_that_are_not_normalised(logits: Any):
    """Their products are no cosines, and no plausible logits; what half precision rounds beyond 1 is one."""
    c = np.array([[3.0, 0.5], [0.5, -3.0], [1.015625, 0.5]], np.float32)

    def loss(c: Any) -> Any:
        return jaxloss.sparse_cce([0, 0, 0], logits([0, 0, 0], c), from_logits=True, reduction="none")

    assert np.isnan(loss(c)).tolist() == [True, True, False]
    with pytest.raises(ValueError, match=r"y_pred must be finite or -inf.* which is nan"):
        jaxloss.checked(loss)(c)


@pytest.mark.parametrize("logits", [jaxloss.arcface, jaxloss.cosface])
def test_what_logits_with_a_margin_refuse(logits: Any):
    c = np.zeros((2, 3), np.float32)
    for options in ({"margin": -0.1}, {"margin": 3.5}, {"scale": 0.0}, {"scale": np.ones(2, np.float32)}):
        with pytest.raises(ValueError, match=f"{logits.__name__}: {next(iter(options))} must be"):
            logits([0, 1], c, **options)
    with pytest.raises(ValueError, match=r"need labels of shape \(2,\).*y_true has shape \(3,\)"):
        logits([0, 1, 2], c)
    with pytest.raises(TypeError, match="integer labels, got float32"):
        logits([0.0, 1.0], c)
    with pytest.raises(TypeError, match="floating dtype, got int32"):
        logits([0, 1], c.astype(np.int32))


@pytest.mark.parametrize("name", mostly_slow(FEATURES, "vicreg"))
def test_sets_of_features(name: str):
    """Masked members are left out; a feature that all have in common, or that is 0, makes no NaN."""
    loss, (a, b) = jaxloss.LOSSES[name], embeddings(11)
    a[:, 3], b[:, 4] = 0.1, 0
    where = np.arange(11) % 4 != 1
    want, slopes = run(functools.partial(graded, loss), a[where], b[where])
    assert np.isfinite(want)
    assert all(np.isfinite(x).all() for x in slopes)
    spoiled = [np.where(where[:, None], x, np.nan) for x in (a, b)]
    value, got = run(functools.partial(graded, loss, where=where), *spoiled)
    close((value, [x[where] for x in got]), (want, slopes), "as without them", rtol=4e-6, atol=1e-6)
    assert all((x[~where] == 0).all() for x in got)
    value, got = run(functools.partial(graded, loss, where=where & False), *spoiled)
    assert value == 0
    assert all((x == 0).all() for x in got)
    frames = [x[:10].reshape(5, 2, 16) for x in (a, b)]
    close(run(functools.partial(loss, axis=(0, 1)), *frames), loss(a[:10], b[:10]), "two axes", rtol=2e-6)
    each = [loss(*(x[:, i] for x in frames)) for i in (0, 1)]
    np.testing.assert_allclose(loss(*frames, axis=0, reduction="none"), each, rtol=2e-6)
    exact = next(row for row in ROWS if row.name == name).oracle(*(np.float64(x) for x in (a, b)))
    np.testing.assert_allclose(loss(a, b), exact, rtol=2e-6)
    big = [(x + 4).astype(jnp.bfloat16) for x in (a, b)]
    exact = next(row for row in ROWS if row.name == name).oracle(*(np.asarray(x, np.float64) for x in big))
    np.testing.assert_allclose(loss(*big), exact, rtol=2e-5)
