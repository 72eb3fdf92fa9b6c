"""Elementary functions without cancellation and overflow, for the losses that are made of logarithms and powers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._math import absolute, constants, quotient, slopes


def above(x: Array | float, bound: Array | float) -> Array:
    """1 where x > bound, else 0: no comparison, no select, for they keep XLA from fusing a loss with its sum."""
    return jnp.maximum(jnp.sign(x - bound), 0)


def blend(choice: Array, first: Array | float, second: Array | float) -> Array:
    """The first where choice is 1, the second where it is 0; both must be finite."""
    return choice * first + (1 - choice) * second


def separate(*arrays: Array) -> list[Array]:
    """The same numbers for a derivative, so that XLA does not share a part of it with the value: see `constants`."""
    return [constants(1, like=x)[0] * x for x in arrays]


def above_zero(x: Array) -> Array:
    """x, raised to the smallest normal number: what a division by it needs at 0."""
    return jnp.maximum(x, jnp.finfo(x.dtype).tiny)


@jax.custom_jvp
def ratio(n: Array, d: Array) -> Array:
    """n / d, and 0 with derivatives 0 unless d > 0. No derivative divides by d d, which might underflow."""
    return jnp.where(d > 0, n / jnp.where(d > 0, d, 1), 0)


@ratio.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (n, d), (dn, dd) = primals, tangents
    inverse = ratio(jnp.ones_like(d), d)
    return ratio(n, d), (dn - n * inverse * dd) * inverse


def positive(x: Array) -> Array:
    """max(x, 0) with derivative 0 at 0; NaN of NaN."""
    return jnp.where(x <= 0, 0, x)


def raised(x: Array, a: float | Array) -> Array:
    """x^a for x >= 0, with derivatives 0 at x = 0, also where a < 1; rounding below 0 counts as 0."""
    if isinstance(a, int | float) and a == 1:
        return x
    a = jnp.asarray(a, x.dtype)
    return jnp.where(x > 0, jnp.where(x > 0, x, 1) ** a, (a == 0).astype(x.dtype))


def _log1p_square_slope(x: Array, scale: Array) -> Array:
    return quotient(*_share_and_larger(*separate(x, scale)))


def _log1p_square_by_scale(x: Array, scale: Array) -> Array:
    x, scale = separate(x, scale)
    share, larger = _share_and_larger(x, scale)
    return -quotient(share * quotient(x, larger), scale)


def _share_and_larger(x: Array, scale: Array) -> tuple[Array, Array]:
    """2 (x / larger) / (1 + ratio^2), and the larger of abs(x) and scale."""
    one, two = constants(1, 2, like=x)
    larger, ratio = _ordered(x, scale)
    return two * quotient(x, larger) / (one + ratio * ratio), larger


def _ordered(x: Array, scale: Array) -> tuple[Array, Array]:
    larger = jnp.maximum(absolute(x), scale)
    return larger, quotient(jnp.minimum(absolute(x), scale), larger)


@slopes(_log1p_square_slope, _log1p_square_by_scale)
def log1p_square(x: Array, scale: Array) -> Array:
    """log(1 + (x / scale)^2) for scale > 0: exact for small x, and no square or quotient overflows."""
    _, ratio = _ordered(x, scale)
    size = jnp.abs(x)
    overflows = above(size, scale * (jnp.finfo(x.dtype).max / 2))
    size = size * blend(overflows, 2.0**-64, 1)
    times = jnp.maximum(size / (scale * blend(overflows, 2.0**63, 1)), 1)
    return 2 * (jnp.log(times) + overflows * (127 * math.log(2))) + jnp.log1p(ratio * ratio)


def power_series(x: Array, coefficients: Sequence[float]) -> Array:
    """sum_k coefficients[k] x^k."""
    total = jnp.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = total * x + coefficient
    return total


def atanh_rest(square: Array, bound: float = 1 / 3) -> Array:
    """(atanh(v) / v - 1) / v^2 as a function of v^2, v <= bound: what keeps log(1 + u) - u and its kin from cancelling.

    There log(1 + u) is 2 atanh(v) with v = u / (2 + u), so that a v up to 1/3 covers u from -1/2 to 1.
    """
    terms = math.ceil(math.log(jnp.finfo(square.dtype).eps) / (2 * math.log(bound)))
    return power_series(square, [1 / (2 * k + 3) for k in range(terms)])


@slopes(lambda y, x: x / (x * x + y * y), lambda y, x: -y / (x * x + y * y))
def angle(y: Array, x: Array) -> Array:
    """atan2(y, x) for x >= 0, not both 0: for which XLA's CPU compiler calls a function, number by number."""
    small, large = jnp.minimum(jnp.abs(y), x), jnp.maximum(jnp.abs(y), x)
    bound = math.tan(math.pi / 8)
    steep = small > bound * large  # there atan(r) is pi / 4 - atan((1 - r) / (1 + r))
    r = jnp.where(steep, small - large, small) / jnp.where(steep, small + large, large)
    # atan(r) = -i atanh(i r)
    turned = r - r**3 * atanh_rest(-(r**2), bound) + jnp.where(steep, math.pi / 4, 0)
    return jnp.sign(y) * jnp.where(jnp.abs(y) > x, math.pi / 2 - turned, turned)


