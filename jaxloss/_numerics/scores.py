"""What a row of scores says of its classes: s_k = -log p_k, the surprisal of each.

Scores are logits or probabilities. Both answer the same questions, so that a loss of classes reads as its formula.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxloss._numerics import rows
from jaxloss._numerics.derivatives import saved_for_backward, stop_gradient_where
from jaxloss._numerics.elementary import divide, is_constant, log_probability
from jaxloss._numerics.rows import Row, Targets, zero_at_zero
from jaxloss._platform import apart, cpu, gpu


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

    @functools.cached_property
    def sums(self) -> rows.Part:
        return rows.exp_sum(self.row)

    def surprisal(self, label: Array) -> Array:
        return rows.surprisal(self.row, label, self.sums)

    def mean_surprisal(self, weight: Array | None) -> Array:
        return _mean_surprisal(self.row, weight, self.sums)

    def cross_entropy(self, y: Array, label_smoothing: float | Array, weight: Array | None) -> Array:
        return rows.cross_entropy(Targets.of(y, label_smoothing, weight, self.row), self.row)

    def z_loss(self, c: float | Array) -> Array | float:
        if is_constant(c, 0):
            return 0.0
        largest, excess = self.sums
        logsumexp = largest + jnp.log1p(excess)
        # A product, not a square, whose derivative would overflow for the largest logits.
        return c * logsumexp * logsumexp


def _mean_surprisal_at_once(row: Row, weight: Array | None, _: rows.Part) -> Array:
    # In the pass of the logsumexp, joined of parts: `--only "sparse_cce logits smooth"` says 0.67 without it and 0.34
    # with it. On a TPU values take as long either way, and gradients longer by this form (0.48 and 0.70).
    return rows.cross_entropy(Targets(jnp.full_like(row.wide, 1 / row.size), weight=weight), row)


@gpu.instead(_mean_surprisal_at_once, columns=False)
def _mean_surprisal(row: Row, weight: Array | None, sums: rows.Part) -> Array:
    largest, excess = sums
    mean_weight = 1 if weight is None else jnp.mean(weight)
    return jnp.log1p(excess) * mean_weight - rows.sum_below(row, largest, weight) / row.size


class Probabilities:
    """p = the scores over their sum; each of a row of zeros has the same probability, with zero gradient."""

    def __init__(self, row: Row) -> None:
        self.row, self.size = row, row.size

    def at(self, label: Array, function: Callable[[Array], Array]) -> Array:
        """function(p[label])."""
        total = saved_for_backward(rows.row_sum(self.row.wide))
        empty = total <= 0

        def of(x: Array, total: Array, empty: Array) -> Array:
            return function(jnp.where(empty, 1 / self.size, divide(x, total)))

        x, total = rows.take_label(self.row, label), jnp.where(empty, 1, total)
        return stop_gradient_where([_minute(total)] * 3, of, x, total, empty)

    def total(self, term: Callable[..., Array], *others: Any) -> Array:
        """sum_k term(p_k, ...), with entries of other rows in the same places, and single numbers."""
        return _total_of(term)(self.row, *others)

    def surprisal(self, label: Array) -> Array:
        return -self.at(label, log_probability)

    def mean_surprisal(self, weight: Array | None) -> Array:
        weight = jnp.ones((), self.row.wide.dtype) if weight is None else weight
        return -self.total(lambda p, w: w * log_probability(p), weight) / self.size

    def cross_entropy(self, y: Array, label_smoothing: float | Array, weight: Array | None) -> Array:
        targets = Targets.of(y, label_smoothing, weight, self.row)
        return -self.total(lambda p, t: t.made() * log_probability(p), targets)

    def z_loss(self, c: float | Array) -> Array | float:
        return 0.0


def _minute(total: Array) -> Array:
    """Where the square of 1 / total, in a second derivative, would overflow."""
    return total < float(jnp.finfo(total.dtype).tiny) ** 0.3


def _total_of(term: Callable[..., Array]) -> Callable[..., Array]:
    """The sum of a term of the shares p of a row, and of others: f(x, ...) = sum_k term(x_k / T, ...), T = sum_k x_k.

    With g_k the derivative of the term by p_k,

        df = sum_k g_k (dx_k - p_k dT) / T = (sum_k g_k dx_k - m dT) / T,   m = sum_k g_k p_k.

    So the derivative needs one number of each row besides T, and m is found by the pass that finds f. The automatic
    derivative finds it by a pass of its own.
    """

    def by_shares(row: Row, *others: Any) -> Array:
        size, (full, total) = row.size, _total(row)

        def of_entries(x: Array, full: Array, total: Array, *others: Any) -> Array:
            return term(x / total + (1 - full) / size, *others)

        return rows.sum_of(of_entries)(row.again(), full, total, *others)

    @gpu.in_one_kernel
    def in_one_kernel(row: Row, *others: Any) -> Array:
        x, tiny = row.wide, jnp.finfo(row.wide.dtype).tiny
        # A positive sum, scaled, is above the least normal number, which stands in for 0.
        p, uniform = (x * 2.0**64) / jnp.maximum(jnp.sum(x) * 2.0**64, tiny), jnp.full_like(x, 1 / row.size)
        return jnp.where(jnp.max(p) > 0, jnp.sum(term(p, *others)), jnp.sum(term(uniform, *others)))

    @functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
    def total_of(alone: bool, row: Row, *others: Any) -> Array:
        """Alone is a value that is not differentiated."""
        return (in_one_kernel(by_shares) if alone else by_shares)(row, *others)

    def moved_by(dp: Array, p: Array, *others: Any) -> Array:
        return jax.jvp(lambda p: term(p, *others), (p,), (dp,))[1]

    def rule(_: bool, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
        (row, *others), (d_row, *d_others) = primals, tangents
        value = total_of(False, row, *others)
        moved = jnp.zeros_like(value)
        if not isinstance(d_row.wide, SymbolicZero):
            full, total = _total(row)
            read = *(apart(row.again(), n, "gpu") for n in (1, 2)), total
            *xs, total = (jnp.where(_minute(total), jax.lax.stop_gradient(x), x) for x in read)
            p, again = (_shares(x, full, total) for x in xs)
            mean = rows.sum_of(lambda p, *others: moved_by(p, p, *others))(p, *others)
            each = moved_by(jnp.ones_like(p), again, *cpu.opaque(others))
            inverse = divide(jnp.ones_like(total), total)
            moved += full * (jnp.sum(each * d_row.wide) - mean * jnp.sum(d_row.wide)) * inverse
        (known, structure), d_known = jax.tree.flatten(others), jax.tree.leaves(d_others)
        by = [i for i, x in enumerate(d_known) if not isinstance(x, SymbolicZero)]
        if by:

            def of(*some: Array) -> Array:
                given = dict(zip(by, some, strict=True))
                p = _shares(row.again(), *_total(row))
                others = jax.tree.unflatten(structure, [given.get(i, x) for i, x in enumerate(known)])
                return jnp.sum(term(p, *others))

            moved += jax.jvp(of, [known[i] for i in by], [d_known[i] for i in by])[1]
        return value, moved

    total_of.defjvp(rule, symbolic_zeros=True)
    return functools.partial(total_of, True)


def _total(row: Row) -> tuple[Array, Array]:
    """1, or 0 where the sum of a row is not positive; and the sum, or 1 in its place."""
    total = saved_for_backward(rows.row_sum(row.wide))
    return (total > 0).astype(total.dtype), jnp.where(total > 0, total, 1)


def _shares(x: Array, full: Array, total: Array) -> Array:
    """The entries of a row over their sum."""
    return divide(x, total) + (1 - full) / x.size


def interpolate(a: float | Array, first: Array, second: Callable[[], Array]) -> Array:
    """(1 - a) first + a second, where 0 times an infinite loss is 0; the second is not made for the constant 0."""
    if is_constant(a, 0):
        return first
    a = jnp.asarray(a, first.dtype)
    return zero_at_zero(1 - a, first) + zero_at_zero(a, second())


def weighed(loss: Array, class_weights: Array | None, label: Array) -> Array:
    """w[label] loss; the loss without weights. A class of weight 0 costs nothing, even one that is excluded."""
    return loss if class_weights is None else zero_at_zero(rows.take_label(Row.of(class_weights), label), loss)
