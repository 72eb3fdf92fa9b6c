"""Losses of masks: where their pixels lie, which of them exist, and classes that are absent."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import mostly_slow, run

import jaxloss
from jaxloss._platform import cpu
from jaxloss.segmentation import __all__ as NAMES

LOSSES = {name: jaxloss.LOSSES[name] for name in NAMES}
LOGITS = {name: functools.partial(loss, from_logits=True) for name, loss in LOSSES.items() if name != "lovasz_hinge"}
LOGITS |= {"lovasz_hinge": jaxloss.lovasz_hinge}
SOME = {name: LOGITS[name] for name in ("dice", "generalized_dice", "lovasz_hinge")}  # one of each kind
EACH = mostly_slow(NAMES, "dice", "lovasz_hinge")


def some_masks(seed: int = 0, shape: tuple[int, ...] = (2, 5, 4)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return np.eye(3, dtype=np.float32)[rng.integers(0, 3, shape)], rng.normal(size=(*shape, 3)).astype(np.float32)


def test_any_axes_may_hold_the_pixels():
    y, z = some_masks()
    transposed = y.transpose(1, 0, 2, 3), z.transpose(1, 0, 2, 3)
    flat = y.reshape(2, 20, 3), z.reshape(2, 20, 3)
    pooled = y.reshape(40, 3), z.reshape(40, 3)
    for name, loss in SOME.items():
        none = functools.partial(loss, reduction="none")
        images = none(y, z, axis=(1, 2))
        assert images.shape == ((2,) if name == "generalized_dice" else (2, 3))
        for other in (none(*transposed, axis=(0, 2)), none(*flat, axis=1), none(y, z, axis=(-2, -3))):
            np.testing.assert_allclose(other, images, rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(none(y, z, axis=(0, 1, 2)), none(*pooled, axis=0), rtol=1e-6)


def test_a_single_class_has_no_axis():
    y, z = (x[..., 0] for x in some_masks())
    for name, loss in SOME.items():
        single = loss(y, z, class_axis=None, reduction="none")
        assert single.shape == (2,)
        np.testing.assert_allclose(
            single, np.ravel(loss(y[..., None], z[..., None], axis=(1, 2), reduction="none")), 1e-6
        )
        np.testing.assert_allclose(loss(y, z, axis=(1, 2), class_axis=None, reduction="none"), single)
        if name != "lovasz_hinge":
            p = jax.nn.sigmoid(z)
            np.testing.assert_allclose(single, LOSSES[name](y, p, class_axis=None, reduction="none"), 1e-6)
    # Where no class sees another, it is the same whether the last axis is said to hold classes or not.
    p = jax.nn.sigmoid(z)
    np.testing.assert_allclose(jaxloss.dice(y, p, axis=(1, 2)), jaxloss.dice(y, p, class_axis=None))


@pytest.mark.parametrize("name", mostly_slow(NAMES, "lovasz_hinge"))
def test_any_axis_may_hold_the_classes(name: str):
    y, z = some_masks()
    loss = functools.partial(LOGITS[name], reduction="none")
    where = np.random.default_rng(2).random((2, 5, 4)) < 0.7
    want = loss(y, z, axis=(1, 2), where=where)
    np.testing.assert_allclose(loss(y, z, where=where), want, err_msg="the default")
    options = {"class_weights": np.array([1, 2, 4], np.float32), "pixel_weights": np.float32(where) + 1, "where": where}
    weighted = loss(y, z, **options)
    for axis in (1, -2, 0):
        moved = [np.moveaxis(x, -1, axis) for x in (y, z)]
        pixels = {0: (2, 3), 1: (2, 3), -2: (1, 3)}[axis]
        np.testing.assert_allclose(loss(*moved, axis=pixels, class_axis=axis, where=where), want, 1e-6)
        np.testing.assert_allclose(loss(*moved, axis=pixels, class_axis=axis, **options), weighted, 1e-6)
        if axis:
            np.testing.assert_allclose(loss(*moved, class_axis=axis, where=where), want, 1e-6)


@pytest.mark.parametrize("name", mostly_slow(NAMES, "dice"))
def test_integer_labels(name: str):
    y, z = some_masks()
    labels = y.argmax(-1)
    loss = LOGITS[name]

    def graded(y: Any, where: Any) -> Any:
        return jax.value_and_grad(functools.partial(loss, where=where, reduction="sum"), argnums=1)(y, z)

    where = np.random.default_rng(2).random((2, 5, 4)) < 0.7
    for got, want in zip(graded(labels, None), graded(y, None), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)
    ignored = np.where(where, labels, 255).astype(np.uint8)
    value, grad = graded(ignored, ignored != 255)
    for got, want in zip((value, grad), graded(y, where), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)
    losses = np.asarray(loss(np.where(where, labels, 3), z, reduction="none", where=np.array([True, False])))
    assert np.isnan(losses[0]).all()
    assert (losses[1] == 0).all()
    value, grad = jax.value_and_grad(loss, argnums=1)(np.where(where, labels, -1), z)
    assert np.isnan(value)
    assert (np.asarray(grad) == 0).all()
    moved = np.moveaxis(z, -1, 1)
    np.testing.assert_allclose(loss(labels, moved, class_axis=1), loss(labels, z), rtol=1e-6)
    labels[0, 0, 1] = 3
    with pytest.raises(ValueError, match=r"y_true must be in 0..2: 1 of 40 is not, the first at index \(0, 0, 1\)"):
        jaxloss.checked(loss)(labels, z)


@pytest.mark.parametrize("name", EACH)
def test_class_weights(name: str):
    y, z = some_masks(4)
    loss = functools.partial(LOGITS[name], reduction="none")
    weights = np.array([0.5, 1, 3], np.float32)
    got, plain = loss(y, z, class_weights=weights), loss(y, z)
    if name == "generalized_dice":
        p, w = np.asarray(jax.nn.softmax(z)), weights / y.sum((1, 2)) ** 2
        want = (w * (y + p - 2 * y * p).sum((1, 2))).sum(-1) / (w * (y + p).sum((1, 2))).sum(-1)
        np.testing.assert_allclose(got, want, rtol=1e-5)
        np.testing.assert_allclose(loss(y, z, class_weights=np.ones(3)), plain, rtol=1e-6)
    else:
        np.testing.assert_allclose(got, weights * np.asarray(plain), rtol=1e-6)
    with pytest.raises(ValueError, match=rf"{name}: class_weights has shape \(2,\), expected \(3,\)"):
        loss(y, z, class_weights=np.ones(2))


@pytest.mark.parametrize("name", EACH)
def test_whole_pixel_weights_repeat_pixels(name: str):
    """A weight of 0 leaves a pixel out, 2 counts it twice; what they multiply has no effect."""
    y, z = (x[0].reshape(20, 3) for x in some_masks(5))
    counts = np.random.default_rng(3).integers(0, 4, 20)
    where = np.random.default_rng(4).random(20) < 0.8
    loss = functools.partial(LOGITS[name], axis=0, reduction="none")
    repeated = [np.repeat(x[where], counts[where], 0) for x in (y, z)]

    def graded(z: Any) -> Any:
        weights = np.where(where, counts, np.nan).astype(np.float32)
        return jax.value_and_grad(lambda z: jax.numpy.sum(loss(y, z, pixel_weights=weights, where=where)))(z)

    value, grad = run(graded, np.where(where[:, None], z, np.nan))
    np.testing.assert_allclose(value, np.sum(loss(*repeated)), rtol=1e-5)
    # The same pixel twice is a tie, which the gradient of a Lovasz loss shares out: the sum is what one of them gets.
    each = np.asarray(jax.grad(lambda z: jax.numpy.sum(loss(repeated[0], z)))(repeated[1]))
    index = np.repeat(np.arange(20)[where], counts[where])
    summed = np.zeros((20, 3))
    np.add.at(summed, index, each)
    np.testing.assert_allclose(grad, summed, rtol=1e-4, atol=1e-6)
    scaled = loss(y, z, pixel_weights=np.float32(3) * counts)
    np.testing.assert_allclose(scaled, loss(y, z, pixel_weights=counts), rtol=1e-5)
    bad = counts.astype(np.float32)
    bad[3] = -1
    assert np.isnan(loss(y, z, pixel_weights=bad)).all()


def test_options_of_each_class():
    y, z = some_masks(6)
    alpha = np.array([0.1, 0.5, 0.9], np.float32)
    for shape in ((3,), (2, 3)):
        options = np.broadcast_to(alpha, shape)
        got = jaxloss.tversky(y, z, from_logits=True, alpha=options, beta=1 - options, smooth=options, reduction="none")
        for k, a in enumerate(alpha.tolist()):
            want = jaxloss.tversky(y, z, from_logits=True, alpha=a, beta=1 - a, smooth=a, reduction="none")
            np.testing.assert_allclose(got[:, k], want[:, k], rtol=1e-6)
    with pytest.raises(ValueError, match=r"tversky: alpha has shape \(2, 1\), the losses have shape \(2, 3\)"):
        jaxloss.tversky(y, z, from_logits=True, alpha=np.ones((2, 1)))


def test_a_mask_of_pixels_leaves_them_out():
    y, z = some_masks(1)
    pixels = np.random.default_rng(2).random((2, 5, 4)) < 0.6
    spoiled = [np.where(pixels[..., None], x, np.nan).astype(np.float32) for x in (y, z)]

    def graded(y: Any, z: Any) -> Any:
        return {
            name: jax.value_and_grad(functools.partial(loss, axis=(1, 2), where=pixels), argnums=1)(y, z)
            for name, loss in LOGITS.items()
        }

    for name, (value, grad) in run(graded, *spoiled).items():
        alone = [LOGITS[name](y[i][pixels[i]], z[i][pixels[i]], axis=0) for i in (0, 1)]
        np.testing.assert_allclose(value, np.mean(alone), rtol=1e-6, err_msg=name)
        assert (grad[~pixels] == 0).all()
        assert np.isfinite(grad).all()
        assert (grad[pixels] != 0).any()


def test_an_example_without_pixels_is_not_counted():
    y, z = some_masks(3)
    exists = np.array([True, False])
    for name, loss in SOME.items():
        np.testing.assert_allclose(loss(y, z, axis=(1, 2), where=exists), loss(y[:1], z[:1], axis=(1, 2)), rtol=1e-6)
        assert (np.asarray(loss(y, z, axis=(1, 2), where=exists, reduction="none"))[1] == 0).all(), name
        assert loss(y, z, axis=(1, 2), where=np.zeros((2, 5), bool)) == 0


@pytest.mark.parametrize("name", ["dice", "tversky", "focal_tversky", "jaccard", "lovasz_softmax"])
def test_absent_classes(name: str):
    y, nothing = np.zeros((6, 1), np.float32), np.zeros((6, 1), np.float32)
    loss = functools.partial(LOSSES[name], axis=0)
    for p, wanted in ((nothing, 0), (nothing + 0.5, 0.5 if name == "lovasz_softmax" else 1), (nothing + 1, 1)):
        value, grad = jax.value_and_grad(loss, argnums=1)(y, p)
        assert value == wanted
        assert np.isfinite(grad).all()


def test_generalized_dice_with_absent_classes():
    y = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
    loss = functools.partial(jaxloss.generalized_dice, axis=0)
    assert loss(y, y) == 0
    wrong = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 1]], np.float32)  # the absent class weighs as the second one, 1
    np.testing.assert_allclose(loss(y, wrong), 2 / (4 / 4 + 2), rtol=1e-6)
    assert loss(0 * y, 0 * y) == 0
    np.testing.assert_allclose(loss(0 * y, y), 1)


@pytest.mark.parametrize("name", EACH)
def test_outside_the_domain(name: str):
    y, p = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32), np.array([[0.5, 0.25], [0.5, 0.25]], np.float32)
    labels = np.array([[3.0, 0.0], [0.0, 1.0]], np.float32)  # integer labels that should have been one-hot
    losses = np.asarray(LOSSES[name](labels, p, axis=0, reduction="none"))
    assert np.isnan(losses.ravel()[0])
    assert losses.ndim == 0 or not np.isnan(losses[1])
    if name != "lovasz_hinge":
        logits = 3 * p
        assert np.isnan(LOSSES[name](y, logits, axis=0))
        assert (np.asarray(jax.grad(LOSSES[name], argnums=1)(y, logits, axis=0))[:, 0] == 0).all()
    for i, value in ((0, np.nan), (1, np.nan), (0, -1.0)):  # from logits too, and no gradient is NaN
        arrays = [y.copy(), p.copy()]
        arrays[i][0, 0] = value
        loss, grads = jax.value_and_grad(LOGITS[name], argnums=(0, 1))(*arrays, axis=0)
        assert np.isnan(loss)
        assert all(np.isfinite(g).all() for g in grads)


def test_errors_are_sorted_as_one_number_each():
    """By their bits, with the place: the largest first, equal ones as they stand."""
    errors = np.array([[0.5, 0, 1, -0.0, 3e38, 1, np.inf, 1e-37, 0.5, 1]], np.float32)
    place, sorted_errors = cpu.in_order(jnp.asarray(-errors), jnp.abs(errors))
    wanted = np.argsort(-errors, kind="stable")
    np.testing.assert_array_equal(place, wanted)
    np.testing.assert_array_equal(sorted_errors, errors[:, wanted[0]])
    np.testing.assert_array_equal(cpu.put_back(place, sorted_errors), errors)


def test_lovasz_extends_the_jaccard_loss():
    """At predictions of 0 and 1 it is the Jaccard loss itself, for all pairs of masks of four pixels."""
    masks = (np.arange(16)[:, None] >> np.arange(4) & 1).astype(np.float32)
    y, p = np.repeat(masks, 16, 0), np.tile(masks, (16, 1))
    losses = jaxloss.lovasz_softmax(y, p, axis=1, reduction="none")
    np.testing.assert_allclose(losses, jaxloss.jaccard(y, p, axis=1, reduction="none"), atol=1e-6)
    hinge = jaxloss.lovasz_hinge(y, 4 * p - 2, axis=1, reduction="none")  # a hinge loss is 3 where wrong, 0 where right
    np.testing.assert_allclose(hinge, 3 * losses, atol=1e-6)


def test_what_does_not_fit_is_refused():
    y, z = some_masks()
    with pytest.raises(ValueError, match=r"dice: axis \(1, 4\) must name different axes"):
        jaxloss.dice(y, z, axis=(1, 4))
    with pytest.raises(ValueError, match=r"dice: axis \(1, -3\) must name different axes"):
        jaxloss.dice(y, z, axis=(1, -3))
    with pytest.raises(ValueError, match=r"dice: axis must name at least one axis of pixels, got \(\)"):
        jaxloss.dice(y, z, axis=())
    with pytest.raises(ValueError, match=r"dice: class_axis 4 is out of range for y_pred with 4 axes"):
        jaxloss.dice(y, z, class_axis=4)
    with pytest.raises(ValueError, match=r"dice: y_pred has shape \(5, 3\), so no axis is left for pixels.*axis=0"):
        jaxloss.dice(y[0, 0, :1].repeat(5, 0), np.zeros((5, 3), np.float32))
    with pytest.raises(ValueError, match=r"dice: where has shape \(5, 4\).*from the left"):
        jaxloss.dice(y, z, axis=(1, 2), where=np.ones((5, 4), bool))
    with pytest.raises(TypeError, match="where must be bool"):
        jaxloss.dice(y, z, axis=(1, 2), where=np.ones((2, 5, 4)))
    with pytest.raises(ValueError, match=r"jaccard: y_true has shape \(2, 5, 4\).*jax.nn.one_hot\(y_true, K\)"):
        jaxloss.jaccard(y[..., 0], z, axis=(1, 2))
    with pytest.raises(ValueError, match=r"dice: pixel_weights has shape|dice: .*pixel_weights has shape \(5, 4\)"):
        jaxloss.dice(y, z, pixel_weights=np.ones((5, 4)))


def test_pixels_where_the_classes_should_be():
    """The classes of (batch, classes, height, width) were silently taken for a batch of single ones."""
    y, z = (np.moveaxis(x, -1, 1) for x in some_masks())
    for name, loss in LOGITS.items():
        if name != "lovasz_hinge":  # which sees each class alone
            with pytest.raises(
                ValueError, match=rf"{name}: axis \(2, 3\) names axis -1 .*class_axis=None.*class_axis=1"
            ):
                loss(y, z, axis=(2, 3))
    last = [np.moveaxis(x, 1, -1) for x in (y, z)]
    got = jaxloss.dice(y, z, from_logits=True, axis=(2, 3), class_axis=1)
    np.testing.assert_allclose(got, jaxloss.dice(*last, from_logits=True), rtol=1e-6)


@pytest.mark.parametrize("name", ["tversky", "focal_tversky"])
@pytest.mark.parametrize("traced", ["alpha", "beta"])
def test_one_option_is_traced_and_the_other_is_a_number(name: str, traced: str):
    y, z = some_masks()
    loss = functools.partial(getattr(jaxloss, name), y, z, from_logits=True)
    np.testing.assert_allclose(loss(**{traced: np.float32(0.25)}), loss(**{traced: 0.25}), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(lambda x: loss(**{traced: x}))(0.25), loss(**{traced: 0.25}), rtol=1e-6)
