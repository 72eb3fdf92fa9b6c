"""What a row of scores says of its classes: s_k = -log p_k, the surprisal of each.

Scores are logits or probabilities. Both answer the same questions, so that a loss of classes reads as its formula.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxloss._numerics import rows
from jaxloss._numerics.derivatives import saved_for_backward, stop_gradient_where
from jaxloss._numerics.elementary import LEAST_PROBABILITY, divide, log_probability
from jaxloss._numerics.rows import Row, Targets, smoothed, zero_at_zero
from jaxloss._platform import cpu


class Scores(Protocol):
    size: int

    def surprisal(self, label: Array) -> Array:
        """s[label]."""
        ...

    def mean_surprisal(self, weight: Array | None) -> Array:
        """mean_k w_k s_k."""
        ...

    def cross_entropy(self, y: Array, label_smoothing: float | Array, weight: Array | None) -> Array:
        """sum_k w_k y_k s_k, of smoothed targets."""
        ...

    def z_loss(self, c: float | Array) -> Array | float:
        """c logsumexp(z)^2; nothing for probabilities."""
        ...


def read(scores: Array, from_logits: bool) -> Scores:
    row = Row.of(scores)
    return Logits(row) if from_logits else Probabilities(row)


class Logits:
    """p = softmax(z)."""

    def __init__(self, row: Row) -> None:
        self.row, self.size = row, row.size

    def surprisal(self, label: Array) -> Array:
        return rows.surprisal(self.row, label)

    def mean_surprisal(self, weight: Array | None) -> Array:
        largest, log_sum = rows.normaliser(self.row)
        mean_weight = 1 if weight is None else jnp.mean(weight)
        return log_sum * mean_weight - rows.sum_below(self.row, largest, weight) / self.size

    def cross_entropy(self, y: Array, label_smoothing: float | Array, weight: Array | None) -> Array:
        a = None if is_zero(label_smoothing) else jnp.asarray(label_smoothing, self.row.wide.dtype)
        return rows.cross_entropy(Targets(y, a, weight), self.row)

    def z_loss(self, c: float | Array) -> Array | float:
        if is_zero(c):
            return 0.0
        largest, log_sum = rows.normaliser(self.row)
        logsumexp = largest + log_sum
        # A product, not a square, whose derivative would overflow for the largest logits.
        return c * logsumexp * logsumexp


class Probabilities:
    """p = the scores over their sum; each of a row of zeros has the same probability, with zero gradient."""

    def __init__(self, row: Row) -> None:
        self.row, self.size = row, row.size
        total = saved_for_backward(jnp.sum(row.wide))
        self._empty = total <= 0
        self._total = jnp.where(self._empty, 1, total)

    def each(self, function: Callable[[Array], Array], x: Array) -> Array:
        """function(p) for entries x of the row."""

        def of(x: Array, total: Array, empty: Array) -> Array:
            return function(jnp.where(empty, 1 / self.size, divide(x, total)))

        # There the square of 1 / total times the derivative of a logarithm would overflow.
        minute = self._total < float(jnp.finfo(self._total.dtype).tiny) ** 0.3
        return stop_gradient_where([minute] * 3, of, x, self._total, self._empty)

    def surprisal(self, label: Array) -> Array:
        return -self.each(log_probability, rows.take_label(self.row, label))

    def mean_surprisal(self, weight: Array | None) -> Array:
        return _sum_of_surprisals(self.row, weight) / self.size

    def cross_entropy(self, y: Array, label_smoothing: float | Array, weight: Array | None) -> Array:
        y = smoothed(y, label_smoothing, self.size)
        return -jnp.sum((y if weight is None else weight * y) * self.each(log_probability, self.row.wide))

    def z_loss(self, c: float | Array) -> Array | float:
        return 0.0


@jax.custom_jvp
def _sum_of_surprisals(row: Row, weight: Array | None) -> Array:
    """sum_k w_k s_k of the probabilities of a row. The value has no select, and the derivative reads the row again."""
    full, total = _full_and_total(row.wide)
    p = row.again() / total + (1 - full) / row.size
    s = -jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny))
    return jnp.sum(s if weight is None else weight * s)


def _sum_of_surprisals_jvp(primals: tuple[Row, Any], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    # With p = x / T and g = w / max(p, least), it is (sum(g p) sum(dx) - sum(g dx)) / T.
    (row, weight), (d_row, d_weight) = primals, tangents
    value, slope = _sum_of_surprisals(row, weight), jnp.zeros_like(row.wide, shape=())
    if not isinstance(d_row.wide, SymbolicZero):
        full, total = _full_and_total(row.wide)
        minute = total < float(jnp.finfo(total.dtype).tiny) ** 0.3  # there the second derivative would overflow
        first, again, total = (jnp.where(minute, jax.lax.stop_gradient(x), x) for x in (row.wide, row.again(), total))
        w = 1.0 if weight is None else weight
        (least,) = cpu.opaque([jnp.asarray(LEAST_PROBABILITY, total.dtype)])
        mean = jnp.sum(w * jnp.minimum(divide(first, total), least)) / least
        each = w / jnp.maximum(divide(again, total), LEAST_PROBABILITY)
        inverse = divide(jnp.ones_like(total), total)
        slope += full * (mean * jnp.sum(d_row.wide) - jnp.sum(each * d_row.wide)) * inverse
    if weight is not None and not isinstance(d_weight, SymbolicZero):
        slope -= jnp.sum(d_weight * Probabilities(row).each(log_probability, row.wide))
    return value, slope


_sum_of_surprisals.defjvp(_sum_of_surprisals_jvp, symbolic_zeros=True)


def _full_and_total(x: Array) -> tuple[Array, Array]:
    """1 where the sum of a row is positive, else 0; and the sum, with 1 in place of what is not positive."""
    total = saved_for_backward(jnp.sum(x))
    return (total > 0).astype(x.dtype), jnp.where(total > 0, total, 1)


def is_zero(option: float | Array) -> bool:
    """Whether an option is the constant 0, so that its term can be left out of the program."""
    return isinstance(option, (int, float)) and option == 0


def interpolate(a: float | Array, first: Array, second: Callable[[], Array]) -> Array:
    """(1 - a) first + a second, where 0 times an infinite loss is 0; the second is not made for the constant 0."""
    if is_zero(a):
        return first
    a = jnp.asarray(a, first.dtype)
    return zero_at_zero(1 - a, first) + zero_at_zero(a, second())


def weight_of(class_weights: Array | None, label: Array) -> Array | float:
    """w[label]; 1 without weights."""
    return 1.0 if class_weights is None else rows.take_label(Row.of(class_weights), label)
