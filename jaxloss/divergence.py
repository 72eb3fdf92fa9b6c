"""Divergences between a target distribution `q` and a predicted one `p`. The unit is a distribution.

Probabilities count as they are given: nothing is divided by its sum. A logarithm at 0 is that of the smallest normal
number, so finite, and its derivative is exact down to 1e-12 and bounded there, as in `cce`.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._legacy import ArrayLike, Reduction, batched, check_option, compiled
from jaxloss._math import absolute, finite_where_zero, log_normaliser, log_probability, poisoned, rounding
from jaxloss._special import power_series

__all__ = ["distillation", "js_divergence", "kl_divergence", "total_variation"]


@compiled
def kl_divergence(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    from_logs: bool = False,
    axis: int = -1,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Kullback-Leibler divergence: `sum_k q_k (log q_k - log p_k)`; where q = 0 a term and its derivatives are 0.

    Args:
      y_true: (..., K) target distributions q, or their logarithms if `from_logs`.
      y_pred: (..., K) predicted distributions p, or their logarithms if `from_logs`.
      from_logs: whether both hold logarithms; -inf is the probability 0.
      axis: the axis of a distribution.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over distributions; with `reduction="none"` one loss a distribution, of shape (...).

    Raises:
      ValueError: shapes that differ. TypeError: `y_pred` of integer dtype.
      A probability outside [0, 1] (by more than rounding) makes its distribution NaN, with zero gradient.

    Example:
      >>> print(kl_divergence([[0.5, 0.5, 0.0]], [[0.25, 0.25, 0.5]]))  # log 2
      0.6931472

    Source: Kullback and Leibler 1951, doi 10.1214/aoms/1177729694. Agrees with keras.losses.KLDivergence but for its
    clipping, with torch.nn.functional.kl_div (arguments swapped, reduction "batchmean", log_target=from_logs) and with
    optax.losses.kl_divergence, which take log p.
    """
    slack = rounding(y_true), rounding(y_pred)

    def example(q: Array, p: Array) -> Array:
        valid, (q, log_q), (_, log_p) = _both(q, p, from_logs, slack)
        empty = q == 0
        return poisoned(valid, jnp.sum(jnp.where(empty, 0, q * (_finite(log_q) - jnp.where(empty, 0, log_p)))))

    return batched(
        example,
        (y_true, y_pred),
        core_ndims=(1, 1),
        kinds=("number", "score"),
        domains=("log distribution",) * 2 if from_logs else ("distribution",) * 2,
        axis=axis,
        weights=weights,
        where=where,
        reduction=reduction,
    )


