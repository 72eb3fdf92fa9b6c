"""Classification losses. `K` classes, logits `z`, probabilities `p`, targets `y` (labels or distributions).

The unit is an example, which consumes the class axis; for `bce` it is an element.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._contract.types import STORED_TARGETS, ClassStats
from jaxloss._numerics.elementary import (
    bce_of_logit,
    bce_of_probability,
    weighted_bce_of_logit,
    weighted_bce_of_probability,
)
from jaxloss._numerics.rows import Row, entropy, normaliser, smoothed, take_label
from jaxloss._numerics.scores import Logits, interpolate, read, weighed
from jaxloss.contract import (
    AT_LEAST_0,
    FINITE,
    FRACTION,
    LABEL,
    LOG_DISTRIBUTION,
    LOG_PROBABILITIES,
    LOGITS,
    PER_CLASS,
    PROBABILITIES,
    PROBABILITY,
    SCORE,
    TARGET,
    ArrayLike,
    Units,
    compiled,
    loss,
    losses,
)

__all__ = ["bce", "cce", "cce_stats", "nll", "sparse_cce", "sparse_cce_stats"]


@loss
def cce(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    from_logits: bool = False,
    label_smoothing: float | ArrayLike = 0.0,
    class_weights: ArrayLike | None = None,
    z_loss: float | ArrayLike = 0.0,
    axis: int = -1,
    **units: Unpack[Units],
) -> Array:
    """Categorical cross-entropy with dense targets: `-sum_k y_k log p_k`.

    From logits, `log p_k = z_k - logsumexp(z)`. From probabilities (the default), each row is first divided by its
    sum; a row of zeros counts as uniform. At p = 0 the logarithm is that of the smallest normal number, so finite.

    Args:
      y_true: (..., K) target distributions, one-hot or soft.
      y_pred: (..., K) probabilities, or logits if `from_logits`.
      from_logits: whether `y_pred` holds logits; they are more exact than probabilities. Nothing can tell probabilities
        that are said to be logits.
      label_smoothing: a in [0, 1]; the targets become `(1 - a) y + a / K`.
      class_weights: (K,) factors of the terms of the sum.
      z_loss: c; adds `c logsumexp(z)^2`, which keeps the normaliser of logits near 1. With probabilities, which have no
        normaliser, it adds nothing.
      axis: the class axis.

    Returns:
      The mean over examples; with `reduction="none"` one loss per example, shape (...).

    Raises:
      ValueError: shapes that differ, options out of range. TypeError: `y_pred` of integer dtype.
      A probability below 0 or above 1 (by more than rounding) makes its example NaN, with zero gradient; so does a
      target below 0. One above 1 counts as it is, as of an example that counts twice.

    Example:
      >>> print(cce([[0, 1, 0], [0, 0, 1]], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]]))  # -(log 0.95 + log 0.1) / 2
      1.1769392

    Source: Goodfellow, Bengio and Courville, Deep Learning (2016), 6.2; label smoothing: Szegedy et al. 2016,
    arXiv 1512.00567; z-loss: Chowdhery et al. 2022, arXiv 2204.02311. Agrees with
    keras.losses.CategoricalCrossentropy, but for its clipping of probabilities, with optax.softmax_cross_entropy and,
    for distributions as targets, with torch.nn.functional.cross_entropy (both from logits).
    """

    def example(
        y: Array,
        scores: Array,
        label_smoothing: float | Array,
        class_weights: Array | None,
        z_loss: float | Array,
    ) -> Array:
        row = read(scores, from_logits)
        return row.cross_entropy(y, label_smoothing, class_weights) + row.z_loss(z_loss)

    inputs = {"y_true": (y_true, STORED_TARGETS), "y_pred": (y_pred, LOGITS if from_logits else PROBABILITIES)}
    options = _shared(label_smoothing, class_weights, z_loss)
    return losses(example, inputs, options=options, axis=axis, sibling="sparse_cce", **units)


@loss
def sparse_cce(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    from_logits: bool = False,
    label_smoothing: float | ArrayLike = 0.0,
    class_weights: ArrayLike | None = None,
    z_loss: float | ArrayLike = 0.0,
    axis: int = -1,
    **units: Unpack[Units],
) -> Array:
    """Categorical cross-entropy with integer labels: `-log p[y]`, equal to `cce` of the one-hot without making it.

    Ignored labels are a mask: `where=y_true != -100`.

    Args:
      y_true: (...) integer labels in 0..K-1.
      y_pred: (..., K) probabilities, or logits if `from_logits`.
      from_logits, label_smoothing, class_weights, z_loss, axis: as for `cce`. With smoothing a the loss is
        `(1 - a) w[y] s[y] + a mean_k(w[k] s[k])` where `s = -log p` and w are the class weights. The smoothing b of T5,
        which is spread over the K - 1 wrong classes only, is `b K / (K - 1)` here.

    Returns:
      The mean over examples; with `reduction="none"` one loss per example, shape (...).

    Raises:
      ValueError: shapes that do not fit, options out of range. TypeError: labels of floating dtype, or `y_pred` of
      integer dtype. A label outside 0..K-1 makes its example NaN, with zero gradient.

    Example:
      >>> print(sparse_cce([1, 2], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]]))  # -(log 0.95 + log 0.1) / 2
      1.1769392

    Source: as for `cce`. Agrees with keras.losses.SparseCategoricalCrossentropy, but for its clipping of
    probabilities, with optax.softmax_cross_entropy_with_integer_labels, and with torch.nn.functional.cross_entropy,
    whose mean with class weights is the sum with `class_weights` over `sum(class_weights[y_true])`; without smoothing,
    the mean with `weights=class_weights[y_true]` instead.
    """

    def example(
        label: Array,
        scores: Array,
        label_smoothing: float | Array,
        class_weights: Array | None,
        z_loss: float | Array,
    ) -> Array:
        row = read(scores, from_logits)
        surprisal = weighed(row.surprisal(label), class_weights, label)
        smooth = interpolate(label_smoothing, surprisal, lambda: row.mean_surprisal(class_weights))
        return smooth + row.z_loss(z_loss)

    inputs = {"y_true": (y_true, LABEL), "y_pred": (y_pred, LOGITS if from_logits else PROBABILITIES)}
    options = _shared(label_smoothing, class_weights, z_loss)
    return losses(example, inputs, options=options, axis=axis, sibling="cce", **units)


def _shared(label_smoothing: ArrayLike, class_weights: ArrayLike | None, z_loss: ArrayLike) -> dict[str, Any]:
    return {
        "label_smoothing": (label_smoothing, FRACTION),
        "class_weights": (class_weights, PER_CLASS),
        "z_loss": (z_loss, FINITE),
    }


@compiled
def sparse_cce_stats(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    label_smoothing: float | ArrayLike = 0.0,
    class_weights: ArrayLike | None = None,
    z_loss: float | ArrayLike = 0.0,
    axis: int = -1,
    **units: Unpack[Units],
) -> tuple[Array, ClassStats]:
    """`sparse_cce` from logits, and what trainers log beside it; for `jax.value_and_grad(..., has_aux=True)`.

    Args:
      y_true, label_smoothing, class_weights, z_loss, axis: as for `sparse_cce`.
      y_pred: (..., K) logits.

    Returns:
      The loss, and a `ClassStats`: cross_entropy, z_loss, logsumexp, correct and entropy. The mean over examples; with
      `reduction="none"` one number per example, shape (...).

    Example:
      >>> loss, stats = sparse_cce_stats([0, 1], [[3.0, 0.0], [1.0, 0.0]])
      >>> print(stats.correct)  # the argmax is 0 twice
      0.5
    """

    def cross_entropy(label: Array, row: Logits, a: float | Array, weights: Array | None) -> Array:
        surprisal = weighed(row.surprisal(label), weights, label)
        return interpolate(a, surprisal, lambda: row.mean_surprisal(weights))

    def at_top(label: Array, row: Logits) -> Array:
        return take_label(row.row, label) >= jnp.max(row.row.wide)

    inputs = {"y_true": (y_true, LABEL), "y_pred": (y_pred, LOGITS)}
    options = _shared(label_smoothing, class_weights, z_loss)
    return _with_stats(cross_entropy, at_top, inputs, options=options, axis=axis, sibling="cce_stats", **units)


@compiled
def cce_stats(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    label_smoothing: float | ArrayLike = 0.0,
    class_weights: ArrayLike | None = None,
    z_loss: float | ArrayLike = 0.0,
    axis: int = -1,
    **units: Unpack[Units],
) -> tuple[Array, ClassStats]:
    """`cce` from logits, and what trainers log beside it; for `jax.value_and_grad(..., has_aux=True)`.

    Args:
      y_true, label_smoothing, class_weights, z_loss, axis: as for `cce`.
      y_pred: (..., K) logits.

    Returns:
      The loss, and a `ClassStats`: cross_entropy, z_loss, logsumexp, correct and entropy. The mean over examples; with
      `reduction="none"` one number per example, shape (...).

    Example:
      >>> loss, stats = cce_stats([[1, 0], [0, 1]], [[3.0, 0.0], [1.0, 0.0]])
      >>> print(stats.correct)  # the argmax is 0 twice
      0.5
    """

    def cross_entropy(y: Array, row: Logits, a: float | Array, weights: Array | None) -> Array:
        return row.cross_entropy(y, a, weights)

    def at_top(y: Array, row: Logits) -> Array:
        z = row.row.wide
        return jnp.max(jnp.where(y == jnp.max(y), z, -jnp.inf)) >= jnp.max(z)

    inputs = {"y_true": (y_true, STORED_TARGETS), "y_pred": (y_pred, LOGITS)}
    options = _shared(label_smoothing, class_weights, z_loss)
    return _with_stats(cross_entropy, at_top, inputs, options=options, axis=axis, sibling="sparse_cce_stats", **units)


def _with_stats(
    cross_entropy: Callable[..., Array], at_top: Callable[..., Array], inputs: Any, **given: Any
) -> tuple[Array, ClassStats]:
    """The loss, and each statistic as the losses of a formula of its own: the compiler reads the rows once for all."""

    def of(formula: Callable[..., Any]) -> Array:
        def example(y: Array, z: Array, label_smoothing: Any, class_weights: Any, z_loss: Any) -> Array:
            row = Logits(Row.of(z))
            return jnp.asarray(formula(y, row, label_smoothing, class_weights, z_loss), row.row.wide.dtype)

        return losses(example, inputs, **given)

    def penalty(y: Array, row: Logits, a: Any, weights: Any, c: Any) -> Array | float:
        return row.z_loss(c)

    loss = of(lambda y, row, a, weights, c: cross_entropy(y, row, a, weights) + row.z_loss(c))
    stats = ClassStats(
        cross_entropy=of(lambda y, row, a, weights, c: cross_entropy(y, row, a, weights)),
        z_loss=of(penalty),
        logsumexp=of(lambda y, row, *_: sum(normaliser(row.row))),
        correct=of(lambda y, row, *_: at_top(y, row)),
        entropy=of(lambda y, row, *_: entropy(row.row, *normaliser(row.row))),
    )
    return loss, jax.lax.stop_gradient(stats)


@loss
def bce(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    from_logits: bool = False,
    label_smoothing: float | ArrayLike = 0.0,
    pos_weight: float | ArrayLike | None = None,
    **units: Unpack[Units],
) -> Array:
    """Binary cross-entropy: `-y log p - (1 - y) log(1 - p)`.

    From logits, `p = sigmoid(z)` and the loss is `max(z, 0) - z y + log1p(exp(-abs(z)))`; an infinite logit whose
    target agrees costs nothing, with zero gradient, as an excluded class does in `cce`. From probabilities, the
    logarithms are exact for every p; at 0 they are that of the smallest normal number, so finite.

    Args:
      y_true: (...) targets in [0, 1].
      y_pred: (...) probabilities, or logits if `from_logits`.
      from_logits: whether `y_pred` holds logits; they are more exact than probabilities. Nothing can tell probabilities
        that are said to be logits.
      label_smoothing: a in [0, 1]; the targets become `(1 - a) y + a / 2`.
      pos_weight: factor of the term `y log p`: a number, or one for each entry of the last axis.

    Returns:
      The mean over elements; with `reduction="none"` one loss per element, shape (...).

    Raises:
      ValueError: shapes that differ, options out of range. TypeError: `y_pred` of integer dtype.
      A probability outside [0, 1] (by more than rounding) makes its element NaN, with zero gradient.

    Example:
      >>> print(bce([[0], [1]], [[0.4], [0.6]]))  # -log 0.6
      0.510825...

    Source: Goodfellow, Bengio and Courville, Deep Learning (2016), 6.2. Agrees with keras.losses.BinaryCrossentropy
    but for its clipping of probabilities, with torch.nn.functional.binary_cross_entropy (and _with_logits, with
    pos_weight) but for its logarithms of at least -100, and with optax.sigmoid_binary_cross_entropy.
    """

    def element(y: Array, score: Array, label_smoothing: float | Array, pos_weight: float | Array | None) -> Array:
        if pos_weight is not None:
            weighted = weighted_bce_of_logit if from_logits else weighted_bce_of_probability
            return weighted(*(smoothed(x, label_smoothing, 2) for x in (y, 1 - y)), pos_weight, score)
        cross_entropy = bce_of_logit if from_logits else bce_of_probability
        # That of a smoothed target, without the rounding of the target.
        return interpolate(
            label_smoothing, cross_entropy(y, score), lambda: cross_entropy(jnp.full_like(score, 0.5), score)
        )

    inputs = {"y_true": (y_true, TARGET), "y_pred": (y_pred, SCORE if from_logits else PROBABILITY)}
    options = {"label_smoothing": (label_smoothing, FRACTION), "pos_weight": (pos_weight, AT_LEAST_0)}
    return losses(element, inputs, options=options, elementwise=True, **units)


@loss
def nll(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    class_weights: ArrayLike | None = None,
    axis: int = -1,
    **units: Unpack[Units],
) -> Array:
    """Negative log-likelihood of integer labels: `-w[y] log_p[y]`, from log-probabilities.

    The log-probabilities are taken as they are: `sparse_cce` is this of a log-softmax, and more exact.

    Args:
      y_true: (...) integer labels in 0..K-1.
      y_pred: (..., K) log-probabilities.
      class_weights: (K,) factors w.
      axis: the class axis.

    Returns:
      The mean over examples; with `reduction="none"` one loss per example, shape (...).

    Raises:
      ValueError: shapes that do not fit. TypeError: labels of floating dtype, or `y_pred` of integer dtype.
      A label outside 0..K-1 makes its example NaN, with zero gradient; so does a log-probability of the label above 0
      (by more than rounding).

    Example:
      >>> print(nll([1, 0], [[-2.0, -0.5], [-1.0, -3.0]]))  # (0.5 + 1) / 2
      0.75

    Source: Bishop, Pattern Recognition and Machine Learning (2006), 4.3.4. Agrees with torch.nn.functional.nll_loss,
    whose mean with class weights is this one with `weights=class_weights[y_true]` instead.
    """

    def example(label: Array, scores: Array, class_weights: Array | None) -> Array:
        log_p = take_label(Row.of(scores), label)
        return jnp.where(log_p <= slack, weighed(-log_p, class_weights, label), jnp.nan)

    # Only the entry that the label names is looked at: more would read the whole row.
    inputs = {"y_true": (y_true, LABEL), "y_pred": (y_pred, LOG_PROBABILITIES._replace(outside="formula"))}
    slack = LOG_DISTRIBUTION.slack(jnp.asarray(y_pred).dtype)
    return losses(example, inputs, options={"class_weights": (class_weights, PER_CLASS)}, axis=axis, **units)
