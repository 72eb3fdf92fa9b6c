"""Divergences between a target distribution `q` and a predicted one `p`. The unit is a distribution.

Probabilities count as they are given: nothing is divided by its sum. A logarithm at 0 is that of the smallest normal
number, so finite, and its derivative is exact down to 1e-12 and bounded there, as in `cce`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxloss._numerics.derivatives import partials, saved_for_backward
from jaxloss._numerics.elementary import LEAST_PROBABILITY, abs0, at_least_tiny, atanh_rest, exp_rest, log_probability
from jaxloss._numerics.rows import Part, Row, exp_sum, exp_sum_alone, normaliser, row_sum, sum_of
from jaxloss._platform import apart, cpu, gpu
from jaxloss.contract import (
    DISTRIBUTION,
    FRACTION,
    LOG_DISTRIBUTION,
    LOGIT,
    LOGITS,
    ArrayLike,
    Holds,
    Units,
    at_least,
    loss,
    losses,
)

__all__ = ["distillation", "js_divergence", "kl_divergence", "total_variation"]

# By entry: these losses sum over the classes and need nothing else of a row, so that one pass has value and gradient.
TARGET = {
    logs: Holds("number", LOG_DISTRIBUTION if logs else DISTRIBUTION, core=1, outside="entry") for logs in (False, True)
}
_CURE = {logs: f"For logits give jax.nn.{'log_' * logs}softmax(logits)." for logs in TARGET}
PREDICTION = {
    logs: holds._replace(kind="score", domain=holds.domain._replace(cure=_CURE[logs])) for logs, holds in TARGET.items()
}


@loss
def kl_divergence(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    from_logs: bool | Literal["pred"] = False,
    from_logits: bool = False,
    axis: int = -1,
    **units: Unpack[Units],
) -> Array:
    """Kullback-Leibler divergence: `sum_k q_k (log q_k - log p_k)`; where q = 0 a term and its derivatives are 0.

    Args:
      y_true: (..., K) target distributions q, or their logarithms if `from_logs` is True.
      y_pred: (..., K) predicted distributions p, or their logarithms if `from_logs`, or logits if `from_logits`.
      from_logs: whether both hold logarithms, or with "pred" the predictions alone; -inf is the probability 0.
      from_logits: whether `y_pred` holds logits: `log p = z - logsumexp(z)`. For two rows of logits see `distillation`.
      axis: the axis of a distribution.

    Returns:
      The mean over distributions; with `reduction="none"` one loss per distribution, shape (...).

    Raises:
      ValueError: shapes that differ, another `from_logs`. TypeError: `y_pred` of integer dtype.
      A probability outside [0, 1] (by more than rounding) makes its distribution NaN, and gets no gradient.

    Example:
      >>> print(kl_divergence([[0.5, 0.5, 0.0]], [[0.25, 0.25, 0.5]]))  # log 2
      0.6931472

    Source: Kullback and Leibler 1951, doi 10.1214/aoms/1177729694. Agrees with keras.losses.KLDivergence but for its
    clipping, and with torch.nn.functional.kl_div (arguments swapped, reduction "batchmean" of (n, K)) and
    optax.losses.kl_divergence, which take log p: `from_logs="pred"`, or True if their targets are logarithms too.
    """
    if from_logs not in (False, True, "pred") or (from_logits and from_logs == "pred"):
        raise ValueError(
            f"kl_divergence: from_logs must be False, True or 'pred', got {from_logs!r}"
            f"{' with from_logits=True, which already says what y_pred holds' if from_logits else ''}."
        )

    to_logs = _kl_to_logs if from_logits or from_logs else _kl_of_probabilities
    term = _kl_of_logs if from_logs is True else to_logs

    def example(q: Array, p: Array) -> Array:
        return sum_of(term)(q, _log_softmax(p) if from_logits else p)

    prediction = LOGITS if from_logits else PREDICTION[bool(from_logs)]
    return losses(
        example, {"y_true": (y_true, TARGET[from_logs is True]), "y_pred": (y_pred, prediction)}, axis=axis, **units
    )


def _log_softmax(z: Array) -> Array:
    row = Row.of(z)
    largest, log_sum = normaliser(row)
    return (row.wide - largest) - log_sum


@loss
def js_divergence(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    weight: float | ArrayLike = 0.5,
    from_logs: bool = False,
    axis: int = -1,
    **units: Unpack[Units],
) -> Array:
    """Jensen-Shannon divergence: `w KL(q, m) + (1 - w) KL(p, m)`, where `m = w q + (1 - w) p`.

    With w = 1/2 it is symmetric and at most log 2. Where both q and p are 0, a term and its derivatives are 0.

    Args:
      y_true: (..., K) target distributions q, or their logarithms if `from_logs`.
      y_pred: (..., K) predicted distributions p, or their logarithms if `from_logs`.
      weight: w in [0, 1].
      from_logs: whether both hold logarithms; -inf is the probability 0.
      axis: the axis of a distribution.

    Returns:
      The mean over distributions; with `reduction="none"` one loss per distribution, shape (...).

    Raises:
      ValueError: shapes that differ, a weight outside [0, 1]. TypeError: `y_pred` of integer dtype.
      A probability outside [0, 1] (by more than rounding) makes its distribution NaN, and gets no gradient.

    Example:
      >>> print(js_divergence([[1.0, 0.0]], [[0.0, 1.0]]))  # log 2
      0.6931472

    Source: Lin 1991, doi 10.1109/18.61115. Agrees with the square of scipy.spatial.distance.jensenshannon.
    """

    term = _js_of_logs if from_logs else _js_of_probabilities

    def example(q: Array, p: Array, weight: float | Array) -> Array:
        return sum_of(term)(q, p, jnp.asarray(weight, p.dtype))

    inputs = {"y_true": (y_true, TARGET[from_logs]), "y_pred": (y_pred, PREDICTION[from_logs])}
    return losses(example, inputs, options={"weight": (weight, FRACTION)}, axis=axis, **units)


@loss
def total_variation(y_true: ArrayLike, y_pred: ArrayLike, *, axis: int = -1, **units: Unpack[Units]) -> Array:
    """Total variation distance: `sum_k abs(q_k - p_k) / 2`, with derivative 0 where the two are equal.

    Args:
      y_true: (..., K) target distributions q.
      y_pred: (..., K) predicted distributions p.
      axis: the axis of a distribution.

    Returns:
      The mean over distributions; with `reduction="none"` one loss per distribution, shape (...).

    Raises:
      ValueError: shapes that differ. TypeError: `y_pred` of integer dtype.
      A probability outside [0, 1] (by more than rounding) makes its distribution NaN, and gets no gradient.

    Example:
      >>> print(total_variation([[1.0, 0.0]], [[0.75, 0.25]]))  # (0.25 + 0.25) / 2
      0.25

    Source: Levin, Peres and Wilmer, Markov Chains and Mixing Times (2009), 4.1. No function of optax, Keras or PyTorch
    computes it.
    """

    def example(q: Array, p: Array) -> Array:
        return sum_of(lambda q, p: abs0(q - p))(q, p) / 2

    return losses(
        example, {"y_true": (y_true, TARGET[False]), "y_pred": (y_pred, PREDICTION[False])}, axis=axis, **units
    )


@loss
def distillation(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    temperature: float | ArrayLike = 1.0,
    axis: int = -1,
    **units: Unpack[Units],
) -> Array:
    """Knowledge distillation: `T^2 KL(softmax(teacher / T), softmax(student / T))`.

    It is never negative, and exact also where teacher and student almost agree, as they do at high temperatures. The
    teacher is differentiated like any other input: stop its gradient if it shares parameters with the student.

    Args:
      y_true: (..., K) logits of the teacher; -inf excludes a class.
      y_pred: (..., K) logits of the student. If it excludes a class that the teacher does not, the loss is infinite.
      temperature: T, at least 1e-6; the factor T^2 keeps the gradient at the size that it has at T = 1.
      axis: the class axis.

    Returns:
      The mean over examples; with `reduction="none"` one loss per example, shape (...).

    Raises:
      ValueError: shapes that differ, a temperature below 1e-6. TypeError: `y_pred` of integer dtype.

    Example:
      >>> loss = distillation([[0.0, 0.0]], [[0.0, 2.0]], temperature=2.0)
      >>> print(f"{loss:.6f}")  # 4 (log(1 + e) - log 2 - 1 / 2)
      0.480458

    Source: Hinton, Vinyals and Dean 2015, arXiv 1503.02531. Agrees with T^2 times torch.nn.functional.kl_div
    (reduction "batchmean" of (n, K)) of log_softmax(student / T) and softmax(teacher / T).
    """

    def example(teacher: Array, student: Array, temperature: float | Array) -> Array:
        t = jnp.asarray(temperature, student.dtype)
        return t**2 * _kl_and_offset(_scaled(teacher, t), _scaled(student, t), None)[0]

    inputs = {"y_true": (y_true, Holds("number", LOGIT, core=1)), "y_pred": (y_pred, Holds("score", LOGIT, core=1))}
    return losses(example, inputs, options={"temperature": (temperature, at_least(1e-6))}, axis=axis, **units)


def _d_target(q: Array, p: Array) -> Array:
    slope = log_probability(q) + q / jnp.maximum(q, LEAST_PROBABILITY) - log_probability(p)
    return jnp.where(q == 0, 0, slope)


@partials(_d_target, lambda q, p: -q / jnp.maximum(p, LEAST_PROBABILITY))
def _kl_of_probabilities(q: Array, p: Array) -> Array:
    return q * (log_probability(q) - log_probability(p))


def _d_target_of_logs(q: Array, b: Array) -> Array:
    empty = q == 0
    slope = log_probability(q) + q / jnp.maximum(q, LEAST_PROBABILITY) - jnp.where(empty, 0, b)
    return jnp.where(empty, 0, slope)


@partials(_d_target_of_logs, lambda q, b: -q)
def _kl_to_logs(q: Array, b: Array) -> Array:
    return q * (log_probability(q) - _unless_none(b, q))


def _d_log_target(a: Array, b: Array) -> Array:
    empty = jnp.isneginf(a)
    return jnp.exp(a) * jnp.where(empty, 0, 1 + jnp.where(empty, 0, a) - b)


@partials(_d_log_target, lambda a, b: -jnp.exp(a))
def _kl_of_logs(a: Array, b: Array) -> Array:
    # Where q is 0, both logarithms are finite.
    q = jnp.exp(a)
    return q * (jnp.maximum(a, -float(jnp.finfo(a.dtype).max)) - _unless_none(b, q))


@cpu.instead(cpu.finite_at_zero)
def _unless_none(log: Array, q: Array) -> Array:
    """A logarithm, which may be infinite, or any finite number where its factor q is 0."""
    return jnp.where(q == 0, 0, log)


# With m = w q + (1 - w) p, a term of the Jensen-Shannon divergence is w q log(q / m) + (1 - w) p log(p / m). Since
# w (q - m) + (1 - w) (p - m) = 0, it is w g(q) + (1 - w) g(p) with
#   g(x) = x log(x / m) - (x - m),
# which is never negative. Its derivatives are w log(q / m), (1 - w) log(p / m), and by w, g(q) - g(p). With
# s = (x - m) / (x + m) and R = (atanh(s) / s - 1) / s^2,
#   log(x / m) = 2 atanh(s) = 2 s + 2 s^3 R,    g(x) = (x + m) s^2 (1 + (1 + s) s R),
# where nothing cancels, however close x and m are.


def _closeness(x: Array, m: Array, d: Array) -> tuple[Array, Array, Array]:
    """Of x = m + d: whether its s is small, s, and R where it is."""
    s = d * (1 / at_least_tiny(x + m))  # a product, since a quotient that is used more than once is stored
    return jnp.abs(s) < 1 / 5, s, atanh_rest(s * s, 1 / 5, error=2)  # at most 1/4 of it is added to 1


def _log_ratio(x: Array, m: Array, d: Array) -> Array:
    """log(x / m) and what the bounds of the logarithms leave; 0 where m is 0."""
    near, s, rest = _closeness(x, m, d)
    log = jnp.where(near, 2 * s * (1 + s * s * rest), log_probability(x) - log_probability(m))
    return jnp.where(m == 0, 0, log + (_over_least(x) - _over_least(m)))


def _over_least(x: Array) -> Array:
    """x times the derivative of its logarithm: 1, but less where that is bounded."""
    return jnp.minimum(x * (1 / LEAST_PROBABILITY), 1)


def _excess(x: Array, m: Array, d: Array) -> Array:
    """g(x)."""
    near, s, rest = _closeness(x, m, d)
    return jnp.where(near, d * s * (1 + (s + s * s) * rest), x * (log_probability(x) - log_probability(m)) - d)


def _sides(q: Array, p: Array, w: Array) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array]]:
    """q and p with m and with their differences from it."""
    m = w * q + (1 - w) * p
    return (q, m, (1 - w) * (q - p)), (p, m, w * (p - q))


def _js_by_weight(q: Array, p: Array, w: Array) -> Array:
    of_q, of_p = _sides(q, p, w)
    return _excess(*of_q) - _excess(*of_p)


@partials(
    lambda q, p, w: w * _log_ratio(*_sides(q, p, w)[0]),
    lambda q, p, w: (1 - w) * _log_ratio(*_sides(q, p, w)[1]),
    _js_by_weight,
)
def _js_of_probabilities(q: Array, p: Array, w: Array) -> Array:
    of_q, of_p = _sides(q, p, w)
    # Summed while it is computed, so long a formula takes several times as long (`benchmarks.before --only js_div`).
    return cpu.end_loop(w * _excess(*of_q) + (1 - w) * _excess(*of_p))


def _js_of_logs(a: Array, b: Array, w: float | Array) -> Array:
    return _js_of_probabilities(jnp.exp(a), jnp.exp(b), w)


@partials(lambda z, t: 1 / t, lambda z, t: -jnp.where(jnp.isneginf(z), 0, z) / t / t)
def _scaled(z: Array, t: Array) -> Array:
    """A logit over t. The derivative with respect to t is 0 for one of -inf."""
    return z / t


# ---------------------------------------------------------------------------------------------------------------------
# KL(q, p) of softmaxes, q of a and p of b, exact also where the two almost agree
#
# With x = log p - log q it is A = sum q (exp(x) - 1 - x), whose terms are never negative: nothing cancels. But x, of
# which two logsumexps are taken off, is wrong by the rounding of these, the same for all classes. Then
# u = sum q (exp(x) - 1) is not the 0 that it should be, and log(1 + u) is what x is too large by. Since sum q = 1, what
# belongs to the right x is
#     log(sum q exp(x)) - sum q x  =  log(1 + u) - (u - A)  =  A - (u - log(1 + u)).


# m and e of teacher and student.
_Sums: TypeAlias = tuple[Part, Part]


@jax.custom_jvp
def _kl_and_offset(a: Array, b: Array, sums: _Sums | None) -> tuple[Array, Array]:
    """The divergence, and log(1 + u). Where nothing is differentiated, it finds the sums itself."""
    return _kl_alone(a, b) if sums is None else _kl_by(sums, a, b)


@functools.partial(_kl_and_offset.defjvp, symbolic_zeros=True)
def _(primals: tuple[Array, Array, _Sums | None], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    (a, b, sums), (da, db, _) = primals, tangents
    sums = _sums(exp_sum, a, b) if sums is None else sums
    kl, offset = map(saved_for_backward, _kl_and_offset(a, b, sums))
    q, x, gain, _ = _compared(a, b, sums, offset)
    slope = jnp.zeros_like(kl)
    if not isinstance(db, SymbolicZero):
        slope += jnp.sum(gain * db)
    if not isinstance(da, SymbolicZero):
        above_mean = jnp.where(jnp.isneginf(x), 0, x + kl)  # with an infinite x, kl is infinite too
        slope -= jnp.sum(q * above_mean * da)
    return (kl, offset), (slope, jnp.zeros_like(offset))


def _sums(of_row: Callable[[Row], Part], a: Array, b: Array) -> _Sums:
    return of_row(Row.of(a)), of_row(Row.of(b))


@gpu.in_one_kernel(lambda a, b: _kl_by(_sums(exp_sum_alone, a, b), a, b, again=False))
def _kl_alone(a: Array, b: Array) -> tuple[Array, Array]:
    return _kl_by(_sums(exp_sum, a, b), a, b)


def _kl_by(sums: _Sums, a: Array, b: Array, again: bool = True) -> tuple[Array, Array]:
    nothing = jnp.zeros_like(a, shape=())
    total = row_sum(_compared(a, b, sums, nothing, use=1, again=again).excess)
    u = row_sum(_compared(a, b, sums, nothing, use=2, again=again).gain)
    rest = jnp.where(jnp.abs(u) < 1e-3, u * u * (1 / 2 - u / 3), u - jnp.log1p(u))
    return total - rest, jnp.log1p(u)


class _Compared(NamedTuple):
    """Of a class, by teacher (q) and student (p)."""

    q: Array
    x: Array  # log p - log q - offset; 0 for a class that the teacher excludes
    gain: Array  # p - q
    excess: Array  # p - q - q x


def _compared(a: Array, b: Array, sums: _Sums, offset: Array, use: int = 0, again: bool = True) -> _Compared:
    """use: a number for each of several sums of terms, each of which computes its own.

    again: whether the rows are read again for it.
    """
    excluded = jnp.isneginf(a)
    # If what follows shared these numbers with the sums that found them, they would be stored for each entry.
    (m_a, e_a), (m_b, e_b) = cpu.opaque(sums)
    if again:
        # On a GPU both sums are one pass, and the derivative, which has an offset, is another one.
        a, b = (apart(apart(x, 1 + e + offset * offset, "gpu"), 1 + e + use, "cpu") for x, e in ((a, e_a), (b, e_b)))
    # Each below its own maximum: exact near it, and no difference of the two overflows.
    below_a, below_b = a - m_a, b - m_b
    q, p = jnp.exp(below_a) * (1 / (1 + e_a)), jnp.exp(below_b) * (1 / (1 + e_b))
    gap = jnp.where(excluded, 0, below_b) - jnp.where(excluded, 0, below_a)
    x = jnp.where(excluded, 0, gap - ((jnp.log1p(e_b) - jnp.log1p(e_a)) + offset))
    # Where the two are close, exp(x) - 1 - x is a series, so cheap that two sums of it share nothing that is stored.
    close = (jnp.abs(x) < 0.5) & ~excluded
    small = jnp.where(close, x, 0)
    bend = q * (small * small * exp_rest(small))
    return _Compared(q, x, jnp.where(close, q * small + bend, p - q), jnp.where(close, bend, (p - q) - q * x))
