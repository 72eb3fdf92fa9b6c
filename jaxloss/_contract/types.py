"""The words in which a loss declares what it takes."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, ParamSpec, Protocol, TypeAlias, TypedDict, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._contract import domains
from jaxloss._contract.domains import Domain

P = ParamSpec("P")
R = TypeVar("R")


class HoldsArray(Protocol):
    """What gives jax its array, such as a parameter of flax.nnx."""

    def __jax_array__(self) -> Array: ...


ArrayLike: TypeAlias = jax.typing.ArrayLike | HoldsArray | list[Any] | tuple[Any, ...]
"""An array of jax or NumPy, what holds one, a Python number, or a (nested) list of numbers."""

Reduction: TypeAlias = (
    Literal["mean", "sum", "none", "sum_over_batch_size", "sum_and_weight"] | Callable[[Array, Array], Any]
)
"""A name, or a function `(losses, weights) -> result`; both have an entry for each unit, 0 where none exists."""

# Programs kept for each loss, one for each set of constant options: new lambdas at every step must not fill the memory.
PROGRAMS = 128

REDUCTIONS = ("mean", "sum", "none", "sum_over_batch_size", "sum_and_weight")


class ClassStats(NamedTuple):
    """What a trainer logs, reduced as the loss is. Nothing is differentiated through it.

    cross_entropy: the loss without the z-loss.
    z_loss: the rest.
    logsumexp: of the logits.
    correct: 1 where no logit exceeds that of the label (of dense targets, of the largest), else 0: its mean is the
      accuracy.
    entropy: of the prediction.
    """

    cross_entropy: Array
    z_loss: Array
    logsumexp: Array
    correct: Array
    entropy: Array


class Units(TypedDict, total=False):
    """The options that all losses share: which units count, how much, and how their losses become one."""

    weights: ArrayLike | None
    where: ArrayLike | None
    reduction: Reduction


Kind: TypeAlias = Literal["number", "score", "label", "length", "id", "row", "stored"]
"""What an input is.

number: any number, integers included.
score: a prediction, so of floating dtype.
label: an integer class label.
length: an integer, how many entries count.
id: an integer that is only compared with others.
row: predictions that come to the formula as they lie in memory, perhaps in half precision.
stored: any numbers, in half precision if they lie so in memory and no other input is in double.
"""


class Holds(NamedTuple):
    """What an array holds.

    core: how many of its axes belong to one example.
    outside: what loses its gradient where an entry of the core lies outside the domain: the whole "unit"; or the
      "entry" alone, which spares a second pass over the row where the formula needs no other. With "formula" only
      `checked` looks at it: the formula itself returns the NaN.
    alone: whether each entry of the core belongs to a loss of its own, and outside its domain spoils only that; for
      formulas that return several losses.
    """

    kind: Kind = "number"
    domain: Domain = domains.FINITE
    core: int = 0
    outside: Literal["unit", "entry", "formula"] = "unit"
    alone: bool = False


def is_half(x: Array) -> bool:
    return x.dtype.itemsize == 2 and jnp.issubdtype(x.dtype, jnp.floating)


def widen(x: Array, kind: Kind, dtype: Any) -> Array:
    """An input as the formula gets it."""
    # Beside float64 a row of float32 is widened, too: else its rules would meet two dtypes.
    if dtype == jnp.float32 and (kind == "row" or (kind == "stored" and is_half(x))):
        return x
    if kind in ("label", "length", "id"):  # a narrower dtype could not even be compared with the number of classes
        return x.astype(jnp.int64 if x.dtype.itemsize == 8 else jnp.int32)
    return x.astype(dtype)


NO_LOGITS = "For logits give from_logits=True."

NUMBER = Holds()
NUMBERS = Holds(core=1)
SCORE = Holds("score")
SCORES = Holds("score", domains.LOGIT, core=1)
ID = Holds("id", domains.ANY)
LABEL = Holds("label", domains.LABEL)
LABELS = Holds("label", domains.LABEL, core=1)
SIGN = Holds("number", domains.SIGN)
AMOUNT = Holds("number", domains.AT_LEAST_0)
LOG_AMOUNT = Holds("number", domains.LOGIT)
TARGET = Holds("number", domains.PROBABILITY)
TARGETS = Holds("number", domains.SOFT_LABELS, core=1)
STORED_TARGETS = TARGETS._replace(kind="stored")  # widened for each sum: for several at once, they would be stored
PROBABILITY = Holds("score", domains.PROBABILITY._replace(cure=NO_LOGITS))
PROBABILITIES = Holds("row", domains.DISTRIBUTION._replace(cure=NO_LOGITS), core=1)
LOG_PROBABILITIES = Holds(
    "row", domains.LOG_DISTRIBUTION._replace(cure="For logits give jax.nn.log_softmax(logits)."), core=1
)
LOGITS = Holds("row", domains.LOGIT, core=1)
BOXES = Holds("number", domains.BOX, core=1)

Finding: TypeAlias = tuple[str, Array, Array]
"""A rule ("y_true must be 0 or 1"), where it holds, and what to show where it does not."""


# ---------------------------------------------------------------------------------------------------------------------
# What is known while a loss is traced

# Whether losses look at the values of their inputs, see `values.py`. A part of the keys of jax's caches.
checking = jax.make_user_context(default_value=False)


def debugging_nans() -> bool:
    return jax.config.jax_debug_nans  # pyright: ignore  jax adds it while it is imported


class Notes:
    """What the program of a loss learns of its arguments while it is traced: for checks of the next call."""

    def __init__(self) -> None:
        self.domains: dict[str, Domain] = {}
        self.kinds: dict[str, Kind] = {}


_name: contextvars.ContextVar[str] = contextvars.ContextVar("jaxloss_name", default="loss")
_notes: contextvars.ContextVar[Notes | None] = contextvars.ContextVar("jaxloss_notes", default=None)


def current_loss() -> str:
    """The name of the loss that is being traced, for its errors."""
    return _name.get()


def current_notes() -> Notes:
    return _notes.get() or Notes()


@contextlib.contextmanager
def tracing(name: str, notes: Notes | None = None) -> Iterator[None]:
    before = _name.set(name), _notes.set(notes)
    try:
        yield
    finally:
        _name.reset(before[0])
        _notes.reset(before[1])
