"""What happens outside the domain: the loss of the unit is NaN, and no gradient comes of it.

The gradient is looked after where it costs no pass. A unit of one number, or one of which the formula needs a sum
before it can differentiate, loses all of it. Where value and gradient come from one look at a row, only the entries
outside lose theirs (`Holds.outside`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._contract import domains
from jaxloss._contract.types import Holds
from jaxloss._numerics.derivatives import partials, saved_for_backward
from jaxloss._numerics.elementary import widened
from jaxloss._platform import cpu


def guarded(formula: Callable[..., Array], holds: list[Holds], slacks: list[float]) -> Callable[..., Array]:
    """The formula, but NaN where an input lies outside its domain."""

    def call(*cores: Array, **options: object) -> Array:
        margins = [_margin(h, slack) for h, slack in zip(holds, slacks, strict=True)]
        cores = tuple(
            _stopped(margin)(x) if margin and h.outside == "entry" else x
            for margin, h, x in zip(margins, holds, cores, strict=True)
        )
        loss = formula(*cores, **options)
        numbers = [(margin, x) for margin, x in zip(margins, cores, strict=True) if margin and x.ndim == 0]
        if numbers:
            loss = _nan_unless([margin for margin, _ in numbers])(*(jax.lax.stop_gradient(x) for _, x in numbers), loss)
        for h, slack, x in zip(holds, slacks, cores, strict=True):
            if h.domain is domains.LABEL and h.core == 0:
                loss = jnp.where((x >= 0) & (x < cores[-1].shape[-1]), loss, jnp.nan)
            elif x.ndim and h.outside != "formula" and jnp.issubdtype(x.dtype, jnp.floating):
                least = h.domain.least_margin(widened(jax.lax.stop_gradient(x)), slack)
                loss = loss if least is None else _nan_in_row(least, loss, whole=h.outside == "unit")
        return loss

    return call


def _margin(holds: Holds, slack: float) -> Callable[[Array], Array] | None:
    """How far inside the domain each entry of an input lies, if anything lies outside."""
    if holds.outside == "formula" or holds.domain.margin(jnp.zeros(())) is None:
        return None
    return lambda x: holds.domain.margin(widened(x), slack)  # pyright: ignore[reportReturnType]


def nan_outside(margin: Callable[[Array], Array], x: Array, loss: Array) -> Array:
    """The loss, but NaN with zero gradient where a number x is outside, which is where its margin is negative."""
    return _nan_unless([margin])(jax.lax.stop_gradient(x), loss)


def _nan_in_row(least: Array, loss: Array, whole: bool) -> Array:
    if whole:
        # Saved, one number for each row: found again, it would cost the derivative a second pass.
        return jnp.where(saved_for_backward(least) >= 0, loss, jnp.nan)
    return loss + jnp.where(least >= 0, 0, jnp.nan).astype(loss.dtype)


def _stopped(margin: Callable[[Array], Array]) -> Callable[[Array], Array]:
    @partials(lambda x: jnp.where(margin(x) >= 0, 1.0, 0.0).astype(x.dtype))
    def stopped(x: Array) -> Array:
        return x

    return stopped


def _nan_unless(margins: list[Callable[[Array], Array]]) -> Callable[..., Array]:
    """A function of some numbers and a loss, which it returns if all of them are inside."""

    def least(numbers: tuple[Array, ...]) -> Array:
        found = [margin(x) for margin, x in zip(margins, numbers, strict=True)]
        return functools.reduce(jnp.minimum, found)

    def inside(*given: Array) -> Array:
        return jnp.where(_inside(least(given[:-1])), 1.0, 0.0).astype(given[-1].dtype)

    @partials(*[lambda *given: jnp.zeros_like(given[-1])] * len(margins), inside)
    def nan_unless(*given: Array) -> Array:
        return given[-1] + _zero_or_nan(least(given[:-1])).astype(given[-1].dtype)

    return nan_unless


@cpu.instead(lambda margin: 0 * jnp.sqrt(margin))
def _zero_or_nan(margin: Array) -> Array:
    return jnp.where(_inside(margin), 0, jnp.nan).astype(margin.dtype)


def _inside(margin: Array) -> Array:
    return (margin >= 0) & (margin < jnp.inf)
