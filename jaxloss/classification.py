"""Classification losses. `K` classes, logits `z`, probabilities `p`, targets `y` (labels or distributions).

The unit is an example, which consumes the class axis; for `bce` it is an element.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from jaxloss._legacy import ArrayLike, Reduction, batched, check_option, compiled, widened
from jaxloss._math import (
    STEEPEST,
    constants,
    cross_entropy,
    is_label,
    is_zero,
    log_complement,
    log_normaliser,
    log_probability,
    mixed,
    of_share,
    pick,
    poisoned,
    rounding,
    row_sum,
    slopes,
    smoothed,
    softplus,
    surprise_of_shares,
    targets,
)

__all__ = ["bce", "cce", "nll", "sparse_cce"]


@compiled
def cce(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    from_logits: bool = False,
    label_smoothing: float | Array = 0.0,
    class_weights: ArrayLike | None = None,
    z_loss: float | Array = 0.0,
    axis: int = -1,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Categorical cross-entropy with dense targets: `-sum_k y_k log p_k`.

    From logits, `log p_k = z_k - logsumexp(z)`. From probabilities (the default), each row is first divided by its
    sum; a row of zeros counts as uniform. At p = 0 the logarithm is that of the smallest normal number, so finite.

    Args:
      y_true: (..., K) target distributions, one-hot or soft.
      y_pred: (..., K) probabilities, or logits if `from_logits`.
      from_logits: whether `y_pred` holds logits; they are more exact than probabilities.
      label_smoothing: a in [0, 1]; the targets become `(1 - a) y + a / K`.
      class_weights: (K,) factors of the terms of the sum.
      z_loss: c; adds `c logsumexp(z)^2`, which keeps the normaliser of logits near 1.
      axis: the class axis.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over examples; with `reduction="none"` one loss an example, of shape (...).

    Raises:
      ValueError: shapes that differ, options out of range. TypeError: `y_pred` of integer dtype.
      A probability below 0 (by more than rounding) makes its example NaN, with zero gradient.

    Example:
      >>> print(cce([[0, 1, 0], [0, 0, 1]], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]]))  # -(log 0.95 + log 0.1) / 2
      1.1769392

    Source: Goodfellow, Bengio and Courville, Deep Learning (2016), 6.2; label smoothing: Szegedy et al. 2016,
    arXiv 1512.00567; z-loss: Chowdhery et al. 2022, arXiv 2204.02311. Agrees with
    keras.losses.CategoricalCrossentropy, with optax.softmax_cross_entropy and, for distributions as targets, with
    torch.nn.functional.cross_entropy (both from logits).
    """
    check_option("cce", "label_smoothing", label_smoothing, 0, 1)
    check_option("cce", "class_weights", class_weights)
    slack = rounding(y_pred)

    def example(y: Array, scores: Array) -> Array:
        row = widened(scores)
        valid, surprise, _, penalty = _surprise(row, scores, from_logits, z_loss, slack)
        given = {"y": y}
        if not is_zero(label_smoothing):
            given["label_smoothing"] = jnp.asarray(label_smoothing, row.dtype)
        if class_weights is not None:
            given["weight"] = _per_class("cce", class_weights, row)
        loss = cross_entropy(given, row, scores) if from_logits else jnp.sum(targets(row.size, **given) * surprise(row))
        return poisoned(valid, loss + penalty)

    return batched(
        example,
        (y_true, y_pred),
        core_ndims=(1, 1),
        kinds=("number", "logits" if from_logits else "score"),
        domains=("distribution", "logits" if from_logits else "distribution"),
        axis=axis,
        weights=weights,
        where=where,
        reduction=reduction,
    )


