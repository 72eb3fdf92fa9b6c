"""One form of a function for one platform, another elsewhere: which is chosen when the program is lowered.

`instead` chooses between two forms of any function. `same` is the identity, of which a platform makes something else:
an equation of its own, since most choices are of that kind and this one costs no trace of either form.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import ShapedArray
from jax.extend.core import Primitive, Var
from jax.interpreters import ad, batching, mlir, partial_eval

from jaxloss._platform.mesh import current

_choice = Primitive("jaxloss_choice")
_choice.multiple_results = True
_choice.def_impl(lambda *xs, reference, **_: reference(*xs))
_choice.def_abstract_eval(lambda *xs, avals, **_: list(avals))


class _Form(NamedTuple):
    """What takes the place of a function on one platform; the flags are those of `instead`."""

    platform: str
    function: Callable[..., Any]
    rows: bool
    columns: bool
    one_device: bool


# What functions with other forms were before, and those forms.
_known: weakref.WeakKeyDictionary[Any, tuple[Callable[..., Any], tuple[_Form, ...]]] = weakref.WeakKeyDictionary()


# The types of the results of functions, by those of their arguments.
_results: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()
forget = _results.clear  # what `jax.clear_caches` is to jax


def instead(
    platforms: Sequence[str],
    form: Callable[..., Any],
    rows: bool = False,
    columns: bool = True,
    suits: Callable[[Sequence[Array]], bool] | None = None,
    elementwise: bool = False,
    one_device: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Put a form of the same function in its place where the program is for one of these platforms.

    For the inside of functions that have hand-written derivatives, and for those that are linear in what they are
    differentiated by: their transpose has the transposed form. Second derivatives of a scan are automatic all the same,
    since jax drops such rules there: they are those of the reference.

    rows: whether the form takes batches of rows as they are, the rows along the last axis; else it is mapped.
    columns: whether it is also for rows that lie across the axes of their batch, as the classes of images may.
    suits: whether it is for these arguments, by their types and shapes; None for all.
    elementwise: promises that the result is like the one argument, so that neither is traced to learn what it is.
    one_device: whether it is only for programs that are known to run on one device, since it would move what is spread.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        def suited(*args: Any) -> Any:
            return (form if suits is None or suits(jax.tree.leaves(args)) else function)(*args)

        reference, forms = _known.get(function, (function, ()))
        forms = (*forms, *(_Form(name, suited, rows, columns, one_device) for name in platforms))

        @functools.wraps(function)
        def call(*args: Any) -> Any:
            leaves, structure = jax.tree.flatten(args)
            if elementwise:
                avals, results = (jax.typeof(args[0]),), jax.tree.structure(args[0])
            else:
                avals, results = _kinds(reference, args)

            def flat(function: Callable[..., Any]) -> Callable[..., list[Any]]:
                return lambda *leaves: jax.tree.leaves(function(*jax.tree.unflatten(structure, leaves)))

            found = _choice.bind(*leaves, reference=flat(reference), forms=_each(flat, forms), avals=avals)
            return jax.tree.unflatten(results, found)

        _known[call] = reference, forms
        return call

    return decorate


def _each(change: Callable[..., Any], forms: Sequence[_Form]) -> tuple[_Form, ...]:
    return tuple(form._replace(function=change(form.function)) for form in forms)


def _kinds(function: Callable[..., Any], args: Sequence[Any]) -> tuple[tuple[ShapedArray, ...], Any]:
    """The types of the results of a function, and their structure."""
    leaves, structure = jax.tree.flatten(args)
    types = tuple(map(jax.typeof, leaves))
    # jax has a memory for this, too, but begins anew wherever it transforms or lowers a program.
    known = _results.setdefault(function, {}) if all(map(plain, types)) else {}
    asked = structure, types, jnp.result_type(float)
    if asked not in known:
        with current(*leaves):
            program, results = jax.make_jaxpr(function, return_shape=True)(*args)
        known[asked] = tuple(program.out_avals), jax.tree.structure(results)
    return known[asked]


def _chosen(reference: Callable[..., Any], forms: tuple[_Form, ...], args: Sequence[Any]) -> list[Any]:
    return _choice.bind(*args, reference=reference, forms=forms, avals=_kinds(reference, args)[0])


def _batched(
    args: Sequence[Any], dims: Sequence[int | None], *, reference: Any, forms: tuple[_Form, ...], avals: Any
) -> tuple[list[Any], list[int]]:
    places = tuple(dims)
    size = next(x.shape[d] for x, d in zip(args, dims, strict=True) if d is not None)
    mapped = [d for d in places if d is not None]
    if len(mapped) == len(places):
        args, places = [jnp.moveaxis(x, d, 0) for x, d in zip(args, mapped, strict=True)], 0
    forms = tuple(
        form if form.rows and places == 0 else form._replace(function=jax.vmap(form.function, places), rows=False)
        for form in forms
        if form.columns or not any(mapped)
    )
    reference, axes = jax.vmap(reference, places), [0] * len(avals)
    if not all(plain(jax.typeof(x)) for x in args):
        return _chosen(reference, forms, args), axes
    # Known from those of one, so that the reference is not traced for them.
    avals = tuple(ShapedArray((size, *x.shape), x.dtype, weak_type=x.weak_type) for x in avals)
    return _choice.bind(*args, reference=reference, forms=forms, avals=avals), axes


def plain(kind: ShapedArray) -> bool:
    """Whether a type is all in shape and dtype, since it lies in no explicit mesh and outside of shard_map."""
    return kind == ShapedArray(kind.shape, kind.dtype, weak_type=kind.weak_type)


batching.primitive_batchers[_choice] = _batched


def _differentiated(primals: Sequence[Any], tangents: Sequence[Any], **how: Any) -> tuple[list[Any], list[Any]]:
    moved = [ad.instantiate_zeros(t) for t in tangents]
    return _choice.bind(*primals, **how), jax.jvp(how["reference"], tuple(primals), tuple(moved))[1]


ad.primitive_jvps[_choice] = _differentiated


def _transposed(slopes: Sequence[Any], *args: Any, reference: Any, forms: tuple[_Form, ...], avals: Any) -> list[Any]:
    # The functions are linear in some of their arguments. The others are known.
    linear = [ad.is_undefined_primal(x) for x in args]
    inputs = [x.aval for x in args if ad.is_undefined_primal(x)]
    known = [x for x in args if not ad.is_undefined_primal(x)]

    def back(function: Callable[..., Any]) -> Callable[..., list[Any]]:
        def transposed(*given: Any) -> list[Any]:
            def of_linear(*moved: Any) -> Any:
                some, others = iter(moved), iter(given[: len(known)])
                return function(*(next(some if each else others) for each in linear))

            return list(jax.linear_transpose(of_linear, *inputs)(list(given[len(known) :])))

        return transposed

    given = [*known, *(ad.instantiate_zeros(x) for x in slopes)]
    forms = tuple(form._replace(rows=False) for form in _each(back, forms))  # the inputs are those of one row
    found = iter(_chosen(back(reference), forms, given))
    return [next(found) if each else None for each in linear]


ad.primitive_transposes[_choice] = _transposed


# ---------------------------------------------------------------------------------------------------------------------
# Batches of elementwise functions, and of those whose result is like their first argument


def aligned(xs: Sequence[Array], places: Sequence[int | None]) -> tuple[Sequence[Array], int]:
    """The arguments of an elementwise function for a batch, so that they broadcast, and the axis of the batch."""
    rank = max(x.ndim - (i is not None) for x, i in zip(xs, places, strict=True))
    first = places[0]
    if first is not None and all(i == first and x.ndim == rank + 1 for x, i in zip(xs, places, strict=True)):
        return xs, first

    def in_front(x: Array, place: int | None) -> Array:
        if place is None:
            return x[None] if x.ndim else x
        # A number of each example lies along the batch, whatever the rank of the arrays beside it.
        return jnp.expand_dims(jnp.moveaxis(x, place, 0), range(1, rank + 2 - x.ndim))

    return [*map(in_front, xs, places)], 0


def first_spread(xs: Sequence[Array], places: Sequence[int | None]) -> tuple[Sequence[Array], tuple[int | None, ...]]:
    """The arguments for a batch, the first of which has its axis, since the result is like it."""
    if places[0] is not None:
        return xs, tuple(places)
    size = next(x.shape[i] for x, i in zip(xs, places, strict=True) if i is not None)
    return [jnp.broadcast_to(xs[0], (size, *xs[0].shape)), *xs[1:]], (0, *places[1:])


def batch_like_first(primitive: Primitive) -> None:
    """Map an elementwise primitive whose result is like its first argument."""

    def batched(xs: Sequence[Array], places: Sequence[int | None], **params: Any) -> tuple[Array, int]:
        xs, axis = aligned(*first_spread(xs, places))
        return primitive.bind(*xs, **params), axis

    batching.primitive_batchers[primitive] = batched


# ---------------------------------------------------------------------------------------------------------------------
# The identity, of which a platform makes something else

_same = Primitive("jaxloss_same")
_same.def_impl(lambda x, *_, **__: x)
_same.def_abstract_eval(lambda x, *_, **__: x)


def same(x: Array, *others: Any, form: Callable[..., Array] | None, platforms: tuple[str, ...]) -> Array:
    """x, of which these platforms make form(x, *others).

    form: an elementwise function that leaves every number what it is; None for what becomes opaque where
        `jax.checkpoint` computes it anew.
    """
    return _same.bind(x, *others, form=form, platforms=platforms)


def _same_of_batch(
    xs: Sequence[Any], dims: Sequence[int | None], *, form: Any, platforms: tuple[str, ...]
) -> tuple[Any, int | None]:
    if len(xs) == 1:
        return same(*xs, form=form, platforms=platforms), dims[0]
    xs, dims = first_spread(xs, dims)
    form = form and jax.vmap(form, dims, dims[0])
    return same(*xs, form=form, platforms=platforms), dims[0]


batching.primitive_batchers[_same] = _same_of_batch
ad.primitive_jvps[_same] = lambda primals, tangents, **how: (same(*primals, **how), tangents[0])
ad.primitive_transposes[_same] = lambda slope, _, **how: [same(ad.instantiate_zeros(slope), **how)]


def _recomputed(_: Any, unknown: Sequence[bool], instantiated: Sequence[bool], step: Any) -> Any:
    """How `jax.checkpoint` splits it."""
    opaque = {**step.params, "form": jax.lax.optimization_barrier}
    again = step.replace(params=opaque) if step.params["form"] is None else step
    new = [x for x, there in zip(step.invars, instantiated, strict=True) if isinstance(x, Var) and not there]
    return (None if any(unknown) else step), again, [any(unknown)], [True], new


partial_eval.partial_eval_jaxpr_custom_rules[_same] = _recomputed


# ---------------------------------------------------------------------------------------------------------------------
# Which form a program gets


def _choice_for(machine: str | None) -> Callable[..., Any]:
    def chosen(*xs: Any, reference: Any, forms: tuple[_Form, ...], avals: Any) -> Any:
        functions = {None: reference, **{form.platform: form.function for form in forms}}
        return functions[machine if machine in functions else None](*xs)

    lower = mlir.lower_fun(chosen, multiple_results=True)

    def lower_chosen(context: Any, *xs: Any, forms: tuple[_Form, ...], **how: Any) -> Any:
        # Inside of `jax.shard_map` jax does not say how many there are.
        devices = getattr(context.module_context.axis_context, "num_devices", None)
        fitting = tuple(form for form in forms if devices == 1 or not form.one_device)
        return lower(context, *xs, forms=fitting, **how)

    return lower_chosen


def _same_for(machine: str | None) -> Callable[..., Any]:
    def made(x: Any, *others: Any, form: Any, platforms: tuple[str, ...]) -> Any:
        return form(x, *others) if form and machine in platforms else x

    return mlir.lower_fun(made, multiple_results=False)


def lower_for(machine: str | None, platform: str | None) -> None:
    """Have programs for this platform of jax, None for all others, get the forms of this machine."""
    mlir.register_lowering(_choice, _choice_for(machine), platform=platform)
    mlir.register_lowering(_same, _same_for(machine), platform=platform)


for _machine, _platform in ((None, None), ("cpu", "cpu"), ("tpu", "tpu"), ("gpu", "cuda"), ("gpu", "rocm")):
    lower_for(_machine, _platform)