@compiled
def js_divergence(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    weight: float | Array = 0.5,
    from_logs: bool = False,
    axis: int = -1,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Jensen-Shannon divergence: `w KL(q, m) + (1 - w) KL(p, m)`, where `m = w q + (1 - w) p`.

    With w = 1/2 it is symmetric and at most log 2. Where both q and p are 0, a term and its derivatives are 0.

    Args:
      y_true: (..., K) target distributions q, or their logarithms if `from_logs`.
      y_pred: (..., K) predicted distributions p, or their logarithms if `from_logs`.
      weight: w in [0, 1].
      from_logs: whether both hold logarithms; -inf is the probability 0.
      axis: the axis of a distribution.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over distributions; with `reduction="none"` one loss a distribution, of shape (...).

    Raises:
      ValueError: shapes that differ, a weight outside [0, 1]. TypeError: `y_pred` of integer dtype.
      A probability outside [0, 1] (by more than rounding) makes its distribution NaN, with zero gradient.

    Example:
      >>> print(js_divergence([[1.0, 0.0]], [[0.0, 1.0]]))  # log 2
      0.6931472

    Source: Lin 1991, doi 10.1109/18.61115. Agrees with the square of scipy.spatial.distance.jensenshannon.
    """
    check_option("js_divergence", "weight", weight, 0, 1)
    slack = rounding(y_true), rounding(y_pred)

    def example(q: Array, p: Array) -> Array:
        w = jnp.asarray(weight, p.dtype)
        valid, (q, log_q), (p, log_p) = _both(q, p, from_logs, slack)
        m = w * q + (1 - w) * p
        log_m = log_probability(m)
        terms = w * q * (_finite(log_q) - log_m) + (1 - w) * p * (_finite(log_p) - log_m)
        return poisoned(valid, jnp.sum(jnp.where(m == 0, 0, terms)))

    return batched(
        example,
        (y_true, y_pred),
        core_ndims=(1, 1),
        kinds=("number", "score"),
        domains=("log distribution",) * 2 if from_logs else ("distribution",) * 2,
        axis=axis,
        weights=weights,
        where=where,
        reduction=reduction,
    )


@compiled
def total_variation(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    axis: int = -1,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Total variation distance: `sum_k abs(q_k - p_k) / 2`, with derivative 0 where the two are equal.

    Args:
      y_true: (..., K) target distributions q.
      y_pred: (..., K) predicted distributions p.
      axis: the axis of a distribution.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over distributions; with `reduction="none"` one loss a distribution, of shape (...).

    Raises:
      ValueError: shapes that differ. TypeError: `y_pred` of integer dtype.
      A probability outside [0, 1] (by more than rounding) makes its distribution NaN, with zero gradient.

    Example:
      >>> print(total_variation([[1.0, 0.0]], [[0.75, 0.25]]))  # (0.25 + 0.25) / 2
      0.25

    Source: Levin, Peres and Wilmer, Markov Chains and Mixing Times (2009), 4.1. No function of optax, Keras or PyTorch
    computes it.
    """
    slack = rounding(y_true), rounding(y_pred)

    def example(q: Array, p: Array) -> Array:
        valid = _is_probability(q, slack[0]) & _is_probability(p, slack[1])
        return poisoned(valid, jnp.sum(absolute(p - q)) / 2)

    return batched(
        example,
        (y_true, y_pred),
        core_ndims=(1, 1),
        kinds=("number", "score"),
        domains=("distribution", "distribution"),
        axis=axis,
        weights=weights,
        where=where,
        reduction=reduction,
    )


@compiled
def distillation(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    temperature: float | Array = 1.0,
    axis: int = -1,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Knowledge distillation: `T^2 KL(softmax(teacher / T), softmax(student / T))`.

    It is never negative, and exact also where teacher and student almost agree, as they do at high temperatures. The
    teacher is differentiated like any other input: stop its gradient if it shares parameters with the student.

    Args:
      y_true: (..., K) logits of the teacher.
      y_pred: (..., K) logits of the student. Both may have -inf for a class that both exclude.
      temperature: T, at least 1e-6; the factor T^2 keeps the gradient at the size that it has at T = 1.
      axis: the class axis.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over examples; with `reduction="none"` one loss an example, of shape (...).

    Raises:
      ValueError: shapes that differ, a temperature below 1e-6. TypeError: `y_pred` of integer dtype.

    Example:
      >>> loss = distillation([[0.0, 0.0]], [[0.0, 2.0]], temperature=2.0)
      >>> print(f"{loss:.6f}")  # 4 (log(1 + e) - log 2 - 1 / 2)
      0.480458

    Source: Hinton, Vinyals and Dean 2015, arXiv 1503.02531. Agrees with T^2 times torch.nn.functional.kl_div
    (reduction "batchmean") of log_softmax(student / T) and softmax(teacher / T).
    """
    check_option("distillation", "temperature", temperature, low=1e-6)

    def example(teacher: Array, student: Array) -> Array:
        t = jnp.asarray(temperature, student.dtype)
        return t**2 * _kl_of_logits(_divided(teacher, t), _divided(student, t))

    return batched(
        example,
        (y_true, y_pred),
        core_ndims=(1, 1),
        kinds=("number", "score"),
        domains=("logits", "logits"),
        axis=axis,
        weights=weights,
        where=where,
        reduction=reduction,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Pieces


def _is_probability(p: Array, slack: float) -> Array:
    return (jnp.min(p) >= -slack) & (jnp.max(p) <= 1 + slack)


def _both(
    q: Array, p: Array, from_logs: bool, slack: tuple[float, float]
) -> tuple[Array, tuple[Array, Array], tuple[Array, Array]]:
    """Whether two distributions are valid, and each with its logarithm."""
    if from_logs:
        valid = (jnp.max(q) <= slack[0]) & (jnp.max(p) <= slack[1])
        return valid, (jnp.exp(q), q), (jnp.exp(p), p)
    valid = _is_probability(q, slack[0]) & _is_probability(p, slack[1])
    return valid, (q, log_probability(q)), (p, log_probability(p))


def _finite(log: Array) -> Array:
    """0 in place of log 0: what it stands for is multiplied by 0."""
    return jnp.where(jnp.isneginf(log), 0, log)


def _divided(logits: Array, t: Array) -> Array:
    """logits / t, where the derivative by t is 0 for a logit of -inf."""
    return jnp.where(jnp.isneginf(logits), -jnp.inf, _finite(logits) / t)


@jax.custom_jvp
def _kl_of_logits(a: Array, b: Array) -> Array:
    """KL(softmax(a), softmax(b)), as sum q (exp(x) - 1 - x) with x = log p - log q: no term is negative."""
    q, p, x, close = _compared(a, b)
    small = jnp.where(jnp.abs(x) < 0.5, x, 0)
    series = power_series(small, [1 / math.factorial(n) for n in range(2, 17)])  # exp(x) - 1 - x = x^2 series
    rise = jnp.expm1(jnp.minimum(x, 1)) - x
    near = q * jnp.where(jnp.abs(x) < 0.5, x * x * series, rise)
    return jnp.sum(jnp.where(close, near, p - q - q * x))


@_kl_of_logits.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    q, p, x, close = _compared(*primals)
    kl = _kl_of_logits(*primals)
    by_b = jnp.where(close, q * jnp.expm1(jnp.minimum(x, 1)), p - q)
    above_mean = finite_where_zero(q, jnp.where(jnp.isneginf(x), 0, x + kl))  # with an infinite x, kl is infinite too
    return kl, jnp.sum(by_b * tangents[1]) - jnp.sum(q * above_mean * tangents[0])


def _compared(a: Array, b: Array) -> tuple[Array, Array, Array, Array]:
    """Both softmaxes q and p, log(p / q), and whether p is so close to q that it is best had from q."""
    excluded = jnp.isneginf(a)
    shift_a, log_sum_a = log_normaliser(a, a)
    shift_b, log_sum_b = log_normaliser(b, b)
    below_a, below_b = _never_above(a - shift_a), _never_above(b - shift_b)
    q, p = jnp.exp(below_a - log_sum_a), jnp.exp(below_b - log_sum_b)
    x = jnp.where(excluded, 0, below_b) - _finite(below_a)
    # The difference of the logarithms of the sums is that of the mean of exp(x): exact where all x are almost 0.
    near = jnp.max(jnp.abs(x)) < 0.5
    x -= jnp.where(near, jnp.log1p(jnp.sum(q * jnp.expm1(jnp.where(near, x, 0)))), log_sum_b - log_sum_a)
    return q, p, jnp.where(excluded, 0, x), ~excluded & (x <= 1)


def _never_above(x: Array) -> Array:
    """x, which is at most 0 but for the rounding of a fused multiply-add; its derivative at 0 is that of x."""
    return jnp.where(x > 0, 0, x)
