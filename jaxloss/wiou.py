"""WIoU: the IoU loss of boxes, weighed by how far their centres are apart and by how a box does compared with others.

Terms and inputs as in `jaxloss.boxes`. `L = 1 - IoU`; the weights of v2 and v3 depend on a running mean of L. There is
no hidden state: the mean is an argument, and `update_iou_loss_mean` returns the next one. As in the authors' code, a
batch enters the mean before its losses are computed::

    mean = update_iou_loss_mean(mean, targets, boxes, momentum=0.01)  # start with mean = 1.0
    loss = wiou_v3(targets, boxes, iou_loss_mean=mean)
"""

from __future__ import annotations

from collections.abc import Hashable

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._boxes import Pair, each_pair
from jaxloss._legacy import ArrayLike, Reduction, _spread, check_option, compiled
from jaxloss._special import ratio
from jaxloss.boxes import iou

__all__ = ["wiou_v1", "wiou_v2", "wiou_v3"]


@compiled
def wiou_v1(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Wise IoU loss, v1: `exp(rho^2 / c^2) (1 - IoU)`, where c is a constant for the derivative.

    Args:
      y_true: (..., 4) target boxes, x1 y1 x2 y2.
      y_pred: (..., 4) predicted boxes.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over boxes; with `reduction="none"` one loss a box, of shape (...).

    Raises:
      ValueError: shapes that differ, or a last axis that is not of size 4.

    Example:
      >>> loss = wiou_v1([0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 4.0, 2.0])
      >>> print(f"{loss:.6f}")  # exp(4 / 20)
      1.221403

    Source: Tong et al. 2023, arXiv 2301.10051. Agrees with the authors' code, which has NaN for boxes without area.
    """

    def example(b: Pair) -> Array:
        return _v1(b)

    return each_pair(example, y_true, y_pred, weights, where, reduction)


@compiled
def wiou_v2(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    iou_loss_mean: float | Array,
    gamma: float | Array = 0.5,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Wise IoU loss, v2: `(L / mean)^gamma wiou_v1`; the weight is a constant for the derivative.

    Args:
      y_true: (..., 4) target boxes, x1 y1 x2 y2.
      y_pred: (..., 4) predicted boxes.
      iou_loss_mean: the running mean of L, see `update_iou_loss_mean`.
      gamma: at least 0; the larger, the less the boxes count that already fit.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over boxes; with `reduction="none"` one loss a box, of shape (...).

    Raises:
      ValueError: shapes that differ, or a last axis that is not of size 4, a negative mean or gamma.

    Example:
      >>> loss = wiou_v2([0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 4.0, 2.0], iou_loss_mean=0.25)
      >>> print(f"{loss:.6f}")  # sqrt(1 / 0.25) exp(4 / 20)
      2.442806

    Source: Tong et al. 2023, arXiv 2301.10051. Agrees with the authors' code, which has NaN for boxes without area.
    """
    check_option("wiou_v2", "iou_loss_mean", iou_loss_mean, low=0)
    check_option("wiou_v2", "gamma", gamma, low=0)

    def example(b: Pair) -> Array:
        weight = _relative(b, iou_loss_mean) ** jnp.asarray(gamma, b.missed.dtype)
        return jax.lax.stop_gradient(weight) * _v1(b)

    return each_pair(example, y_true, y_pred, weights, where, reduction)


@compiled
def wiou_v3(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    iou_loss_mean: float | Array,
    alpha: float | Array = 1.9,
    delta: float | Array = 3.0,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Wise IoU loss, v3: `r wiou_v1`, where `r = b / (delta alpha^(b - delta))` and `b = L / mean`.

    The derivative takes r for a constant. It is largest at b = 1 / log(alpha); boxes that fit well and boxes that fit
    very badly count little.

    Args:
      y_true: (..., 4) target boxes, x1 y1 x2 y2.
      y_pred: (..., 4) predicted boxes.
      iou_loss_mean: the running mean of L, see `update_iou_loss_mean`.
      alpha: above 1; how fast the weight of bad boxes falls.
      delta: the b at which r = 1, positive.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over boxes; with `reduction="none"` one loss a box, of shape (...).

    Raises:
      ValueError: shapes that differ, or a last axis that is not of size 4, a negative mean, an alpha
      of less than 1, a delta that is not positive.

    Example:
      >>> loss = wiou_v3([0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 4.0, 2.0], iou_loss_mean=1 / 3)
      >>> print(f"{loss:.6f}")  # b = delta, so r = 1: exp(4 / 20)
      1.221403

    Source: Tong et al. 2023, arXiv 2301.10051. Agrees with the authors' code, which has NaN for boxes without area.
    Its second version has
    alpha = 1.7 and delta = 2.7.
    """
    check_option("wiou_v3", "iou_loss_mean", iou_loss_mean, low=0)
    check_option("wiou_v3", "alpha", alpha, low=1)
    check_option("wiou_v3", "delta", delta, low=1e-6)

    def example(b: Pair) -> Array:
        a, d = jnp.asarray(alpha, b.missed.dtype), jnp.asarray(delta, b.missed.dtype)
        relative = _relative(b, iou_loss_mean)
        weight = relative / d * jnp.exp(-(relative - d) * jnp.log(a))  # no power: it would overflow
        return jax.lax.stop_gradient(weight) * _v1(b)

    return each_pair(example, y_true, y_pred, weights, where, reduction)


def update_iou_loss_mean(
    iou_loss_mean: float | Array,
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    momentum: float | Array,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Array:
    """The next running mean: `(1 - momentum) mean + momentum (mean of 1 - IoU over the boxes)`.

    A pure function: keep the mean with the other state of the training, and begin with 1. Without a box the mean stays
    as it is. No gradient passes.

    Args:
      iou_loss_mean: the mean up to now.
      y_true: (..., 4) target boxes, x1 y1 x2 y2.
      y_pred: (..., 4) predicted boxes.
      momentum: in [0, 1], the share of the new batch. The authors have 0.01; or `1 - 0.05^(1 / n)` for n batches until
        the mean has forgotten all but 5 % of its beginning.
      where: which boxes exist.
      axis_name: inside `shard_map`, the mesh axis over which the boxes are spread: all devices get the mean of all.

    Returns:
      The next mean, a scalar.

    Example:
      >>> print(update_iou_loss_mean(1.0, [[0.0, 0.0, 4.0, 4.0]], [[0.0, 0.0, 4.0, 2.0]], momentum=0.5))
      0.75

    Source: Tong et al. 2023, arXiv 2301.10051.
    """
    check_option("update_iou_loss_mean", "momentum", momentum, 0, 1)
    losses = iou(y_true, y_pred, where=where, reduction="none")
    exist = jnp.ones_like(losses) if where is None else _spread(jnp.asarray(where).astype(losses.dtype), losses.shape)
    sums = jnp.stack([jnp.sum(losses), jnp.sum(exist)])
    if axis_name is not None:
        sums = jax.lax.psum(sums, axis_name)
    mean, rate = (jnp.asarray(x, losses.dtype) for x in (iou_loss_mean, momentum))
    batch_mean = jnp.where(sums[1] > 0, ratio(sums[0], sums[1]), mean)
    return jax.lax.stop_gradient(mean + rate * (batch_mean - mean))


def _v1(b: Pair) -> Array:
    diagonal = jax.lax.stop_gradient(b.around_w * b.around_w + b.around_h * b.around_h)
    return jnp.exp(ratio(b.dx * b.dx + b.dy * b.dy, diagonal)) * b.missed


def _relative(b: Pair, iou_loss_mean: float | Array) -> Array:
    """L / mean; finite for a mean of 0."""
    mean = jnp.asarray(iou_loss_mean, b.missed.dtype)
    return b.missed / jnp.maximum(mean, jnp.finfo(mean.dtype).tiny)