def _expm1_ratio_slope(x: Array) -> Array:
    series = jnp.abs(x) < 0.5
    far = jnp.where(series, 1, x)
    terms = 9 if x.dtype == jnp.float32 else 16
    near = power_series(jnp.where(series, x, 0), [1 / (math.factorial(k) * (k + 2)) for k in range(terms)])
    return jnp.where(series, near, (jnp.exp(far) - jnp.expm1(far) / far) / far)


@slopes(_expm1_ratio_slope)
def expm1_ratio(x: Array) -> Array:
    """(exp(x) - 1) / x, and 1 at 0."""
    return jnp.where(x == 0, 1, jnp.expm1(x) / jnp.where(x == 0, 1, x))


# The series of Stirling: log gamma(x) = (x - 1/2) log x - x + log(2 pi) / 2 + sum_k STIRLING[k] x^(-1 - 2 k).
STIRLING = (
    *(1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156, -3617 / 122400, 43867 / 244188),
    *(-174611 / 125400, 77683 / 5796, -236364091 / 1506960),
)
HALF_LOG_TWO_PI = math.log(2 * math.pi) / 2

# For x >= 1, `stirling` falls from x to x + 1 by atanh(v) / v - 1 with v = 1 / (2 x + 1): some steps lead to where the
# series is exact enough, and nothing cancels. Below 1 the first step is (x + 1/2) log(1 + 1 / x) - 1.


def _steps(x: Array) -> tuple[list[tuple[Array, Array]], Array, list[float]]:
    """Each v with its `atanh_rest`, 1 over the number after the steps, and the terms of the series that it needs."""
    count, terms = (3, 5) if x.dtype == jnp.float32 else (6, 12)
    steps = [1 / (2 * x + (2 * k + 1)) for k in range(count)]
    return [(v, atanh_rest(v**2, 1 / (2 * k + 3))) for k, v in enumerate(steps)], 1 / (x + count), [*STIRLING[:terms]]


def stirling(x: Array) -> Array:
    """log gamma(x) - ((x - 1/2) log x - x + log(2 pi) / 2) for x > 0."""
    small, below = jnp.minimum(x, 1), above(1, x)
    first = below * ((small + 0.5) * jnp.log1p(1 / small) - 1)
    steps, inverse, series = _steps(x + below)
    return sum((v**2 * rest for v, rest in steps), first + power_series(inverse**2, series) * inverse)


def stirling_slope(x: Array) -> Array:
    """x^2 times the derivative of `stirling`."""
    small, below = jnp.minimum(x, 1), above(1, x)
    first = below * small * (small * (jnp.log1p(small) - jnp.log(small)) - (small + 0.5) / (small + 1))
    steps, inverse, series = _steps(x + below)
    end = power_series(inverse**2, [-(1 + 2 * k) * c for k, c in enumerate(series)]) * (x * inverse) ** 2
    return sum((2 * (x * v) ** 2 * v * (rest - 1 / (1 - v**2)) for v, rest in steps), first + end)


def digamma(x: Array) -> Array:
    """The derivative of log gamma(x), for x > 0: of a form whose own derivatives are cheap."""
    return jnp.log(x) - 0.5 / x + stirling_slope(x) * (1 / x) ** 2
