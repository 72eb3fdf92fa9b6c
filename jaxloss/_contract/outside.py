"""What happens outside the domain: the loss of the unit is NaN, and no gradient comes of it.

The gradient is dropped where that costs no pass. A unit of a single number loses all of it; so does a row of which the
formula needs a sum before it can differentiate. Where value and gradient come from one pass over a row, only the
entries outside lose theirs (`Holds.outside`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._contract import domains
from jaxloss._contract.domains import Domain
from jaxloss._contract.types import Holds, widen
from jaxloss._numerics.derivatives import gradient_where, saved_for_backward
from jaxloss._numerics.elementary import widened
from jaxloss._platform import cpu


def guarded(formula: Callable[..., Array], holds: list[Holds], slacks: list[float], dtype: Any) -> Callable[..., Array]:
    """The formula, but NaN where an input lies outside its domain.

    Sums over the domain of a row in half precision read it as it lies: widened once for them and for the formula, it
    would be stored.
    """

    def call(*stored: Array, **options: object) -> Array:
        cores = tuple(widen(x, h.kind, dtype) for x, h in zip(stored, holds, strict=True))
        margins = [_margin(h, slack) for h, slack in zip(holds, slacks, strict=True)]
        numbers = [(m, x) for m, x, h in zip(margins, cores, holds, strict=True) if m and h.core == 0]
        least = _least([m for m, _ in numbers])
        at = [jax.lax.stop_gradient(x) for _, x in numbers]
        if numbers:
            cores = tuple(
                _cut(least, x, *at, place=place) if h.core == 0 and _is_floating(x) else x
                for place, (h, x) in enumerate(zip(holds, cores, strict=True), 1)
            )
        entries = [(m, x) for m, h, x in zip(margins, holds, cores, strict=True) if m and h.core and _by_entry(h)]
        cores = tuple(
            _without_gradient_outside(
                x, [(m, x)] if m and h.alone else [(n, y) for n, y in entries if y.shape == x.shape]
            )
            if h.core and _is_floating(x)
            else x
            for m, h, x in zip(margins, holds, cores, strict=True)
        )
        loss = formula(*cores, **options)
        if numbers:
            loss = loss + zero_or_nan(least(*at)).astype(loss.dtype)
        by_entry: dict[Any, list[tuple[Domain, float, Array]]] = {}  # rows that are read together
        for m, h, slack, x in zip(margins, holds, slacks, stored, strict=True):
            if h.domain is domains.LABEL:
                exist = (x >= 0) & (x < cores[-1].shape[-1])
                loss = jnp.where(jnp.all(exist) if h.core else exist, loss, jnp.nan)
            elif m and h.core and h.alone and loss.ndim:
                loss = loss + zero_or_nan(m(jax.lax.stop_gradient(x))).astype(loss.dtype)
            elif m and h.core:
                row = h.domain, slack, jax.lax.stop_gradient(x)
                if h.outside == "entry":
                    by_entry.setdefault((x.shape, widened(x).dtype), []).append(row)
                else:
                    loss = _nan_in_row(domains.least_margin(row), loss, whole=True)
        for rows in by_entry.values():
            loss = _nan_in_row(domains.least_margin(*rows), loss, whole=False)
        return loss

    return call


def _by_entry(holds: Holds) -> bool:
    return holds.outside == "entry" and not holds.alone


def _without_gradient_outside(x: Array, known: list[tuple[Callable[[Array], Array], Array]]) -> Array:
    """An input whose entries have no gradient where one of those in the same place lies outside."""
    return _cut(_least([m for m, _ in known]), x, *(jax.lax.stop_gradient(y) for _, y in known)) if known else x


def _is_floating(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _margin(holds: Holds, slack: float) -> Callable[[Array], Array] | None:
    """How far inside the domain each entry of an input lies, if anything lies outside."""
    if holds.outside == "formula" or not holds.domain.has_margin:
        return None
    return lambda x: holds.domain.margin(widened(x), slack)


def _least(margins: list[Callable[[Array], Array]]) -> Callable[..., Array]:
    def least(*numbers: Array) -> Array:
        return functools.reduce(jnp.minimum, [margin(x) for margin, x in zip(margins, numbers, strict=True)])

    return least


def _nan_in_row(least: Array, loss: Array, whole: bool) -> Array:
    if whole:
        # Saved, one number for each row: found again, it would cost the derivative a second pass.
        return jnp.where(saved_for_backward(least) >= 0, loss, jnp.nan)
    return loss + zero_or_nan(jnp.minimum(least, 1)).astype(loss.dtype)  # an infinite margin is inside


def _cut(margin: Callable[..., Array], x: Array, *numbers: Array, place: int = 0) -> Array:
    """An input as it is, without gradient where a margin of some numbers is negative; place as in `gradient_where`.

    At the input, since 0 times the NaN that a formula may have for its derivative there is NaN.
    """
    return gradient_where(lambda *numbers: _inside(margin(*numbers)), x, *numbers, place=place)


# Without a zero, which the derivative has, too: what both have is stored.
@cpu.instead(lambda margin: jnp.sqrt(margin) - jnp.sqrt(margin), elementwise=True)
def zero_or_nan(margin: Array) -> Array:
    return jnp.where(_inside(margin), 0, jnp.nan).astype(margin.dtype)


def _inside(margin: Array) -> Array:
    return (margin >= 0) & (margin < jnp.inf)
