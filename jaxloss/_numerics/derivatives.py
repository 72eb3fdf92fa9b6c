"""Derivatives written by hand. What the README promises of all derivatives is kept here, once.

A formula gets a rule of its own where the automatic derivative would cancel, overflow, or say something else at a kink
than the docstring does. `partials` is the rule for elementwise functions; the few functions of a whole row have a
`jax.custom_jvp` of their own, and `stop_gradient_where`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero

from jaxloss._platform import apart, cpu, mapped_as

# By this name `losses` tells `jax.checkpoint` what to save.
SAVED = "jaxloss"

Elementwise = Callable[..., Array]


def partials(*derivatives: Elementwise) -> Callable[[Elementwise], Elementwise]:
    """Give an elementwise function its partial derivatives, one for each argument.

    The arguments may be arrays or Python numbers, which count as constants of the same dtype. Keywords say which of
    several functions is meant (`from_log=True`): the function and its derivatives get them as they are. Besides being
    exact,
    - a partial that nobody asks for is not computed;
    - none costs memory, since it shares nothing with the value (`_alone`);
    - its own derivative, the second of the function, counts as 0 where no float can hold it: infinity times 0, or less
      infinity, would be NaN.
    """
    places = range(len(derivatives))

    def decorate(function: Elementwise) -> Elementwise:
        @functools.cache
        def ruled(**which: Any) -> Elementwise:
            chosen = [functools.partial(d, **which) for d in derivatives]
            first = [_ruled(_alone(d), [_finite_slope(d, i) for i in places]) for d in chosen]
            return _ruled(functools.partial(function, **which), first)

        def call(*arguments: Any, **which: Any) -> Array:
            dtype = next(x.dtype for x in arguments if isinstance(x, Array))
            return ruled(**which)(*(jnp.asarray(x, dtype) for x in arguments))

        call.__name__, call.__doc__ = function.__name__, function.__doc__
        return call

    return decorate


def _alone(derivative: Elementwise) -> Elementwise:
    """The derivative, with constants of its own, and reading its arguments apart.

    Mapped, it is so for each argument: jax loses the axis of a function with a rule whose value does not depend on what
    is mapped, such as a constant derivative, when it differentiates twice.
    """

    def alone(*arguments: Array) -> Array:
        return mapped_as(cpu.unshared(derivative)(*(apart(x, 1, "gpu") for x in arguments)), *arguments)

    return alone


def _ruled(function: Elementwise, derivatives: Sequence[Elementwise]) -> Elementwise:
    ruled = jax.custom_jvp(function)

    def rule(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Array, Any]:
        value = ruled(*primals)
        terms = [
            derivative(*primals) * tangent
            for derivative, tangent in zip(derivatives, tangents, strict=True)
            # A number that is made of numbers alone does not depend on a row beside them.
            if not isinstance(tangent, SymbolicZero) and jnp.ndim(tangent) <= jnp.ndim(value)
        ]
        return value, sum(terms[1:], terms[0]) if terms else jnp.zeros_like(value)

    ruled.defjvp(rule, symbolic_zeros=True)
    return ruled


def _finite_slope(function: Elementwise, place: int) -> Elementwise:
    """The automatic derivative with respect to one argument; 0 where it is not finite."""

    def slope(*point: Array) -> Array:
        def along(x: Array) -> Array:
            return function(*point[:place], x, *point[place + 1 :])

        found = jax.jvp(along, (point[place],), (jnp.ones_like(point[place]),))[1]
        return jnp.where(jnp.isfinite(found), found, 0)

    return slope


def saved_for_backward(x: Array) -> Array:
    """Store this value of a formula (one number for each row, never a row) instead of recomputing it."""
    return cpu.reread(checkpoint_name(x, SAVED))


def stop_gradient_where(extreme: Sequence[Array], function: Callable[..., Any], *arguments: Any) -> Any:
    """function(*arguments) and its derivative, where each argument for which `extreme` holds counts as a constant.

    For formulas of a whole row, whose second derivative no float can hold there: infinite terms would cancel to NaN.
    """
    function, options = jax.closure_convert(function, *arguments)
    count = len(arguments)

    @jax.custom_jvp
    def value(extreme: Sequence[Array], *given: Array) -> Any:
        return function(*given)

    @value.defjvp
    def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
        extreme, *given = primals
        # The select of twice the same costs nothing.
        point = [jnp.where(k, jax.lax.stop_gradient(x), x) for k, x in zip(extreme, given[:count], strict=True)]
        return value(*primals), jax.jvp(function, (*point, *given[count:]), tangents[1:])[1]

    return value(extreme, *arguments, *options)
