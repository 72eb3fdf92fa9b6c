"""Derivatives written by hand. What the README promises of all derivatives is kept here, once.

A formula gets a rule of its own where the automatic derivative would cancel, overflow, or say something else at a kink
than the docstring does. `partials` gives an elementwise function its derivative by each argument, and `elementwise` any
rule; the few functions of a whole row have a `jax.custom_jvp` of their own. `gradient_where` and `stop_gradient_where`
say where there is no derivative.
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


class elementwise:
    """`jax.custom_jvp` for an elementwise function of floats of one dtype, as one equation of a program.

    A transformation of a `jax.custom_jvp` traces the function anew, to learn the types of its results. Here they are
    known: with `jax.custom_jvp` in its place, boxes take 1.4 times as long to trace (`python -m
    benchmarks.compile_time`).

    results: how many it returns, as a tuple; None for a single one.
    """

    def __init__(self, function: Callable[..., Any], results: int | None = None) -> None:
        self.function, self.results = function, results
        functools.update_wrapper(self, function)

    def defjvp(self, rule: Callable[..., Any], symbolic_zeros: bool = False) -> None:
        """symbolic_zeros: whether the rule gets None in place of the tangent of what does not change, else zeros."""
        self.rule, self.symbolic_zeros = rule, symbolic_zeros

    def __call__(self, *arguments: Any) -> Any:
        leaves, structure = jax.tree.flatten(mesh.varying(arguments))
        results = _ruled.bind(*leaves, of=self, structure=structure)
        return results[0] if self.results is None else tuple(results)

    def values(self, structure: Any, *leaves: Array) -> list[Array]:
        found = self.function(*jax.tree.unflatten(structure, leaves))
        return [found] if self.results is None else list(found)


_ruled = Primitive("jaxloss_elementwise")
_ruled.multiple_results = True


def _values(*leaves: Array, of: elementwise, structure: Any) -> list[Array]:
    return of.values(structure, *leaves)


def _shape(arguments: Sequence[Any]) -> Any:
    return jnp.broadcast_shapes(*(x.shape for x in arguments))


def _types(*leaves: ShapedArray, of: elementwise, structure: Any) -> list[ShapedArray]:
    return [_type(*leaves)] * (of.results or 1)


def _type(first: ShapedArray, *others: ShapedArray) -> ShapedArray:
    if all(x == first for x in others):
        return first
    if all(map(choice.plain, (first, *others))):
        return first.update(shape=_shape((first, *others)))
    return jax.make_jaxpr(lambda *xs: functools.reduce(jnp.add, xs))(first, *others).out_avals[0]


def _batched(leaves: Sequence[Array], places: Sequence[int | None], *, of: elementwise, structure: Any) -> Any:
    leaves, axis = choice.aligned(leaves, places)
    return _ruled.bind(*leaves, of=of, structure=structure), [axis] * (of.results or 1)


def _differentiated(primals: Sequence[Array], tangents: Sequence[Any], *, of: elementwise, structure: Any) -> Any:
    zeros = (lambda t: None if isinstance(t, ad.Zero) else t) if of.symbolic_zeros else ad.instantiate_zeros
    value, moved = of.rule(*(jax.tree.unflatten(structure, x) for x in (primals, [*map(zeros, tangents)])))
    return ([value], [moved]) if of.results is None else (list(value), list(moved))


# Outside `jax.jit`, too, it is one step, so that `jax_debug_nans` does not judge what its selects leave out.
_in_one_step = jax.jit(_values, static_argnames=("of", "structure"))
# With `jax.disable_jit` it may be given literals of a program.
_ruled.def_impl(lambda *leaves, **rule: _in_one_step(*map(jnp.asarray, leaves), **rule))
_ruled.def_abstract_eval(_types)
batching.primitive_batchers[_ruled] = _batched
ad.primitive_jvps[_ruled] = _differentiated
mlir.register_lowering(_ruled, mlir.lower_fun(_values, multiple_results=True))


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
            first = [_with_partials(_alone(d), [_finite_slope(d, i) for i in places]) for d in chosen]
            return _with_partials(functools.partial(function, **which), first)

        def call(*arguments: Any, **which: Any) -> Array:
            dtype = next(x.dtype for x in arguments if isinstance(x, Array))
            return ruled(**which)(*(jnp.asarray(x, dtype) for x in arguments))

        call.__name__, call.__doc__ = function.__name__, function.__doc__
        return call

    return decorate


def _with_partials(function: Elementwise, derivatives: Sequence[Elementwise]) -> Elementwise:
    def value(*arguments: Array) -> Array:
        found, shape = function(*arguments), _shape(arguments)
        if found.shape != shape:
            raise ValueError(
                f"partials: the function returned an array of shape {found.shape} for arguments of shape {shape}, so "
                "it is not elementwise."
            )
        return found.astype(arguments[0].dtype)  # of a bare 1.0, say, which x64 makes wider

    def rule(primals: Sequence[Array], tangents: Sequence[Array | None]) -> tuple[Array, Array]:
        moved = zip(derivatives, tangents, strict=True)
        terms = [derivative(*primals) * t for derivative, t in moved if t is not None]
        return ruled(*primals), sum(terms[1:], terms[0])

    ruled = elementwise(value)
    ruled.defjvp(rule, symbolic_zeros=True)
    return ruled


def _alone(derivative: Elementwise) -> Elementwise:
    """The derivative, with constants of its own, and reading its arguments apart."""

    def alone(*arguments: Array) -> Array:
        found, shape = cpu.unshared(derivative)(*(apart(x, 1, "gpu") for x in arguments)), _shape(arguments)
        # It may be a constant.
        return found if found.shape == shape else jnp.broadcast_to(mesh.laid_out_as(found, *arguments), shape)

    return alone


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
