"""What the losses of boxes have in common, whatever their formula."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import run, x64
from jax.sharding import PartitionSpec as P

import jaxloss
from jaxloss import boxes

LOSSES: dict[str, Any] = {name: loss for name, loss in jaxloss.LOSSES.items() if loss.__module__ == "jaxloss.boxes"}
LOSSES |= {f"alpha_{base}": functools.partial(jaxloss.alpha_iou, base=base) for base in ("giou", "diou", "ciou")}
LOSSES |= {name: functools.partial(LOSSES[name], iou_loss_mean=0.6) for name in ("wiou_v2", "wiou_v3")}


def some_boxes(seed: int, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    corners, sides = rng.uniform(0, 20, (2, n, 2)), rng.uniform(1, 20, (2, n, 2))
    target, box = np.concatenate([corners, corners + sides], -1)
    return target, box


def all_losses(*pairs: tuple[np.ndarray, np.ndarray], dtype: Any = np.float64) -> list[dict[str, np.ndarray]]:
    """The losses of all boxes by name, for each of the pairs."""
    with x64():
        return run(
            lambda pairs: [{name: loss(*pair, reduction="none") for name, loss in LOSSES.items()} for pair in pairs],
            [tuple(x.astype(dtype) for x in pair) for pair in pairs],
        )


def test_they_know_neither_place_nor_unit_nor_direction():
    target, box = some_boxes(0)
    move = np.array([640.0, -320.0] * 2)
    same, moved, smaller, transposed, swapped = all_losses(
        (target, box),
        (target + move, box + move),
        (target / 1024, box / 1024),
        (target[:, [1, 0, 3, 2]], box[:, [1, 0, 3, 2]]),
        (box, target),
    )
    for other in (moved, smaller, transposed, swapped):
        for name in LOSSES:
            np.testing.assert_allclose(other[name], same[name], rtol=1e-12, atol=1e-12, err_msg=name)
    for name in LOSSES:  # a power of two is exact
        np.testing.assert_array_equal(smaller[name], same[name], name)


def test_small_boxes_in_normalised_coordinates():
    """5e-4 of an image: an epsilon of 1e-7 in the denominator would make 0.636 of the 0.529."""
    target, box = [0.5001, 0.5001, 0.5006, 0.5006], [0.5, 0.5, 0.5005, 0.5005]
    with x64():
        np.testing.assert_allclose(jaxloss.iou(np.array(target), np.array(box)), 9 / 17, rtol=1e-11)
        np.testing.assert_allclose(jaxloss.giou(np.array(target), np.array(box)), 9 / 17 + 2 / 36, rtol=1e-11)
    offset = np.full(4, 0.5, np.float32)
    shifted = [np.array(x, np.float32) - offset for x in (target, box)]  # what float32 holds of them
    np.testing.assert_allclose(jaxloss.iou(target, box), jaxloss.iou(*shifted), rtol=1e-6)


@pytest.mark.parametrize("base", ["iou", "giou", "diou", "ciou"])
def test_alpha_iou_at_1_is_its_base(base: Any):
    target, box = (x.astype(np.float32) for x in some_boxes(1))

    def both(box: Any) -> Any:
        one = functools.partial(jaxloss.alpha_iou, power=1, base=base)
        return [jax.value_and_grad(loss, argnums=1)(target, box) for loss in (one, jaxloss.LOSSES[base])]

    (value, grad), (base_value, base_grad) = run(both, box)
    np.testing.assert_array_equal(value, base_value)
    np.testing.assert_array_equal(grad, base_grad)


@pytest.mark.slow  # the hard inputs are quicker
def test_finite_in_float32():
    """Without area, identical, touching, nested, far and inverted boxes, all with all."""
    kinds = [
        [0, 0, 0, 0], [0, 0, 8, 8], [8, 0, 16, 8], [2, 2, 6, 6], [3, 0, 3, 8], [0, 5, 8, 5], [5, 5, 5, 5],
        [1e6, -1e6, 1e6 + 1, 1 - 1e6], [0.5, 0.5, 0.5005, 0.5005], [8, 8, 0, 0], [8, 0, 0, 8],
    ]  # fmt: skip
    kinds = np.array(kinds, np.float32)
    target, box = np.repeat(kinds, len(kinds), 0), np.tile(kinds, (len(kinds), 1))

    def graded(target: Any, box: Any) -> Any:
        return {name: jax.vmap(jax.value_and_grad(loss, argnums=1))(target, box) for name, loss in LOSSES.items()}

    for name, (losses, grad) in run(graded, target, box).items():
        assert not np.isnan(losses).any()
        assert name == "iou_log" or np.isfinite(losses).all()
        assert (losses >= -1e-6).all(), name
        same = (target == box).all(1) & (box[:, 2:] > box[:, :2]).all(1)
        assert (losses[same] == 0).all(), name
        assert np.isfinite(grad).all(), name
        assert (grad[(target == box).all(1)] == 0).all(), name


def test_almost_identical_boxes_are_exact_in_float32():
    target = np.array([100, 200, 300, 500], np.float32)
    box = np.array([100, 200, 300, np.nextafter(target[3], np.float32(np.inf))], np.float32)
    gap = float(box[3]) - 500
    np.testing.assert_allclose(jaxloss.iou(target, box), gap / (300 + gap), rtol=1e-6)


def test_inverted_boxes_have_no_area():
    """Not the perfect score that (x2 - x1) (y2 - y1) > 0 would give them."""
    assert jaxloss.giou([0.0, 0.0, 10.0, 10.0], [10.0, 10.0, 0.0, 0.0]) == 1
    assert jaxloss.iou([0.0, 0.0, 10.0, 10.0], [10.0, 0.0, 0.0, 10.0]) == 1


def test_every_target_with_every_prediction():
    targets, predictions = (x.astype(np.float32) for x in some_boxes(2, 1000))
    pairwise = jax.jit(jax.vmap(jax.vmap(jaxloss.giou, in_axes=(None, 0)), in_axes=(0, None)))
    costs = pairwise(targets, predictions)
    assert costs.shape == (1000, 1000)
    np.testing.assert_allclose(np.diag(costs), jaxloss.giou(targets, predictions, reduction="none"), rtol=1e-6)
    row = jaxloss.giou(np.tile(targets[3], (1000, 1)), predictions, reduction="none")
    np.testing.assert_allclose(costs[3], row, rtol=1e-6)


def test_the_last_axis_holds_four_numbers():
    with pytest.raises(ValueError, match=r"giou: the last axis must hold x1, y1, x2, y2, but its size is 5"):
        jaxloss.giou(np.zeros((3, 5)), np.ones((3, 5)))


def test_from_cxcywh():
    np.testing.assert_array_equal(boxes.from_cxcywh([[5, 5, 4, 2], [0, 0, 1, 0]]), [[3, 4, 7, 6], [-0.5, 0, 0.5, 0]])
    assert boxes.from_cxcywh(jnp.ones((2, 3, 4), jnp.bfloat16)).dtype == jnp.bfloat16


def test_focal_eiou_detached_pulls_boxes_together():
    """At a small overlap the derivative of the weight would push them apart."""
    target = np.array([0, 0, 10, 10], np.float32)

    def slope(detach: bool) -> Any:
        def moved(x: Any) -> Any:
            box = jnp.asarray([9.0, 0.0, 19.0, 10.0]) + x * jnp.asarray([1.0, 0.0, 1.0, 0.0])
            return jaxloss.focal_eiou(target, box, detach=detach)

        return jax.grad(moved)(0.0)

    assert slope(True) > 0 > slope(False)


# ---------------------------------------------------------------------------------------------------------------------
# The running mean of WIoU


def test_the_mean_is_no_parameter():
    target, box = (x.astype(np.float32) for x in some_boxes(3, 4))
    for name in ("wiou_v2", "wiou_v3"):
        loss = jaxloss.LOSSES[name]
        by_mean = jax.jit(jax.value_and_grad(lambda m, loss=loss: loss(target, box, iou_loss_mean=m)))
        value, slope = by_mean(0.6)
        np.testing.assert_allclose(value, loss(target, box, iou_loss_mean=0.6), rtol=1e-6)
        assert slope == 0
        assert np.isfinite(by_mean(0.0)[0])
    by_mean = jax.grad(lambda m: jaxloss.update_iou_loss_mean(m, target, box, momentum=0.1))
    assert by_mean(0.6) == 0


def test_the_mean_of_no_boxes_stays():
    target, box = (x.astype(np.float32) for x in some_boxes(4, 4))
    update = functools.partial(jaxloss.update_iou_loss_mean, momentum=0.25)
    assert update(0.7, target[:0], box[:0]) == np.float32(0.7)
    assert update(0.7, np.full_like(target, np.nan), box, where=np.zeros(4, bool)) == np.float32(0.7)
    spoiled = np.where([[True], [False], [True], [True]], target, np.nan)
    kept = target[[0, 2, 3]], box[[0, 2, 3]]
    masked = jax.jit(update)(0.7, spoiled, box, where=np.array([True, False, True, True]))
    np.testing.assert_allclose(masked, update(0.7, *kept), rtol=1e-6)
    np.testing.assert_allclose(masked, 0.75 * 0.7 + 0.25 * jaxloss.iou(*kept), rtol=1e-6)


def test_the_mean_over_devices():
    target, box = (x.astype(np.float32) for x in some_boxes(5, 16))
    exists = np.arange(16) > 6
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def local(target: Any, box: Any, exists: Any) -> Any:
        return jaxloss.update_iou_loss_mean(1.0, target, box, momentum=0.5, where=exists, axis_name="data")

    spread = jax.shard_map(local, mesh=mesh, in_specs=P("data"), out_specs=P())
    whole = jaxloss.update_iou_loss_mean(1.0, target, box, momentum=0.5, where=exists)
    np.testing.assert_allclose(jax.jit(spread)(target, box, exists), whole, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["gpu"], indirect=True)
def test_any_batch_there(machine: str):
    """Where the corners of all boxes are read as columns of one array."""
    boxes = jnp.asarray(np.random.default_rng(0).uniform(0, 8, (2, 5, 4)), jnp.float32)
    target, box = boxes
    loss = jax.value_and_grad(jaxloss.giou, argnums=1)
    one_by_one = [loss(*pair) for pair in zip(target, box, strict=True)]
    values, slopes = (jnp.stack(x) for x in zip(*one_by_one, strict=True))
    grid = jax.vmap(jax.vmap(jaxloss.giou, (None, 0)), (0, None))(target, box)
    np.testing.assert_allclose(jnp.diagonal(grid), values, rtol=1e-6)
    total = jax.grad(functools.partial(jaxloss.giou, reduction="sum"), argnums=1)
    for shape in ((5, 1, 4), (1, 5, 4)):
        found = total(target.reshape(shape), box.reshape(shape))
        np.testing.assert_allclose(found.reshape(5, 4), slopes, rtol=1e-5, atol=1e-7)
    mapped = jax.vmap(loss, (1, 1))(target.T, box.T)
    np.testing.assert_allclose(mapped[1], slopes, rtol=1e-5, atol=1e-7)
