"""The decorator that makes a function a loss: compiled, named in its errors, listed, and documented in full."""

from __future__ import annotations

import functools
import inspect
import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxloss._contract import values
from jaxloss._contract.from_numpy import INT32, fits_32_bits, hides_entries, of_numpy
from jaxloss._contract.refuse import check_constant, check_real
from jaxloss._contract.types import PROGRAMS, Notes, P, R, checking, debugging_nans, tracing
from jaxloss._names import instead_of

SHARED = tuple(
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
    for name, default, annotation in (
        ("weights", None, "ArrayLike | None"),
        ("where", None, "ArrayLike | None"),
        ("reduction", "mean", "Reduction"),
    )
)
SHARED_HELP = {
    "weights": "a factor for each {unit}.",
    "where": "which {units} exist (bool); the others may hold anything, even NaN.",
    "reduction": '"mean", "sum", "none", "sum_over_batch_size", "sum_and_weight", or a function of (losses, weights).',
}


# All losses, in the order in which they were declared.
declared: list[Callable[..., Any]] = []


class _Program(NamedTuple):
    """A loss with some constants, and what was noted of its arguments while it was traced."""

    run: Callable[..., Any]
    notes: Notes


def loss(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function a loss.

    It is compiled, once for each kind of call: arrays (and lists, which become arrays) are traced; a Python number,
    bool, string or function given to an option is a compile-time constant, so another value is another program. An
    option can be traced only if its annotation names `float` or `Array`; without one it is always a constant. Errors
    name the loss. Where the function ends in `**units: Unpack[Units]`, its signature and its help show the options that
    all losses share.
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
    # No array can say which program is meant.
    fixed = {p.name for p in own if p.kind is p.KEYWORD_ONLY and not re.search("Array|float", _kind_of(p))}
    needed = {p.name for p in own if "None" not in str(p.annotation)}
    tuned = {p.name for p in own} - fixed
    flags = {p.name for p in own if p.annotation in (bool, "bool")}
    known = {p.name: None for p in (*own, *shared)}

    @functools.lru_cache(maxsize=PROGRAMS, typed=True)
    def program(debug_nans: bool, /, **constants: Any) -> _Program:
        given, notes = functools.partial(function, **constants), Notes()

        @functools.wraps(function)
        def body(*args: Any, **options: Any) -> R:
            with tracing(name, notes):
                return values.reporting(given, *args, **options) if checking.value else given(*args, **options)

        return _Program(jax.jit(body, inline=True), notes)

    def settled(options: dict[str, Any]) -> dict[str, Any]:
        return {
            key: _fixed(name, key, x) if key in fixed else x if key in operands else _settled(x)
            for key, x in options.items()
        }

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if len(args) > len(positional) or not kwargs.keys() <= known.keys():
            raise TypeError(_wrong_arguments(name, positional, list(known), len(args), list(kwargs)))
        arrays = {key: as_array(name, key, x) for key, x in zip(positional, args, strict=False)}
        constants, numbers, options = {}, {}, {}
        for key, value in settled(kwargs).items():
            if key in flags and not (isinstance(value, int) and value in (0, 1)):
                raise TypeError(f"{name}: {key} must be True or False, got {value!r}.")
            if (value is None and key in needed) or (isinstance(value, str) and key in tuned):
                raise TypeError(f"{name}: {key} must be a number or an array, got {value!r}.")
            if value is None or (key not in operands and _is_constant(value)):
                constants[key] = value if key != "reduction" else _named(name, value)
            else:
                options[key] = as_array(name, key, value)
                if isinstance(value, np.generic):
                    numbers[key] = value
        found = program(debugging_nans(), **constants)
        given = _in_32_bits(found, arrays, options)
        # As a NumPy constant of a larger program it could not be lowered with and without x64 in one process.
        options = {
            key: x if key in operands or isinstance(x, jax.Array) else jnp.asarray(x)
            for key, x in given.items()
            if key in options
        }
        try:
            result = found.run(*(given[key] for key in arrays), **options)
        except Exception as error:
            # From jax.debug_nans; inside jax.checkpoint, of a kind that is internal to jax.
            if not isinstance(error, FloatingPointError) and type(error).__name__ != "InternalFloatingPointError":
                raise
            raise FloatingPointError(f"{name}: {error}. jaxloss.checked tells which input it comes from.") from None
        if numbers:
            with tracing(name):
                for key in numbers.keys() & found.notes.domains.keys():
                    check_constant(key, float(numbers[key]), found.notes.domains[key])
        return result

    call.settled = settled  # pyright: ignore  for `checked`, which traces what is no constant
    if shared:
        call.__signature__ = signature.replace(parameters=[*own, *shared])  # pyright: ignore
        call.__annotations__ = {k: v for k, v in function.__annotations__.items() if k != "units"}
        call.__annotations__ |= {p.name: p.annotation for p in shared}
    if shared or SHARED_HELP.keys() <= signature.parameters.keys():
        call.__doc__ = _with_shared_help(function.__doc__ or "")
    return call


def _kind_of(option: inspect.Parameter) -> str:
    """Its annotation, or the type of its default."""
    return type(option.default).__name__ if option.annotation is option.empty else str(option.annotation)


def _with_shared_help(text: str) -> str:
    """The docstring, with what the shared options do at the end of its Args, unless it says so itself."""
    head, returns, rest = text.partition("\n    Returns:")
    if not returns:
        return text
    units = _unit_of(rest)
    unsaid = [f"{name}: {text}" for name, text in SHARED_HELP.items() if f"\n      {name}: " not in head]
    lines = [f"      {line.format(unit=_singular(units), units=units)}\n" for line in unsaid]
    return f"{head.rstrip(' ')}{''.join(lines)}{returns}{rest}"


def _unit_of(returns: str) -> str:
    """The units of a loss, from "The mean over elements; ...": elements."""
    units = returns.partition("The mean over ")[2].partition(";")[0]
    return re.split(" and | in ", units)[0].strip() or "units"


def _singular(units: str) -> str:
    for end, one in (("boxes", "box"), ("queries", "query"), ("s", "")):
        if units.endswith(end):
            return units.removesuffix(end) + one
    return units


# ---------------------------------------------------------------------------------------------------------------------
# Which program


def _wrong_arguments(name: str, positional: list[str], known: list[str], count: int, given: list[str]) -> str:
    if count > len(positional):
        wanted = f"{name}({', '.join(positional)}, *, ...)"
        return f"{wanted} takes {len(positional)} arrays by position, got {count}. Name what follows, as in where=mask."
    wrong = next(key for key in given if key not in known)
    return f"{name}() got an unexpected keyword argument {wrong!r}. {instead_of(wrong, name, known)}"


def _settled(value: Any) -> Any:
    """The number or string that a NumPy scalar is.

    A float that is no whole number remains one of NumPy, which is traced: often such an option has many values. At a
    whole number a loss may have a form of its own.
    """
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, (np.bool_, np.integer, np.str_)) or (isinstance(value, np.floating) and value.is_integer()):
        value = value.item()
    # jax takes a Python number for one of 32 bits.
    return float(value) if isinstance(value, int) and not -(2**31) <= value < 2**31 else value


