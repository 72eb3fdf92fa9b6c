"""Elementary functions for float numbers: exact where the textbook form cancels, finite where it would overflow.

Each is the function that its name says. Where a derivative is not the automatic one, it says what it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._numerics.derivatives import partials

# ---------------------------------------------------------------------------------------------------------------------
# Kinks and ends


@partials(lambda x: jnp.sign(x))
def abs0(x: Array) -> Array:
    """abs(x) with derivative 0 at 0, where jax.numpy has 1."""
    return jnp.abs(x)


@partials(lambda x: (x > 0).astype(x.dtype))
def relu0(x: Array) -> Array:
    """max(x, 0) with derivative 0 at 0, where jax.numpy has 1/2."""
    return jnp.maximum(x, 0)


@partials(lambda x: jnp.ones_like(x))
def saturate(x: Array) -> Array:
    """x, but the largest number in place of an infinite one: for losses that grow so slowly that they stay finite."""
    largest = float(jnp.finfo(x.dtype).max)
    return jnp.maximum(jnp.minimum(x, largest), -largest)


def at_least_tiny(x: Array) -> Array:
    """x, raised to the smallest normal number: what a division by it needs at 0."""
    return jnp.maximum(x, jnp.finfo(x.dtype).tiny)


def step(x: Array | float, bound: Array | float) -> Array:
    """1 where x > bound, else 0, by arithmetic: see `lerp`."""
    return jnp.maximum(jnp.sign(x - bound), 0)


def lerp(choice: Array, first: Array | float, second: Array | float) -> Array:
    """The first where choice is 1, the second where it is 0; both must be finite.

    In the value of a loss this is cheaper than a select on some machines, and nowhere dearer.
    """
    return choice * first + (1 - choice) * second


# ---------------------------------------------------------------------------------------------------------------------
# Quotients, whose derivatives do not square the denominator: the square might overflow or vanish


def _d_numerator(x: Array, y: Array) -> Array:
    return divide(jnp.ones_like(y), y)


def _d_denominator(x: Array, y: Array) -> Array:
    return saturate(divide(-divide(x, y), y))


@partials(_d_numerator, _d_denominator)
def divide(x: Array, y: Array) -> Array:
    """x / y."""
    return x / y


@jax.custom_jvp
def divide_or_zero(x: Array, y: Array) -> Array:
    """x / y, and 0 with derivatives 0 unless y > 0."""
    positive = y > 0
    return jnp.where(positive, x / jnp.where(positive, y, 1), 0)


@divide_or_zero.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (x, y), (dx, dy) = primals, tangents
    inverse = divide_or_zero(jnp.ones_like(y), y)
    return divide_or_zero(x, y), (dx - x * inverse * dy) * inverse


# ---------------------------------------------------------------------------------------------------------------------
# Logarithms and powers

# A probability below this one has its derivative: 1 / p and its square stay finite in float32.
LEAST_PROBABILITY = 1e-12


@partials(lambda p: 1 / jnp.maximum(p, LEAST_PROBABILITY))
def log_probability(p: Array) -> Array:
    """log(p) for p in [0, 1]; at 0 that of the smallest normal number, so finite."""
    return jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny))


@partials(lambda p: -1 / jnp.maximum(1 - p, LEAST_PROBABILITY))
def log_complement(p: Array) -> Array:
    """log(1 - p) for p in [0, 1], exact for small p; at 1 that of the smallest normal number, so finite."""
    return jnp.maximum(jnp.log1p(-jnp.minimum(p, 1)), math.log(jnp.finfo(p.dtype).tiny))


@partials(lambda x: jax.nn.sigmoid(x))
def softplus(x: Array) -> Array:
    """log(1 + exp(x))."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


def power0(x: Array, a: float | Array) -> Array:
    """x^a for x >= 0, with derivatives 0 at x = 0, also where a < 1; rounding below 0 counts as 0."""
    if isinstance(a, int | float) and a == 1:
        return x
    a = jnp.asarray(a, x.dtype)
    return jnp.where(x > 0, jnp.where(x > 0, x, 1) ** a, (a == 0).astype(x.dtype))


def _log1p_square_slope(x: Array, scale: Array) -> Array:
    return divide(*_share_and_larger(x, scale))


def _log1p_square_by_scale(x: Array, scale: Array) -> Array:
    share, larger = _share_and_larger(x, scale)
    return -divide(share * divide(x, larger), scale)


def _share_and_larger(x: Array, scale: Array) -> tuple[Array, Array]:
    """2 (x / larger) / (1 + ratio^2), and the larger of abs(x) and scale."""
    larger, ratio = _ordered(x, scale)
    return 2 * divide(x, larger) / (1 + ratio * ratio), larger


def _ordered(x: Array, scale: Array) -> tuple[Array, Array]:
    larger = jnp.maximum(abs0(x), scale)
    return larger, divide(jnp.minimum(abs0(x), scale), larger)


@partials(_log1p_square_slope, _log1p_square_by_scale)
def log1p_square(x: Array, scale: Array) -> Array:
    """log(1 + (x / scale)^2) for scale > 0: exact for small x, and no square or quotient overflows."""
    _, ratio = _ordered(x, scale)
    size = jnp.abs(x)
    overflows = step(size, scale * (jnp.finfo(x.dtype).max / 2))
    size = size * lerp(overflows, 2.0**-64, 1)
    times = jnp.maximum(size / (scale * lerp(overflows, 2.0**63, 1)), 1)
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


@partials(lambda y, x: x / (x * x + y * y), lambda y, x: -y / (x * x + y * y))
def angle(y: Array, x: Array) -> Array:
    """atan2(y, x) for x >= 0, not both 0: without a call of the system's function for each number."""
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


@partials(_expm1_ratio_slope)
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
    small, below = jnp.minimum(x, 1), step(1, x)
    first = below * ((small + 0.5) * jnp.log1p(1 / small) - 1)
    steps, inverse, series = _steps(x + below)
    return sum((v**2 * rest for v, rest in steps), first + power_series(inverse**2, series) * inverse)


def stirling_slope(x: Array) -> Array:
    """x^2 times the derivative of `stirling`."""
    small, below = jnp.minimum(x, 1), step(1, x)
    first = below * small * (small * (jnp.log1p(small) - jnp.log(small)) - (small + 0.5) / (small + 1))
    steps, inverse, series = _steps(x + below)
    end = power_series(inverse**2, [-(1 + 2 * k) * c for k, c in enumerate(series)]) * (x * inverse) ** 2
    return sum((2 * (x * v) ** 2 * v * (rest - 1 / (1 - v**2)) for v, rest in steps), first + end)


def digamma(x: Array) -> Array:
    """The derivative of log gamma(x), for x > 0: of a form whose own derivatives are cheap."""
    return jnp.log(x) - 0.5 / x + stirling_slope(x) * (1 / x) ** 2
