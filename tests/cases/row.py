"""What a row of the tables says about a loss."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

CLASSES = 4  # the number of devices along the second axis of the test mesh

Arrays = tuple[Any, ...]


@dataclass(frozen=True)
class Row:
    """A loss with given options.

    id: the loss, then a hyphen and what is special here: "huber", "huber-delta".
    inputs: `(rng, batch shape) -> arrays`; for the batch shape () it returns the arrays of one example.
    oracle: `(*arrays, **options) -> one loss for each unit`, float64.
    options: keyword arguments. The checks also give the floats and arrays among them as traced arrays.
    names: what the loss calls its arrays.
    keywords: names of arrays that the loss takes by keyword, all units of them by default (lengths of sequences). They
      are the last of the inputs; the checks see a loss that takes them by position.
    shared: names of arrays that all units share (a kernel). They stand among the options, and the checks see a loss
      that takes them by keyword.
    labels: the place of an array of class labels, 0 to CLASSES - 1.
    coupled: units see one another (a batch of anchors), so repeating a unit changes the others.
    pooled: a unit is made of the whole first axis (pixels), so the losses have no such axis.
    detached: places of floating arrays that the definition does not differentiate.
    constant: floats among the options that cannot be traced.
    frozen: the definition takes a factor for a constant, so that the second derivative is not that of the gradient.
    hard: a batch on which no NaN may appear, and the value is that of the oracle wherever float32 can hold it.
    hard_options: further options with which the hard batch is judged, each in place of those of the same name.
    outside: a batch of which every unit lies outside the domain: NaN.
    ties: a batch of which every unit lies at a kink: the derivative by every array is 0.
    refused: options that raise a ValueError.
    """

    id: str
    inputs: Callable[[np.random.Generator, tuple[int, ...]], Arrays]
    oracle: Callable[..., np.ndarray]
    options: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ("y_true", "y_pred")
    keywords: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    labels: int | None = None
    coupled: bool = False
    pooled: bool = False
    detached: Sequence[int] = ()
    constant: Sequence[str] = ()
    frozen: bool = False
    hard: Arrays = ()
    hard_options: Sequence[Mapping[str, Any]] = ()
    outside: Arrays = ()
    ties: Arrays = ()
    refused: Sequence[Mapping[str, Any]] = ()

    @property
    def name(self) -> str:
        return self.id.partition("-")[0]

    @property
    def ordinary(self) -> Arrays:
        """The hard batch without the units that hold the largest numbers of float32 or bfloat16, or the smallest.

        There a derivative may overflow, and numbers below the smallest normal one may count as 0: what does is listed
        in hard_inputs.py.
        """
        if not self.hard:
            return ()
        axis = 1 if self.pooled else 0
        extreme = np.array(EXTREMES[0] + EXTREMES[2], np.float32)
        sizes = [np.abs(np.asarray(x, np.float32)) for x in self.hard]
        found = [np.isin(x, extreme) | ((x > 0) & (x < NORMAL[0])) for x in sizes]
        spared = ~np.any([f.any(tuple(i for i in range(f.ndim) if i != axis)) for f in found], 0)
        return tuple(np.compress(spared, x, axis) for x in self.hard)

    @property
    def cores(self) -> tuple[int, ...]:
        """How many axes of each array belong to one example."""
        return tuple(np.ndim(x) for x in self.inputs(np.random.default_rng(0), ()))

    @property
    def differentiable(self) -> tuple[int, ...]:
        example = self.inputs(np.random.default_rng(0), ())
        return tuple(i for i, x in enumerate(example) if i not in self.detached and np.asarray(x).dtype.kind == "f")

    @property
    def traceable(self) -> dict[str, Any]:
        """The options that may be arrays, as NumPy arrays of float64.

        New ones: while a jaxpr holds what an array became without x64, jax 0.10 to 0.12 use that with x64, too.
        """
        return {
            key: np.array(value, np.float64)
            for key, value in self.options.items()
            if isinstance(value, float | np.ndarray) and key not in self.constant
        }

    def make(self, batch: tuple[int, ...], dtype: Any = np.float32, seed: int = 0) -> Arrays:
        arrays = self.inputs(np.random.default_rng([seed, *batch]), batch)
        return tuple(np.asarray(x).astype(dtype if np.asarray(x).dtype.kind == "f" else np.int32) for x in arrays)

    def judged(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        """The loss as the checks call it: all arrays by position, but for those that the units share."""
        if not self.keywords and not self.shared:
            return loss
        first = len(self.names) - len(self.keywords)

        @functools.wraps(loss)
        def call(*arrays: Any, **options: Any) -> Any:
            if len(arrays) != len(self.names):
                raise TypeError(f"{self.name}: {len(arrays)} arrays instead of {len(self.names)}")
            # None leaves an array out, which is no mistake; as an entry of a list it is one.
            given = [[None] if x is None else x for x in arrays[first:]]
            return loss(*arrays[:first], **dict(zip(self.keywords, given, strict=True)), **options)

        signature = inspect.signature(loss)
        required = {"kind": inspect.Parameter.POSITIONAL_OR_KEYWORD, "default": inspect.Parameter.empty}
        parameters = [p.replace(**required) if p.name in self.keywords else p for p in signature.parameters.values()]
        parameters = [p.replace(kind=p.KEYWORD_ONLY) if p.name in self.shared else p for p in parameters]
        call.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore
        return call

    def losses(self, arrays: Arrays, **options: Any) -> np.ndarray:
        """The losses of the units by the oracle."""
        exact = [np.asarray(x) if np.asarray(x).dtype.kind in "iu" else np.asarray(x, np.float64) for x in arrays]
        return np.asarray(self.oracle(*exact, **{**self.options, **options}), np.float64)


def every(targets: Any, predictions: Any) -> Arrays:
    """A hard batch: every target with every prediction."""
    targets, predictions = np.asarray(targets), np.asarray(predictions)
    return np.repeat(targets, len(predictions), 0), np.concatenate([predictions] * len(targets))


def joined(*batches: Arrays) -> Arrays:
    """One hard batch of several."""
    return tuple(np.concatenate(arrays) for arrays in zip(*batches, strict=True))


# The largest, the smallest normal and the smallest subnormal number of each dtype. A batch may hold those of all
# dtypes: each is judged with what it can hold.
EXTREMES = [
    [float(x) for x in (info.max, info.tiny, info.smallest_subnormal)]
    for info in map(jnp.finfo, (np.float32, np.float16, jnp.bfloat16))
]
LARGEST, NORMAL, SUBNORMAL = (list(dict.fromkeys(kind)) for kind in zip(*EXTREMES, strict=True))
SMALLEST = NORMAL + SUBNORMAL
BELOW_ONE = [1 - 2.0**-8, 1 - 2.0**-11, 1 - 2.0**-24, 1 - 2.0**-53]
ANY = list(dict.fromkeys(LARGEST + SMALLEST))


def signed(numbers: Sequence[float]) -> list[float]:
    return [*numbers, *(-x for x in numbers)]


def pairs(numbers: Sequence[Sequence[float]]) -> Arrays:
    """The numbers of each dtype as targets with those of the same dtype as predictions, and each with 0 and 1."""
    return joined(*(every([0.0, 1.0, *n], [0.0, 1.0, *n]) for n in numbers))


POSITIVE = pairs(EXTREMES)
REAL = pairs([signed(numbers) for numbers in EXTREMES])
