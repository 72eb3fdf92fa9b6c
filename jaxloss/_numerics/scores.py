"""What a row of scores says of its classes: s_k = -log p_k, the surprisal of each.

Scores are logits or probabilities. Both answer the same questions, so that a loss of classes reads as its formula.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import jax.numpy as jnp
from jax import Array

from jaxloss._numerics import rows
from jaxloss._numerics.derivatives import stop_gradient_where
from jaxloss._numerics.elementary import divide, log_probability
from jaxloss._numerics.rows import Row, Targets, smoothed, zero_at_zero


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
        total = jnp.sum(row.wide)
        self._empty = total <= 0
        self._total = jnp.where(self._empty, 1, total)

    def each(self, function: Callable[[Array], Array], x: Array) -> Array:
        """function(p) for entries x of the row."""

        def of(x: Array, total: Array, empty: Array) -> Array:
            return function(jnp.where(empty, 1 / self.size, divide(x, total)))

        # There the square of 1 / total times the derivative of a logarithm would overflow.
        minute = self._total < float(jnp.finfo(self._total.dtype).tiny) ** 0.3
        return stop_gradient_where(minute, of, x, self._total, self._empty)

    def surprisal(self, label: Array) -> Array:
        return -self.each(log_probability, rows.take_label(self.row, label))

    def mean_surprisal(self, weight: Array | None) -> Array:
        s = -self.each(log_probability, self.row.wide)
        return jnp.mean(s if weight is None else weight * s)

    def cross_entropy(self, y: Array, label_smoothing: float | Array, weight: Array | None) -> Array:
        y = smoothed(y, label_smoothing, self.size)
        return -jnp.sum((y if weight is None else weight * y) * self.each(log_probability, self.row.wide))

    def z_loss(self, c: float | Array) -> Array | float:
        return 0.0


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
