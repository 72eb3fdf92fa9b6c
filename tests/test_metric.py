"""What the losses of embeddings promise beside the contract: of sets, their masks, and their devices."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ROWS
from contract import close, run
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxloss

SETS = ("info_nce", "clip", "siglip", "nt_xent")
FEATURES = ("barlow_twins", "vicreg")
OF_LABELS = ("sup_con", "multi_similarity", "circle")
ORACLE = next(row.oracle for row in ROWS if row.name == "sup_con")
ORACLES = {row.name: row.oracle for row in ROWS if row.name in SETS}


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


@pytest.mark.parametrize("bad", [np.nan, np.inf])
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


@pytest.mark.parametrize("name", [*SETS, *FEATURES])
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


@pytest.mark.parametrize("name", OF_LABELS)
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


@pytest.mark.parametrize("name", OF_LABELS)
def test_labels_that_are_masked(name: str):
    """They are neither anchors nor candidates; nor does a vector of zeros, or a duplicate, make a NaN."""
    loss, x, labels = jaxloss.LOSSES[name], embeddings(9)[0], np.arange(9) % 3
    where = np.array([True, True, False, True, True, True, False, True, True])
    x[3], x[4] = x[0], 0
    want, slope = run(jax.value_and_grad(lambda x: loss(labels[where], x)), x[where])
    for given in (x, np.where(where[:, None], x, np.nan)):
        value, got = run(jax.value_and_grad(lambda x: loss(labels, x, where=where)), given)
        close((value, got[where]), (want, slope), "as without them", rtol=2e-6, atol=1e-6)
        assert (got[~where] == 0).all()
    value, got = run(jax.value_and_grad(lambda x: loss(labels, x, where=where & False)), x)
    assert value == 0
    assert (got == 0).all()
    assert loss([4], [[1.0, 2.0]]) == 0


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


@pytest.mark.parametrize("name", FEATURES)
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
