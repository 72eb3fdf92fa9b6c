"""Which values an array may hold: one rule for each domain, here and nowhere else.

A value outside makes the loss of its unit NaN, with zero gradient: loud inside `jit`, where nothing can be raised, and
never a plausible number. `jaxloss.checked` raises an error that says the rule. An option has a domain too: a constant
outside it is refused at once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxloss._numerics.elementary import widened
from jaxloss._platform import cpu, gpu

INF = math.inf


class Domain(NamedTuple):
    """A rule for each entry of an array.

    text: what an entry must be, as in "y_true must be {text}".
    low, high: its bounds.
    above: whether the lower bound itself is outside.
    power: where it is not 0, only the roots of x^power = x are inside: with 2 those are 0 and 1, with 3 also -1.
    infinite: which infinities are inside.
    rounds: whether entries come from computations whose rounding may carry them outside by a few units.
    sum: of a row, what must add up to 1; only looked at by `checked`.
    sharp: whether an entry above the upper bound is outside for the loss, too; else only `checked` reports it.
    cure: the likely mistake where an entry is outside.
    """

    text: str
    low: float = -INF
    high: float = INF
    above: bool = False
    power: int = 0
    infinite: tuple[float, ...] = ()
    rounds: bool = False
    sum: Callable[[Array], Array] | None = None
    sharp: bool = True
    cure: str = ""

    def slack(self, dtype: Any) -> float:
        """How far rounding may carry an entry outside."""
        return 4 * float(jnp.finfo(dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.float32).eps) * self.rounds

    def holds(self, x: Any, slack: float = 0.0) -> Any:
        """Whether a number, or each entry of an array, is inside; NaN never is."""
        inside = (self.low < x if self.above else self.low - slack <= x) & (x <= self.high + slack)
        for infinity in {-INF, INF}.difference(self.infinite):
            inside &= x != infinity
        return inside & (x**self.power - x == 0) if self.power else inside

    @property
    def has_margin(self) -> bool:
        """Whether a finite number can be outside, as the loss sees it."""
        return bool(self.power) or self.low > -INF or (self.sharp and self.high < INF)

    def margin(self, x: Array, slack: float = 0.0) -> Array:
        """How far inside each entry is: negative or infinite outside. For domains that have one.

        Made without comparisons, so that it costs nothing beside a loss that reads the entry anyway.
        """
        if self.power:
            return -jnp.abs(x**self.power - x)
        if self.above:
            # Each positive number, times this one, is above eps. An infinite one is beyond the largest.
            info = jnp.finfo(x.dtype)
            return jnp.minimum((x - self.low) * 2.0 ** (info.maxexp - 1) - info.eps / 2, float(info.max) - x)
        bound = [jnp.ones_like(x)] if self.low > -INF and INF in self.infinite else []
        return functools.reduce(jnp.minimum, self._from_ends(lambda: x, lambda: x, slack) + bound)

    def _from_ends(self, least: Callable[[], Array], largest: Callable[[], Array], slack: float) -> list[Array]:
        """How far inside of those bounds that the domain has the least and the largest entry are."""
        below = [least() - (self.low - slack)] if self.low > -INF else []
        return below + ([(self.high + slack) - largest()] if self.sharp and self.high < INF else [])

    def margin_of_extremes(self, row: Array, slack: float) -> Array:
        """The least margin of a row; that of its extremes, if the domain has bounds, so that no number meets all of it.

        Each extreme reads it anew, since a row of half precision that is widened once for several sums would be stored.
        """
        if self.power or self.above:
            return jnp.min(self.margin(widened(row), slack))
        row = cpu.opaque(row)
        ends = self._from_ends(lambda: widened(jnp.min(row)), lambda: widened(jnp.max(cpu.opaque(row))), slack)
        return functools.reduce(jnp.minimum, ends)

    def usable(self, x: Array) -> Array:
        """An option, or some number inside the domain in its place: no formula shall meet one that is outside."""
        low = self.low if self.low > -INF else min(self.high, 1) - 1
        return jnp.where(self.holds(x), x, low + min(1, (self.high - low) / 2))


def least_margin(*rows: tuple[Domain, float, Array]) -> Array:
    """The margin of the entry that is least inside, among rows of one shape, each with its domain and slack."""
    domains, slacks, xs = zip(*rows, strict=True)

    def of_each(*xs: Array) -> Array:
        margins: Any = [domain.margin(widened(x), slack) for domain, slack, x in zip(domains, slacks, xs, strict=True)]
        least = gpu.by_piece(jnp.min, functools.reduce(jnp.minimum, margins))
        return jnp.min(least) if least.ndim else least

    def of_extremes(*xs: Array) -> Array:
        ends = [domain.margin_of_extremes(x, slack) for domain, slack, x in zip(domains, slacks, xs, strict=True)]
        return functools.reduce(jnp.minimum, ends)

    return cpu.instead(of_extremes)(of_each)(*xs)


ANY = Domain("a number", infinite=(-INF, INF))
FINITE = Domain("finite")
LOGIT = Domain("finite or -inf", infinite=(-INF,))
LABEL = Domain("in 0..{last}", cure="Leave others out with where=, as in where=y_true != -100.")
ABOVE_MINUS_1 = Domain("finite and above -1", low=-1, above=True)
POSITIVE = Domain("above 0 and finite", low=0, above=True)
SIGN = Domain("-1 or +1 (or 0, for -1)", power=3)
BINARY = Domain("0 or 1", power=2)
ONE_HOT = BINARY._replace(sum=lambda x: x)
PROBABILITY = Domain("in [0, 1]", low=0, high=1, rounds=True)
DISTRIBUTION = PROBABILITY._replace(sum=lambda x: x)
# Sums other than 1 are legal, as of an example that counts twice.
SOFT_LABELS = DISTRIBUTION._replace(sharp=False)
LOG_PROBABILITY = Domain("the logarithm of a probability, so at most 0", high=0, infinite=(-INF,), rounds=True)
LOG_DISTRIBUTION = LOG_PROBABILITY._replace(sum=jnp.exp)
BOX = Domain("finite", cure="Boxes are x1, y1, x2, y2.")
FRACTION = Domain("between 0 and 1", low=0, high=1)


def between(low: float, high: float) -> Domain:
    """From one number to another, both of them included."""
    return Domain(f"between {low:g} and {high:g}", low=low, high=high)


def at_least(low: float) -> Domain:
    """This number or a larger one."""
    return Domain(f"finite and at least {low:g}", low=low)


AT_LEAST_0 = at_least(0)
