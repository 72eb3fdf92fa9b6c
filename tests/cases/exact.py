"""NumPy for the oracles, which also takes exact numbers: `from cases import exact as np` and write formulas as usual.

An array of `Exact` is one of 190 digits with all first derivatives, so that a formula of the tables says what a loss
and its gradient are at inputs where float64 cancels or overflows. All other names are those of NumPy.

An exact number has two derivatives at a kink: `ties.first` says whether `maximum` takes the first of two equal numbers,
and `ties.met` whether that was asked.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import mpmath
import numpy
import scipy.special

mp: Any = mpmath.mp.clone()
mp.prec = 640  # the square of the largest float32 and that of the smallest, in one sum

STEEPEST = 1e-12  # below this probability its logarithm has the derivative of this one: README, "Numbers"

ties = types.SimpleNamespace(first=lambda: True, met=False)
smallest = types.SimpleNamespace(
    normal=float(numpy.finfo(numpy.float32).tiny),  # of the dtype that is computed in
    steepest=STEEPEST,
)


@contextlib.contextmanager
def _while(**numbers: Any) -> Iterator[None]:
    before = dict(vars(smallest))
    vars(smallest).update(numbers)
    try:
        yield
    finally:
        vars(smallest).update(before)


def of_dtype(dtype: Any) -> contextlib.AbstractContextManager[None]:
    """At 0 a probability has the logarithm of the smallest normal number of this dtype."""
    return _while(normal=float(numpy.finfo(dtype).tiny))


def textbook() -> contextlib.AbstractContextManager[None]:
    """Logarithms of probabilities as other libraries may take them, too: none is bounded, nor its derivative."""
    # For 0 a number whose logarithm exceeds every dtype: unlike infinity, times 0 it is 0.
    least = mp.ldexp(mp.one, -(2**1100))
    return _while(normal=least, steepest=least)


def _of_numbers(operator: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """An operator that leaves arrays to NumPy."""
    return lambda one, other: NotImplemented if isinstance(other, numpy.ndarray) else operator(one, other)


class Exact:
    """A number and its derivatives: slopes maps the index of an input to the derivative by it."""

    __slots__ = ("slopes", "value")
    __hash__ = None  # pyright: ignore

    def __init__(self, value: Any, slopes: dict[Any, Any] | None = None):
        self.value, self.slopes = value, slopes or {}

    def __repr__(self) -> str:
        return f"Exact({mp.nstr(self.value, 8)})"

    def map(self, value: Any, slope: Any) -> Exact:
        """A function of this number, from its value and its derivative."""
        return Exact(value, {k: slope * s for k, s in self.slopes.items()} if slope else None)

    def __neg__(self) -> Exact:
        return self.map(-self.value, -1)

    def __abs__(self) -> Exact:
        if self.value == 0 and self.slopes:
            ties.met = True
            return self.map(mp.zero, 1 if ties.first() else -1)
        return self if self.value >= 0 else -self

    @_of_numbers
    def __add__(self, other: Any) -> Exact:
        other = exact(other)
        slopes = dict(self.slopes)
        for k, s in other.slopes.items():
            slopes[k] = slopes[k] + s if k in slopes else s
        return Exact(self.value + other.value, slopes)

    @_of_numbers
    def __sub__(self, other: Any) -> Exact:
        return self + -exact(other)

    @_of_numbers
    def __rsub__(self, other: Any) -> Exact:
        return exact(other) + -self

    @_of_numbers
    def __mul__(self, other: Any) -> Exact:
        other = exact(other)
        slopes = self.map(mp.zero, other.value) + other.map(mp.zero, self.value)
        return Exact(self.value * other.value, slopes.slopes)

    @_of_numbers
    def __truediv__(self, other: Any) -> Exact:
        other = exact(other)
        if other.value == 0:
            return Exact(mp.inf * self.value if self.value else mp.nan)
        quotient = self.value / other.value
        slopes = self.map(mp.zero, 1 / other.value) + other.map(mp.zero, -quotient / other.value)
        return Exact(quotient, slopes.slopes)

    @_of_numbers
    def __rtruediv__(self, other: Any) -> Exact:
        return exact(other) / self

    @_of_numbers
    def __pow__(self, other: Any) -> Exact:
        if isinstance(other, Exact) and other.slopes:
            return (self.log() * other).exp()
        n = exact(other).value
        if n == 0:
            return Exact(mp.one)
        if self.value == 0:
            return self.map(mp.zero, 1 if n == 1 else 0)
        return self.map(self.value**n, n * self.value ** (n - 1))

    @_of_numbers
    def __rpow__(self, other: Any) -> Exact:
        return (exact(other).log() * self).exp()

    __radd__, __rmul__ = __add__, __mul__

    def __bool__(self) -> bool:
        return bool(self.value)

    @_of_numbers
    def __eq__(self, other: Any) -> bool:
        return self.value == exact(other).value

    @_of_numbers
    def __lt__(self, other: Any) -> bool:
        return self.value < exact(other).value

    @_of_numbers
    def __gt__(self, other: Any) -> bool:
        return self.value > exact(other).value

    # NumPy's maximum and minimum take their first argument where these hold.
    @_of_numbers
    def __ge__(self, other: Any) -> bool:
        return self.value > exact(other).value or self._same(other)

    @_of_numbers
    def __le__(self, other: Any) -> bool:
        return self.value < exact(other).value or self._same(other)

    def _same(self, other: Any) -> bool:
        if self.value != exact(other).value:
            return False
        ties.met = True
        return ties.first()

    def exp(self) -> Exact:
        value = mp.exp(self.value)
        return self.map(value, value)

    def expm1(self) -> Exact:
        return self.map(mp.expm1(self.value), mp.exp(self.value))

    def log(self) -> Exact:
        return self.map(mp.log(self.value), 1 / self.value if self.value else mp.inf)

    def log1p(self) -> Exact:
        return self.map(mp.log1p(self.value), 1 / (1 + self.value) if self.value != -1 else mp.inf)

    def tanh(self) -> Exact:
        value = mp.tanh(self.value)
        return self.map(value, 1 - value**2)

    def sqrt(self) -> Exact:
        value = mp.sqrt(self.value)
        return self.map(value, 1 / (2 * value) if value else 0)

    def sin(self) -> Exact:
        return self.map(mp.sin(self.value), mp.cos(self.value))

    def arcsin(self) -> Exact:
        rest = 1 - self.value**2
        return self.map(mp.asin(self.value), 1 / mp.sqrt(rest) if rest else 0)

    def arctan2(self, other: Any) -> Exact:
        x = exact(other)
        square = self.value**2 + x.value**2
        if square == 0:
            return Exact(mp.zero)
        slopes = self.map(mp.zero, x.value / square) + x.map(mp.zero, -self.value / square)
        return Exact(mp.atan2(self.value, x.value), slopes.slopes)

    def hypot(self, other: Any) -> Exact:
        return (self * self + exact(other) * other).sqrt()

    def loggamma(self) -> Exact:
        return self.map(mp.loggamma(self.value), mp.digamma(self.value) if self.slopes else 0)  # it is slow

    def log_probability(self) -> Exact:
        least, steepest = mp.mpf(smallest.normal), mp.mpf(smallest.steepest)
        return self.map(mp.log(max(self.value, least)), 1 / max(self.value, steepest))

    def logaddexp(self, other: Any) -> Exact:
        one, other = self, exact(other)
        if one.value < other.value:
            one, other = other, one
        if other.value == -mp.inf:
            return one
        value = one.value + mp.log1p(mp.exp(other.value - one.value))
        slopes = one.map(mp.zero, mp.exp(one.value - value)) + other.map(mp.zero, mp.exp(other.value - value))
        return Exact(value, slopes.slopes)


def exact(x: Any) -> Exact:
    return x if isinstance(x, Exact) else Exact(mp.mpf(x if isinstance(x, int) else float(x)))


def inputs(x: numpy.ndarray, name: Any = None) -> numpy.ndarray:
    """An array of exact numbers, each with derivative 1 by itself, if a name says that there shall be one."""
    result = numpy.empty(x.shape, object)
    for i in numpy.ndindex(x.shape):
        result[i] = Exact(mp.mpf(float(x[i])), None if name is None else {(name, *i): mp.one})
    return result


def held(x: Any) -> Any:
    """What a definition takes for a constant: no derivative goes through it."""
    if not is_exact(x):
        return x
    return numpy.frompyfunc(lambda e: Exact(exact(e).value), 1, 1)(x)


def is_exact(*arrays: Any) -> bool:
    return any(numpy.asarray(x).dtype == object for x in arrays)


def _function(plain: Callable[..., Any], method: str) -> Callable[..., Any]:
    """The function of NumPy, or of each exact number its method."""
    arguments = 1 if method not in ("logaddexp", "arctan2", "hypot") else 2
    each = numpy.frompyfunc(lambda x, *more: getattr(exact(x), method)(*more), arguments, 1)
    return lambda *arrays: each(*arrays) if is_exact(*arrays) else plain(*arrays)


def _log_probability(p: Any) -> Any:
    return numpy.log(numpy.maximum(p, smallest.normal))


exp, expm1, log, log1p, tanh, sqrt, sin, arcsin, arctan2, hypot, gammaln, log_probability = (
    _function(plain, method)
    for plain, method in (
        *((getattr(numpy, name), name) for name in ("exp", "expm1", "log", "log1p", "tanh", "sqrt", "sin", "arcsin")),
        (numpy.arctan2, "arctan2"),
        (numpy.hypot, "hypot"),
        (scipy.special.gammaln, "loggamma"),
        (_log_probability, "log_probability"),
    )
)


def log_complement(p: Any) -> Any:
    """log(1 - p), from 1 on that of the smallest normal number."""
    if is_exact(p):
        return log_probability(1 - p)
    return numpy.where(p >= 1, numpy.log(smallest.normal), numpy.log1p(-numpy.where(p >= 1, 0, p)))


def raised(x: Any, least: Any) -> Any:
    """max(x, least) with derivative 1 also where x is less: what was raised shall not be stuck there."""
    if not is_exact(x):
        return numpy.maximum(x, least)
    return numpy.frompyfunc(lambda e: Exact(max(e.value, exact(least).value), e.slopes), 1, 1)(x)


class _Logaddexp:
    def __init__(self) -> None:
        self.each = _function(numpy.logaddexp, "logaddexp")

    def __call__(self, *arrays: Any) -> Any:
        return self.each(*arrays)

    def reduce(self, x: Any, axis: int = 0, keepdims: bool = False) -> Any:
        if not is_exact(x):
            return numpy.logaddexp.reduce(x, axis, keepdims=keepdims)
        total = numpy.asarray(numpy.frompyfunc(self.each, 2, 1).reduce(x, axis=axis))
        return numpy.expand_dims(total, axis) if keepdims else total


logaddexp = _Logaddexp()


def isneginf(x: Any) -> Any:
    return numpy.asarray(x == -numpy.inf, bool)


def __getattr__(name: str) -> Any:
    return getattr(numpy, name)
