"""One form of a function for one platform, another elsewhere: which is chosen when the program is lowered."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxloss._platform.mesh import current

_choice = Primitive("jaxloss_choice")
_choice.multiple_results = True
_choice.def_impl(lambda *xs, reference, **_: reference(*xs))
_choice.def_abstract_eval(lambda *xs, avals, **_: list(avals))


def _lowered_for(machine: str | None) -> Callable[..., Any]:
    def lowered(*xs: Any, reference: Any, form: Any, platform: str, rows: bool, avals: Any) -> Any:
        return (form if platform == machine else reference)(*xs)

    return mlir.lower_fun(lowered, multiple_results=True)


mlir.register_lowering(_choice, _lowered_for(None))
for _name, _machine in {"cpu": "cpu", "tpu": "tpu", "cuda": "gpu", "rocm": "gpu"}.items():
    mlir.register_lowering(_choice, _lowered_for(_machine), platform=_name)


def instead(
    platform: str, form: Callable[..., Any], rows: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Put a form of the same function in its place where the program is for this platform.

    For the inside of functions that have hand-written derivatives, and for linear ones, whose transpose has the
    transposed form. Second derivatives of a scan are automatic all the
    same, since jax drops such rules there: they are those of the reference.

    rows: whether the form takes batches of rows as they are, the rows along the last axis; else it is mapped.
    """

    def decorate(reference: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(reference)
        def call(*args: Any) -> Any:
            leaves, structure = jax.tree.flatten(args)
            results = None

            def flat(function: Callable[..., Any]) -> Callable[..., list[Any]]:
                def on_leaves(*leaves: Any) -> list[Any]:
                    nonlocal results
                    found, results = jax.tree.flatten(function(*jax.tree.unflatten(structure, leaves)))
                    return found

                return on_leaves

            found = _chosen(flat(reference), flat(form), leaves, platform=platform, rows=rows)
            return jax.tree.unflatten(results, found)

        return call

    return decorate


def _chosen(reference: Callable[..., Any], form: Callable[..., Any], args: Sequence[Any], **how: Any) -> list[Any]:
    with current(*args):
        avals = tuple(jax.make_jaxpr(reference)(*args).out_avals)
    return _choice.bind(*args, reference=reference, form=form, avals=avals, **how)


def _batched(
    args: Sequence[Any], dims: Sequence[int | None], *, reference: Any, form: Any, platform: str, rows: bool, avals: Any
) -> tuple[list[Any], list[int]]:
    places = tuple(dims)
    mapped = [d for d in places if d is not None]
    rows = rows and len(mapped) == len(places)
    if rows:
        args, places = [jnp.moveaxis(x, d, 0) for x, d in zip(args, mapped, strict=True)], 0
    else:
        form = jax.vmap(form, places)
    return _chosen(jax.vmap(reference, places), form, args, platform=platform, rows=rows), [0] * len(avals)


batching.primitive_batchers[_choice] = _batched


def _differentiated(primals: Sequence[Any], tangents: Sequence[Any], **forms: Any) -> tuple[list[Any], list[Any]]:
    moved = [ad.instantiate_zeros(t) for t in tangents]
    return _choice.bind(*primals, **forms), jax.jvp(forms["reference"], tuple(primals), tuple(moved))[1]


ad.primitive_jvps[_choice] = _differentiated


def _transposed(slopes: Sequence[Any], *args: Any, reference: Any, form: Any, avals: Any, **how: Any) -> list[Any]:
    # The functions are linear in all of their arguments.
    inputs = [x.aval for x in args]

    def back(function: Callable[..., Any]) -> Callable[..., list[Any]]:
        return lambda *slopes: list(jax.linear_transpose(function, *inputs)(list(slopes)))

    given = [ad.instantiate_zeros(x) for x in slopes]
    return _chosen(back(reference), back(form), given, **how)


ad.primitive_transposes[_choice] = _transposed