def _fixed(loss: str, key: str, value: Any) -> Any:
    """An option that chooses the program: a bool, an integer, a string, or several axes."""
    if isinstance(value, Tracer):
        raise TypeError(
            f"{loss}: {key} must be a constant, got a traced {value.dtype}. jax.jit traces every argument of the "
            f"function that it is given; close over this one: jax.jit(functools.partial({loss}, {key}=...))."
        )
    if isinstance(value, jax.Array) and value.ndim == 0:
        value = np.asarray(value)
    if isinstance(value, (list, tuple, range, np.ndarray)) and np.ndim(value) == 1:
        return tuple(_settled(x) for x in value)
    return _settled(value)


def _is_constant(value: Any) -> bool:
    if isinstance(value, (np.generic, jax.Array)) or hasattr(value, "__jax_array__"):
        return False
    return isinstance(value, (bool, int, float, str, tuple)) or callable(value)


def _named(loss: str, reduction: Any) -> Any:
    """`jnp.mean` and `jnp.sum` count as "mean" and "sum"; other functions of an array and an axis are refused."""
    if reduction in (jnp.mean, np.mean):
        return "mean"
    if reduction in (jnp.sum, np.sum):
        return "sum"
    if callable(reduction) and _second_parameter(reduction) == "axis":
        shown = getattr(reduction, "__name__", "function")
        raise ValueError(
            f"{loss}: reduction must be a function of (losses, weights), but {shown} takes an array and an axis. Did "
            f'you mean "mean", or lambda losses, weights: {shown}(losses)?'
        )
    return reduction


def _second_parameter(function: Callable[..., Any]) -> str | None:
    try:
        return next(itertools.islice(inspect.signature(function).parameters, 1, None), None)
    except ValueError:  # a function written in C tells nothing
        return None


# ---------------------------------------------------------------------------------------------------------------------
# Which arrays

NUMBERS = (bool, int, float, np.number, np.bool_)


