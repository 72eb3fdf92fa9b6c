"""Losses of masks: where their pixels lie, which of them exist, and classes that are absent."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import pytest
from contract import run

import jaxloss
from jaxloss.segmentation import __all__ as NAMES

LOSSES = {name: jaxloss.LOSSES[name] for name in NAMES}
LOGITS = {name: functools.partial(loss, from_logits=True) for name, loss in LOSSES.items() if name != "lovasz_hinge"}
LOGITS |= {"lovasz_hinge": jaxloss.lovasz_hinge}
SOME = {name: LOGITS[name] for name in ("dice", "generalized_dice", "lovasz_hinge")}  # one of each kind


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


def test_masks_without_a_class_axis_are_one_class():
    y, z = (x[..., 0] for x in some_masks())
    for name, loss in SOME.items():
        single = loss(y, z, axis=(1, 2), class_axis=None, reduction="none")
        assert single.shape == (2,)
        np.testing.assert_allclose(
            single, np.ravel(loss(y[..., None], z[..., None], axis=(1, 2), reduction="none")), 1e-6
        )
        if name != "lovasz_hinge":
            np.testing.assert_allclose(
                single, LOSSES[name](y, jax.nn.sigmoid(z), axis=(1, 2), class_axis=None, reduction="none"), 1e-6
            )


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


@pytest.mark.parametrize("name", NAMES)
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
    with pytest.raises(ValueError, match=r"dice: where has shape \(5, 4\).*from the left"):
        jaxloss.dice(y, z, axis=(1, 2), where=np.ones((5, 4), bool))
    with pytest.raises(TypeError, match="where must be bool"):
        jaxloss.dice(y, z, axis=(1, 2), where=np.ones((2, 5, 4)))
    with pytest.raises(ValueError, match=r"jaccard: y_true has shape \(2, 5, 4\)"):
        jaxloss.jaccard(y[..., 0], z, axis=(1, 2))