@compiled
def sparse_cce(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    from_logits: bool = False,
    label_smoothing: float | Array = 0.0,
    class_weights: ArrayLike | None = None,
    z_loss: float | Array = 0.0,
    axis: int = -1,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Categorical cross-entropy with integer labels: `-log p[y]`, equal to `cce` of the one-hot without making it.

    Ignored labels are a mask: `where=y_true != -100`.

    Args:
      y_true: (...) integer labels in 0..K-1.
      y_pred: (..., K) probabilities, or logits if `from_logits`.
      from_logits, label_smoothing, class_weights, z_loss, axis: as for `cce`. With smoothing a the loss is
        `(1 - a) w[y] s[y] + a mean_k(w[k] s[k])` where `s = -log p` and w are the class weights.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over examples; with `reduction="none"` one loss an example, of shape (...).

    Raises:
      ValueError: shapes that do not fit, options out of range. TypeError: labels of floating dtype, or `y_pred` of
      integer dtype. A label outside 0..K-1 makes its example NaN, with zero gradient.

    Example:
      >>> print(sparse_cce([1, 2], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]]))  # -(log 0.95 + log 0.1) / 2
      1.1769392

    Source: as for `cce`. Agrees with keras.losses.SparseCategoricalCrossentropy, with
    optax.softmax_cross_entropy_with_integer_labels, and with torch.nn.functional.cross_entropy, whose mean with class
    weights is this one with `weights=class_weights[y_true]` instead.
    """
    check_option("sparse_cce", "label_smoothing", label_smoothing, 0, 1)
    check_option("sparse_cce", "class_weights", class_weights)
    slack = rounding(y_pred)

    def example(label: Array, scores: Array) -> Array:
        row = widened(scores)
        valid, surprise, mean_surprise, penalty = _surprise(row, scores, from_logits, z_loss, slack)
        loss = surprise(pick(row, label, scores))
        weight = None if class_weights is None else _per_class("sparse_cce", class_weights, row)
        if weight is not None:
            loss = pick(weight, label, weight) * loss
        if not is_zero(label_smoothing):
            a = jnp.asarray(label_smoothing, row.dtype)
            loss = mixed(a, loss, mean_surprise(weight))
        return poisoned(valid & is_label(label, scores.size), loss + penalty)

    return batched(
        example,
        (y_true, y_pred),
        core_ndims=(0, 1),
        kinds=("label", "logits"),
        domains=("label", "logits" if from_logits else "distribution"),
        axis=axis,
        weights=weights,
        where=where,
        reduction=reduction,
    )


def _surprise(
    row: Array, stored: Array, from_logits: bool, z_loss: float | Array, slack: float
) -> tuple[Array | bool, Callable[[Array], Array], Callable[[Array | None], Array], Array | float]:
    """What a row of scores says of its classes.

    Whether it is valid; -log p as a function of a score; the mean of w (-log p) over the classes as a function of
    their weights; and the penalty of the normaliser.
    """
    if from_logits:
        shift, log_sum = log_normaliser(row, stored)
        log_total = shift + log_sum
        # A product, not a square: its derivative is finite for the largest logits.
        penalty = 0.0 if is_zero(z_loss) else jnp.asarray(z_loss, row.dtype) * log_total * log_total

        def mean_of_logits(weight: Array | None) -> Array:
            mean_weight = 1 if weight is None else jnp.mean(weight)
            return log_sum * mean_weight - row_sum(row, stored, shift, weight) / row.size

        return True, lambda z: log_sum - (z - shift), mean_of_logits, penalty

    def mean(weight: Array | None) -> Array:
        return surprise_of_shares(weight, row, stored) / row.size

    surprise = of_share(row, lambda share: -log_probability(share))
    return jnp.min(stored).astype(row.dtype) >= -slack, surprise, mean, 0.0


def _per_class(loss: str, class_weights: ArrayLike, row: Array) -> Array:
    given = jnp.asarray(class_weights, row.dtype)
    if given.shape != row.shape:
        raise ValueError(f"{loss}: class_weights has shape {given.shape}, expected {row.shape}: one for each class.")
    return given * jnp.ones_like(row)  # laid out over the devices as the row is


@compiled
def bce(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    from_logits: bool = False,
    label_smoothing: float | Array = 0.0,
    pos_weight: float | Array | None = None,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Binary cross-entropy: `-y log p - (1 - y) log(1 - p)`.

    From logits, `p = sigmoid(z)` and the loss is `max(z, 0) - z y + log1p(exp(-abs(z)))`. From probabilities, the
    logarithms are exact for every p; at 0 they are that of the smallest normal number, so finite.

    Args:
      y_true: (...) targets in [0, 1].
      y_pred: (...) probabilities, or logits if `from_logits`.
      from_logits: whether `y_pred` holds logits; they are more exact than probabilities.
      label_smoothing: a in [0, 1]; the targets become `(1 - a) y + a / 2`.
      pos_weight: factor of the term `y log p`: a number, or one for each entry of the last axis.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over elements; with `reduction="none"` one loss an element, of shape (...).

    Raises:
      ValueError: shapes that differ, options out of range. TypeError: `y_pred` of integer dtype.
      A probability outside [0, 1] (by more than rounding) makes its element NaN, with zero gradient.

    Example:
      >>> print(bce([[0], [1]], [[0.4], [0.6]]))  # -log 0.6
      0.510825...

    Source: Goodfellow, Bengio and Courville, Deep Learning (2016), 6.2. Agrees with keras.losses.BinaryCrossentropy,
    torch.nn.functional.binary_cross_entropy (and _with_logits, with pos_weight), and
    optax.sigmoid_binary_cross_entropy.
    """
    check_option("bce", "label_smoothing", label_smoothing, 0, 1)
    check_option("bce", "pos_weight", pos_weight, low=0)
    slack = rounding(y_pred)
    arrays: tuple[ArrayLike, ...] = (y_true, y_pred)
    if pos_weight is not None:
        arrays = (y_true, y_pred, _per_entry(pos_weight, jnp.asarray(y_pred)))

    def example(y: Array, score: Array, positive: Array | None = None) -> Array:
        y = smoothed(y, label_smoothing, 2)
        loss = bce_of_logit(y, score) if from_logits else bce_of_probability(y, score, slack)
        if positive is not None:
            loss += (positive - 1) * y * (softplus(-score) if from_logits else -log_probability(score))
        return loss

    return batched(
        example,
        arrays,
        core_ndims=(0, 0, 0)[: len(arrays)],
        kinds=("number", "score", "number")[: len(arrays)],
        domains=("probability", "number" if from_logits else "probability", "at least 0")[: len(arrays)],
        names=("y_true", "y_pred", "pos_weight")[: len(arrays)],
        weights=weights,
        where=where,
        reduction=reduction,
    )


