"""What a row of the tables says about a loss."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxloss._laws import Arrays, Case

CLASSES = 4  # the number of devices along the second axis of the test mesh


@dataclass(frozen=True)
class Row(Case):
    """A loss with given options, and what the tests of the library know of it beside what a `Case` says.

    keywords: names of arrays that the loss takes by keyword, all units of them by default (lengths of sequences). They
      are the last of the inputs; the checks see a loss that takes them by position.
    shared: names of arrays that all units share (a kernel). They stand among the options, and the checks see a loss
      that takes them by keyword.
    labels: the place of an array of class labels, 0 to CLASSES - 1.
    hard: a batch on which no NaN may appear, and the value is that of the oracle wherever float32 can hold it.
    hard_options: further options with which the hard batch is judged, each in place of those of the same name.
    excused: what misses its exact result on the hard batch: patterns of the messages, each with the reason; excuses.py
      says more.
    outside: a batch of which every unit lies outside the domain: NaN.
    ties: a batch of which every unit lies at a kink: the derivative by every array is 0.
    refused: options that raise a ValueError.
    """

    keywords: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    labels: int | None = None
    hard: Arrays = ()
    hard_options: Sequence[Mapping[str, Any]] = ()
    excused: Sequence[tuple[str, str]] = ()
    outside: Arrays = ()
    ties: Arrays = ()
    refused: Sequence[Mapping[str, Any]] = ()

    @property
    def ordinary(self) -> Arrays:
        """The hard batch without the units that hold the largest numbers of float32 or bfloat16, or the smallest.

        There a derivative may overflow, and numbers below the smallest normal one may count as 0: what does is excused.
        """
        if not self.hard:
            return ()
        axis = 1 if self.pooled else 0
        extreme = np.array(EXTREMES[0] + EXTREMES[2], np.float32)
        sizes = [np.abs(np.asarray(x, np.float32)) for x in self.hard]
        found = [np.isin(x, extreme) | ((x > 0) & (x < NORMAL[0])) for x in sizes]
        spared = ~np.any([f.any(tuple(i for i in range(f.ndim) if i != axis)) for f in found], 0)
        return tuple(np.compress(spared, x, axis) for x in self.hard)

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


def every(*columns: Any) -> Arrays:
    """A hard batch: every combination, such as every target with every prediction."""
    places = np.indices([len(column) for column in columns]).reshape(len(columns), -1)
    return tuple(np.asarray(column)[place] for column, place in zip(columns, places, strict=True))


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
