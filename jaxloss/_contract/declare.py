"""The decorator that makes a function a loss: compiled, named in its errors, listed, and documented in full."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss._contract import values
from jaxloss._contract.types import PROGRAMS, P, R, checking, tracing

SHARED = tuple(
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
    for name, default, annotation in (
        ("weights", None, "ArrayLike | None"),
        ("where", None, "ArrayLike | None"),
        ("reduction", "mean", "Reduction"),
    )
)
SHARED_HELP = """  weights: a factor for each {unit}.
      where: which {units} exist (bool); the others may hold anything, even NaN.
      reduction: "mean", "sum", "none", "sum_over_batch_size", or a function of (losses, weights); see `help(jaxloss)`.
"""


# All losses, in the order in which they were declared.
declared: list[Callable[..., Any]] = []


def loss(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function a loss.

    It is compiled, once for each kind of call: arrays (and lists, which become arrays) are traced; a Python number,
    bool, string or function given to an option is a compile-time constant, so another value is another program. Its
    errors name it. Where the function ends in `**units: Unpack[Units]`, its signature and its help show the options
    that all losses share.
    """
    call = compiled(function)
    declared.append(call)
    return call


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """What `loss` does, but for a function that is no loss itself: it is not among `jaxloss.LOSSES`."""
    name = function.__name__
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    shared = SHARED if len(own) < len(signature.parameters) else ()
    positional = [p.name for p in own if p.kind is not p.KEYWORD_ONLY]
    operands = frozenset([*positional, "weights", "where"])

    @functools.lru_cache(maxsize=PROGRAMS, typed=True)
    def program(**constants: Any) -> Callable[..., R]:
        given = functools.partial(function, **constants)

        @functools.wraps(function)
        def body(*args: Any, **options: Any) -> R:
            with tracing(name):
                return values.reporting(given, *args, **options) if checking.value else given(*args, **options)

        return jax.jit(body, inline=True)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        arrays = [as_array(name, positional, i, x) for i, x in enumerate(args)]
        if not kwargs:
            return program()(*arrays)
        constants, options = {}, {}
        for key, value in kwargs.items():
            if value is None or (key not in operands and _is_constant(key, value)):
                constants[key] = value
            else:
                value = as_array(name, (key,), 0, value)
                # As a NumPy constant of a larger program it could not be lowered with and without x64 in one process.
                options[key] = value if key in operands else jnp.asarray(value)
        return program(**constants)(*arrays, **options)

    if shared:
        call.__signature__ = signature.replace(parameters=[*own, *shared])  # pyright: ignore
        call.__annotations__ = {k: v for k, v in function.__annotations__.items() if k != "units"}
        call.__annotations__ |= {p.name: p.annotation for p in shared}
        call.__doc__ = _with_shared_help(function.__doc__ or "")
    return call


def _with_shared_help(text: str) -> str:
    """The docstring, with what the shared options do at the end of its Args."""
    head, returns, rest = text.partition("\n    Returns:")
    if not returns:
        return text
    units = _unit_of(rest)
    return f"{head.rstrip(' ')}    {SHARED_HELP.format(unit=units.removesuffix('s'), units=units)}{returns}{rest}"


def _unit_of(returns: str) -> str:
    """The units of a loss, from "The mean over elements; ...": elements."""
    return returns.partition("The mean over ")[2].partition(";")[0].partition(" and ")[0].strip() or "units"


def _is_constant(key: str, value: Any) -> bool:
    if isinstance(value, (bool, int, float, str)):
        return not isinstance(value, np.generic)
    return callable(value) or (key in ("axis", "axis_name") and isinstance(value, tuple))


def as_array(loss: str, names: Sequence[str], index: int, value: Any) -> Any:
    """What jit can trace: arrays as they are, lists as arrays (jit would take a list for a tree of scalars)."""
    if isinstance(value, (jax.Array, np.ndarray)):
        return value
    if isinstance(value, (bool, int, float)):
        return value
    name = names[index] if index < len(names) else f"argument {index + 1}"
    try:
        array = np.asarray(value)
    except jax.errors.TracerArrayConversionError:  # a list of traced scalars
        array = jnp.asarray(value)
    except ValueError as error:
        raise ValueError(f"{loss}: {name} is no array: {error}") from None
    if array.dtype.kind not in "biufcV":  # V: bfloat16 and its kin
        raise TypeError(f"{loss}: {name} must be an array of numbers or a list of them, got {type(value).__name__}.")
    return array
