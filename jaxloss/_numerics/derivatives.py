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
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxloss._platform import apart, choice, cpu, mesh

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
    - its own derivative, the second of the function, counts as 0 where no float can hold it: infinity times 0, and
      infinity minus infinity, would be NaN.

    If the result does not have the shape to which the arguments broadcast, calling the function is a ValueError.
    """
    places = range(len(derivatives))

    def decorate(function: Elementwise) -> Elementwise:
        @functools.cache
        def ruled(**which: Any) -> Elementwise:
            chosen = [functools.partial(d, **which) for d in derivatives]
            first = [_with_rule(_alone(d), [_finite_slope(d, i) for i in places]) for d in chosen]
            return _with_rule(functools.partial(function, **which), first)

        def call(*arguments: Any, **which: Any) -> Array:
            dtype = next(x.dtype for x in arguments if isinstance(x, Array))
            return ruled(**which)(*mesh.varying([jnp.asarray(x, dtype) for x in arguments]))

        call.__name__, call.__doc__ = function.__name__, function.__doc__
        return call

    return decorate


def _alone(derivative: Elementwise) -> Elementwise:
    """The derivative, with constants of its own, and reading its arguments apart."""

    def alone(*arguments: Array) -> Array:
        found, shape = cpu.unshared(derivative)(*(apart(x, 1, "gpu") for x in arguments)), _shape(arguments)
        # It may be a constant.
        return found if found.shape == shape else jnp.broadcast_to(mesh.laid_out_as(found, *arguments), shape)

    return alone


# An elementwise function with its partial derivatives, as one equation of a program. `jax.custom_jvp` would do, but
# there each transformation traces the function anew, to learn the type of the result, which is known here: with it
# `balanced_l1` takes 1.6 times as long (`python -m benchmarks.compile_time`).
_ruled = Primitive("jaxloss_elementwise")


def _shape(arguments: Sequence[Any]) -> Any:
    return jnp.broadcast_shapes(*(x.shape for x in arguments))


def _value(*arguments: Array, function: Elementwise, derivatives: Any) -> Array:
    found, shape = function(*arguments), _shape(arguments)
    if found.shape != shape:
        raise ValueError(
            f"partials: the function returned an array of shape {found.shape} for arguments of shape {shape}, so it is "
            "not elementwise."
        )
    return found.astype(arguments[0].dtype)  # of a bare 1.0, say, which x64 makes wider


def _type(*arguments: ShapedArray, function: Elementwise, derivatives: Any) -> ShapedArray:
    first, *others = arguments
    if all(x == first for x in others):
        return first
    if all(map(choice.plain, arguments)):
        return first.update(shape=_shape(arguments))
    return jax.make_jaxpr(lambda *xs: functools.reduce(jnp.add, xs))(*arguments).out_avals[0]


def _batched(arguments: Sequence[Array], places: Sequence[int | None], **rule: Any) -> tuple[Array, int]:
    arguments, axis = choice.aligned(arguments, places)
    return _ruled.bind(*arguments, **rule), axis


def _differentiated(
    primals: Sequence[Array], tangents: Sequence[Any], *, function: Elementwise, derivatives: Sequence[Elementwise]
) -> tuple[Array, Any]:
    value = _ruled.bind(*primals, function=function, derivatives=derivatives)
    moved = zip(derivatives, tangents, strict=True)
    terms = [derivative(*primals) * t for derivative, t in moved if not isinstance(t, ad.Zero)]
    return value, sum(terms[1:], terms[0])


# Outside `jax.jit`, too, it is one step, so that `jax_debug_nans` does not judge what its selects leave out.
_in_one_step = jax.jit(_value, static_argnames=("function", "derivatives"))
# With `jax.disable_jit` it may be given literals of a program.
_ruled.def_impl(lambda *arguments, **rule: _in_one_step(*map(jnp.asarray, arguments), **rule))
_ruled.def_abstract_eval(_type)
batching.primitive_batchers[_ruled] = _batched
ad.primitive_jvps[_ruled] = _differentiated
mlir.register_lowering(_ruled, mlir.lower_fun(_value, multiple_results=False))


def _with_rule(function: Elementwise, derivatives: Sequence[Elementwise]) -> Elementwise:
    return functools.partial(_ruled.bind, function=function, derivatives=tuple(derivatives))


def _finite_slope(function: Elementwise, place: int) -> Elementwise:
    """The automatic derivative with respect to one argument; 0 where it is not finite."""

    def slope(*point: Array) -> Array:
        point = tuple(map(jnp.asarray, point))  # in a program they may be literals, which older jax cannot negate

        def along(x: Array) -> Array:
            return function(*point[:place], x, *point[place + 1 :])

        found = jax.jvp(along, (point[place],), (jnp.ones_like(point[place]),))[1]
        return jnp.where(jnp.isfinite(found), found, 0)

    return slope


def no_slope(y: Array, *_: Array) -> Array:
    """The derivative with respect to a target that only chooses a side, for `partials`."""
    return jnp.zeros_like(y)


def gradient_where(keep: Callable[..., Array], x: Array, *numbers: Array, place: int = 0) -> Array:
    """x as it is, without gradient where keep(*numbers) does not hold.

    keep: an elementwise function, which is evaluated only if x is differentiated.
    place: of x among several, from 1 on, so that each compares numbers of its own; 0 if it need not.
    """
    return _cut.bind(x, *numbers, keep=keep, place=place)


# An equation of its own, since `jax.custom_jvp` would trace the identity again for each transformation.
_cut = Primitive("jaxloss_cut")
_cut.def_impl(lambda x, *_, **__: x)
_cut.def_abstract_eval(lambda x, *_, **__: x)
mlir.register_lowering(_cut, lambda _, x, *__, **___: [x])
choice.batch_like_first(_cut)


def _cut_tangent(
    primals: Sequence[Array], tangents: Sequence[Any], *, keep: Callable[..., Array], place: int
) -> tuple[Array, Any]:
    value, tangent = _cut.bind(*primals, keep=keep, place=place), tangents[0]
    if isinstance(tangent, ad.Zero):
        return value, tangent
    numbers = [apart(x, place, "gpu", "tpu") if place else x for x in primals[1:]]
    return value, cpu.kept(tangent, cpu.unshared(keep)(*numbers))


ad.primitive_jvps[_cut] = _cut_tangent


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