def _per_entry(pos_weight: ArrayLike, y_pred: Array) -> Array:
    """The weight of each element, laid out over the devices as y_pred is."""
    given = jnp.asarray(pos_weight, jnp.float64 if y_pred.dtype == jnp.float64 else jnp.float32)
    if given.shape not in ((), y_pred.shape[-1:]):
        raise ValueError(
            f"bce: pos_weight has shape {given.shape}, expected () or {y_pred.shape[-1:]}: one for each entry of the "
            "last axis of y_pred."
        )
    if given.ndim < y_pred.ndim:
        given = jnp.expand_dims(given, tuple(range(y_pred.ndim - given.ndim)))
    # `ones_like` would be a number without a layout in jax 0.12.
    return given * ((y_pred == y_pred) | True).astype(given.dtype)


def _sigmoid_minus(y: Array, z: Array) -> Array:
    """sigmoid(z) - y, exact also where the two are almost equal."""
    zero, one = constants(0, 1, like=z)
    small = jnp.exp(-jnp.abs(z))
    # At 0 the side that abs is differentiated on.
    return jnp.where(z >= zero, one - y - y * small, (one - y) * small - y) / (one + small)


@slopes(lambda y, z: -z, _sigmoid_minus)
def bce_of_logit(y: Array, z: Array) -> Array:
    return jnp.maximum(z, 0) - z * y + jnp.log1p(jnp.exp(-jnp.abs(z)))


def bce_of_probability(y: Array, p: Array, slack: float) -> Array:
    def slope(y: Array, p: Array) -> Array:
        zero, one, least, outside = constants(0, 1, STEEPEST, -slack, like=p)
        steep = (one - y) / jnp.maximum(one - p, least) - y / jnp.maximum(p, least)
        return jnp.where(p * (one - p) >= outside, steep, zero)

    @slopes(lambda y, p: log_complement(p) - log_probability(p), slope)
    def loss(y: Array, p: Array) -> Array:
        # The root is NaN outside [0, 1], but for rounding; a select would keep XLA from fusing the loss with its sum.
        poison = 0 * jnp.sqrt(p * (1 - p) + slack)
        return poison - y * log_probability(p) - (1 - y) * log_complement(p)

    return loss(y, p)


@compiled
def nll(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    class_weights: ArrayLike | None = None,
    axis: int = -1,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Negative log-likelihood of integer labels: `-w[y] log_p[y]`, from log-probabilities.

    The log-probabilities are taken as they are: `sparse_cce` is this of a log-softmax, and more exact.

    Args:
      y_true: (...) integer labels in 0..K-1.
      y_pred: (..., K) log-probabilities.
      class_weights: (K,) factors w.
      axis: the class axis.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over examples; with `reduction="none"` one loss an example, of shape (...).

    Raises:
      ValueError: shapes that do not fit. TypeError: labels of floating dtype, or `y_pred` of integer dtype.
      A label outside 0..K-1 makes its example NaN, with zero gradient.

    Example:
      >>> print(nll([1, 0], [[-2.0, -0.5], [-1.0, -3.0]]))  # (0.5 + 1) / 2
      0.75

    Source: Bishop, Pattern Recognition and Machine Learning (2006), 4.3.4. Agrees with torch.nn.functional.nll_loss,
    whose mean with class weights is this one with `weights=class_weights[y_true]` instead.
    """
    check_option("nll", "class_weights", class_weights)

    def example(label: Array, scores: Array) -> Array:
        row = widened(scores)
        loss = -pick(row, label, scores)
        if class_weights is not None:
            weight = _per_class("nll", class_weights, row)
            loss = pick(weight, label, weight) * loss
        return poisoned(is_label(label, row.size), loss)

    return batched(
        example,
        (y_true, y_pred),
        core_ndims=(0, 1),
        kinds=("label", "logits"),
        domains=("label", "log distribution"),
        axis=axis,
        weights=weights,
        where=where,
        reduction=reduction,
    )