def as_array(loss: str, name: str, value: Any) -> Any:
    """What jit can trace: arrays as they are, lists as arrays (jit would take a list for a tree of scalars)."""
    if hasattr(value, "__jax_array__") and not isinstance(value, jax.Array):
        value = value.__jax_array__()
    if isinstance(value, float) or (isinstance(value, int) and INT32.min <= value <= INT32.max):
        return value
    if isinstance(value, jax.Array):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            raise TypeError(f"{loss}: {name} must be an array of numbers, got a key of jax.random.")
        check_real(loss, name, value)
        return value
    if hides_entries(value):
        raise TypeError(
            f"{loss}: {name} is a masked array, and its mask would be lost. Did you mean {name}.data, with "
            f"where=~{name}.mask?"
        )
    if isinstance(value, tuple) and _several(value):
        raise TypeError(
            f"{loss}: {name} is a tuple of several results, perhaps those of a model. Did you mean {name}[0]?"
        )
    try:
        array = np.asarray(value)
    except jax.errors.TracerArrayConversionError:  # a list of traced scalars
        return jnp.asarray(value)
    except ValueError as error:
        cure = (
            "Pad its rows to one length, and leave the padding out with where=." if "homogeneous" in str(error) else ""
        )
        raise ValueError(f"{loss}: {name} is no array: {error} {cure}".rstrip()) from None
    except (RuntimeError, TypeError) as error:  # what torch says
        raise TypeError(f"{loss}: {name} is no array: {error} Did you mean {name}.detach().float()?") from None
    if array.dtype == object and all(isinstance(x, NUMBERS) for x in array.ravel()):
        array = np.asarray(array.tolist())
        array = array.astype(float) if array.dtype == object else array  # beyond 64 bits
    if array.dtype != bool and not jnp.issubdtype(array.dtype, jnp.number):
        raise TypeError(
            f"{loss}: {name} must be an array of numbers or a list of them, got {_shown(name, value, array)}"
        )
    check_real(loss, name, array)
    return of_numpy(array)


def _several(results: tuple[Any, ...]) -> bool:
    """Whether they are arrays of different shapes, or an array beside None, as models return them."""
    return len({getattr(x, "shape", None) for x in results if x is None or hasattr(x, "shape")}) > 1


def _shown(name: str, value: Any, array: np.ndarray) -> str:
    """What holds no numbers, what it holds, and how to make numbers of it."""
    kind = type(value).__name__
    if hasattr(value, "todense"):
        return f"{kind}, which is sparse. Did you mean {name}.todense()?"
    if isinstance(value, Mapping):
        return f"{kind}. Give one of its entries: {', '.join(map(repr, value))}."
    if not array.ndim:
        return f"{kind}."
    if array.dtype.kind in "mM":
        cure = f"({name} - {name}[0]) / np.timedelta64(1, 's')"
        return f"{kind} of dates ({array.dtype}). Did you mean seconds, as {cure}?"
    strange = next((x for x in array.ravel() if not isinstance(x, NUMBERS)), None)
    if isinstance(strange, str):
        return f"{kind} of strings, such as {str(strange)!r}. np.unique({name}, return_inverse=True)[1] numbers them."
    missing = strange is None or type(strange).__name__ in ("NAType", "NaTType")
    cure = " Put a number where one is missing, and leave it out with where=." if missing else ""
    return f"{kind} that holds {type(strange).__name__}.{cure}"


def _in_32_bits(program: _Program, arrays: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """The arguments, where jax without x64 would let integers of 64 bits wrap around.

    A number becomes a float; a label or a length the nearest integer, which is outside its domain as well; of ids only
    counts which are equal.
    """
    given = arrays | options
    if jax.config.read("jax_enable_x64"):
        return given
    wide = {key: x for key, x in given.items() if isinstance(x, np.ndarray) and not fits_32_bits(x)}
    if not wide:
        return given
    near = {key: np.clip(x, INT32.min, INT32.max).astype(np.int32) for key, x in wide.items()}
    kinds = program.notes.kinds
    if not kinds:  # not traced yet
        narrow = given | near
        jax.eval_shape(program.run, *(narrow[key] for key in arrays), **{key: narrow[key] for key in options})

    def narrowed(key: str, x: np.ndarray) -> np.ndarray:
        if kinds.get(key) == "id":
            return np.unique(x, return_inverse=True)[1].reshape(x.shape).astype(np.int32)
        return near[key] if kinds.get(key) in ("label", "length") else x.astype(np.float32)

    return given | {key: narrowed(key, x) for key, x in wide.items()}
