"""Elementary functions for float numbers: exact where the textbook form cancels, finite where it would overflow.

Each is the function that its name says. Where a derivative is not the automatic one, it says what it is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxloss._numerics.derivatives import elementwise, partials
from jaxloss._platform import cpu


def widened(x: Array) -> Array:
    """Half precision to float32."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def is_constant(option: float | Array, *numbers: float) -> bool:
    """Whether an option was given as one of these numbers, for which there is a shorter program."""
    return isinstance(option, (int, float)) and option in numbers


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


def inverse_unit(size: Array) -> Array:
    """2 / size to 4 / size, a power of two: no product with it rounds, and the square of the size cannot overflow.

    The exponent of a float is its first bits after the sign, plus a bias. Those of x and of such a number add up to
    all ones. It is 0 where the size is infinite or NaN.
    """
    size = at_least_tiny(jax.lax.stop_gradient(size))
    bits = jax.lax.bitcast_convert_type(size, jnp.int64 if size.dtype == jnp.float64 else jnp.int32)
    exponent = np.asarray(np.inf, size.dtype).view(bits.dtype)
    return jax.lax.bitcast_convert_type(~bits & exponent, size.dtype)


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


@elementwise
def divide_or_zero(x: Array, y: Array) -> Array:
    """x / y, and 0 with derivatives 0 where y <= 0."""
    nothing = y <= 0
    return jnp.where(nothing, 0, x / jnp.where(nothing, 1, y))


@divide_or_zero.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (x, y), (dx, dy) = primals, tangents
    inverse = divide_or_zero(jnp.ones_like(y), y)
    return divide_or_zero(x, y), (dx - x * inverse * dy) * inverse


# ---------------------------------------------------------------------------------------------------------------------
# Logarithms and powers


def _log1p_near_0(f: Array, bound: float = 1 / 3) -> Array:
    """log(1 + f) as 2 atanh(v), v = f / (2 + f), whose first term 2 v is f - v f."""
    v = f * (1 / (2 + f))
    return f - v * (f - 2 * v * v * atanh_rest(v * v, bound))


def _log1p(x: Array) -> Array:
    # With 2^k the power of two next to 1 + x, it is k log 2 + log(1 + f), where f = x / 2^k + (1 / 2^k - 1) does not
    # cancel. The exponent of a float is its first bits after the sign, plus a bias.
    info = np.finfo(x.dtype)
    x = jnp.maximum(x, -1)  # the one use of x: a quotient that had several would be stored
    like, shift, bias = (np.int64 if info.bits == 64 else np.int32), info.nmant, 1 - info.minexp
    one, least = (np.asarray(number, x.dtype).view(like) for number in (1, math.sqrt(0.5)))
    bits = jax.lax.bitcast_convert_type(1 + x, like) + (one - least)
    exponent = jnp.clip(bits >> shift, 1, 2 * bias)
    scale = jax.lax.bitcast_convert_type((2 * bias + 1 - exponent) << shift, x.dtype)  # 2 / 2^k
    f = (x * scale + (scale - 2)) / 2  # 1 / 2^k would be no normal number for the largest x
    found = (exponent - bias).astype(x.dtype) * math.log(2) + _log1p_near_0(f, 0.172)
    return jnp.where(x < jnp.inf, found, x)


@cpu.instead(_log1p, elementwise=True)
def log1p(x: Array) -> Array:
    """log(1 + x) for x > -1, of single numbers: in a sum over a row, `jnp.log1p` is the faster one."""
    return jnp.log1p(x)


@cpu.instead(_log1p_near_0, elementwise=True)
def log1p_of_fraction(u: Array) -> Array:
    """log(1 + u) for u in [0, 1], likewise."""
    return jnp.log1p(u)


# The derivative of log p is bounded by that at this p, so that 1 / p and its square stay finite in float32.
LEAST_PROBABILITY = 1e-12


@partials(lambda p: 1 / jnp.maximum(p, LEAST_PROBABILITY))
def log_probability(p: Array) -> Array:
    """log(p) for p in [0, 1]; at 0 that of the smallest normal number, so finite."""
    return jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny))


@partials(lambda p: -1 / jnp.maximum(1 - p, LEAST_PROBABILITY))
def log_complement(p: Array) -> Array:
    """log(1 - p) for p in [0, 1], exact for small p; at 1 that of the smallest normal number, so finite."""
    return jnp.maximum(log1p(-jnp.minimum(p, 1)), math.log(jnp.finfo(p.dtype).tiny))


@partials(lambda x: jax.nn.sigmoid(x))
def softplus(x: Array) -> Array:
    """log(1 + exp(x))."""
    return jnp.maximum(x, 0) + log1p_of_fraction(jnp.exp(-jnp.abs(x)))


def d_sigmoid(x: Array) -> Array:
    small = jnp.exp(-jnp.abs(x))
    return small / (1 + small) ** 2


@partials(d_sigmoid)
def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), with a derivative that is exact where it is small."""
    return jax.nn.sigmoid(x)


def d_bce_of_logit(y: Array, z: Array) -> Array:
    """sigmoid(z) - y, exact also where the two are almost equal."""
    small = jnp.exp(-jnp.abs(z))
    # At 0 the side that `jnp.abs` is differentiated on.
    return jnp.where(z >= 0, 1 - y - y * small, (1 - y) * small - y) / (1 + small)


def _contradicted(z: Array, positive: Array, rest: Array) -> Array:
    """abs(z) times the weight of the other sign: positive where z < 0, rest where z > 0. A weight of 0 makes it 0."""
    weight = jnp.where(z > 0, rest, positive)
    return jnp.where(weight == 0, 0, jnp.abs(z) * weight)


@partials(lambda y, z: -z, d_bce_of_logit)
def bce_of_logit(y: Array, z: Array) -> Array:
    """-y log(p) - (1 - y) log(1 - p), p = sigmoid(z). Infinite logits too: 0 if y says the same, infinite if not."""
    return _contradicted(z, y, 1 - y) + log1p_of_fraction(jnp.exp(-jnp.abs(z)))


def d_bce_of_probability(y: Array, p: Array) -> Array:
    return (1 - y) / jnp.maximum(1 - p, LEAST_PROBABILITY) - y / jnp.maximum(p, LEAST_PROBABILITY)


@partials(lambda y, p: log_complement(p) - log_probability(p), d_bce_of_probability)
def bce_of_probability(y: Array, p: Array) -> Array:
    """-y log(p) - (1 - y) log(1 - p)."""
    return -y * log_probability(p) - (1 - y) * log_complement(p)


# The same with a weight of the positive term. As the loss and a multiple of that term it would cancel where the weight
# is small. `rest`, which is 1 - y, is an argument, since a smoothed target is rounded.


def _by_target(slope: Array, z: Array) -> Array:
    """A derivative by a target: finite for an infinite logit, since label smoothing multiplies it by what may be 0."""
    return jnp.where(jnp.isinf(z), saturate(slope), slope)


def _d_weighted_bce_of_logit(y: Array, rest: Array, weight: Array, z: Array) -> Array:
    small, positive = jnp.exp(-jnp.abs(z)), weight * y
    return jnp.where(z >= 0, rest - positive * small, rest * small - positive) / (1 + small)


@partials(
    lambda y, rest, weight, z: _by_target(weight * softplus(-z), z),
    lambda y, rest, weight, z: _by_target(softplus(z), z),
    lambda y, rest, weight, z: jnp.where(y == 0, 0, y * softplus(-z)),
    _d_weighted_bce_of_logit,
)
def weighted_bce_of_logit(y: Array, rest: Array, weight: Array, z: Array) -> Array:
    """-weight y log(p) - rest log(1 - p), p = sigmoid(z). Infinite logits as in `bce_of_logit`."""
    positive = weight * y
    return _contradicted(z, positive, rest) + (positive + rest) * log1p_of_fraction(jnp.exp(-jnp.abs(z)))


@partials(
    lambda y, rest, weight, p: -weight * log_probability(p),
    lambda y, rest, weight, p: -log_complement(p),
    lambda y, rest, weight, p: -y * log_probability(p),
    lambda y, rest, weight, p: (
        rest / jnp.maximum(1 - p, LEAST_PROBABILITY) - weight * y / jnp.maximum(p, LEAST_PROBABILITY)
    ),
)
def weighted_bce_of_probability(y: Array, rest: Array, weight: Array, p: Array) -> Array:
    """-weight y log(p) - rest log(1 - p)."""
    return -weight * y * log_probability(p) - rest * log_complement(p)


WHOLE_POWERS = range(1, 9)  # those that are taken by products


def power0(x: Array, a: float | Array) -> Array:
    """x^a for x >= 0, with derivatives 0 at x = 0, also where a < 1; rounding below 0 counts as 0."""
    if is_constant(a, *WHOLE_POWERS):
        return x if a == 1 else jnp.maximum(x, 0) ** int(a)
    a = jnp.asarray(a, x.dtype)
    return jnp.where(x <= 0, (a == 0).astype(x.dtype), jnp.where(x <= 0, 1, x) ** a)


def _log1p_square_slope(x: Array, scale: Array) -> Array:
    return divide(*_share_and_larger(x, scale))


def _log1p_square_by_scale(x: Array, scale: Array) -> Array:
    share, larger = _share_and_larger(x, scale)
    return -divide(share * divide(x, larger), scale)


def _share_and_larger(x: Array, scale: Array) -> tuple[Array, Array]:
    """2 (x / larger) / (1 + ratio^2), and the larger of abs(x) and scale."""
    larger, ratio = legs(x, scale)
    return 2 * divide(x, larger) / (1 + ratio * ratio), larger


def legs(x: Array, scale: Array) -> tuple[Array, Array]:
    """The longer leg, and the shorter one over it: hypotenuse = longer sqrt(1 + ratio^2), where no square overflows."""
    larger = jnp.maximum(abs0(x), scale)
    return larger, divide(jnp.minimum(abs0(x), scale), larger)


@partials(_log1p_square_slope, _log1p_square_by_scale)
def log1p_square(x: Array, scale: Array) -> Array:
    """log(1 + (x / scale)^2) for scale > 0: exact for small x, and no square or quotient overflows."""
    _, ratio = legs(x, scale)
    size = jnp.abs(x)
    overflows = size > scale * (jnp.finfo(x.dtype).max / 2)
    size = size * jnp.where(overflows, 2.0**-64, 1)
    times = jnp.maximum(size / (scale * jnp.where(overflows, 2.0**63, 1)), 1)
    return 2 * (jnp.log(times) + jnp.where(overflows, 127 * math.log(2), 0)) + log1p_of_fraction(ratio * ratio)


def power_series(x: Array, coefficients: Sequence[float]) -> Array:
    """sum_k coefficients[k] x^k."""
    total = jnp.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = total * x + coefficient
    return total


def exp_rest(x: Array, n: int = 2) -> Array:
    """exp(x) without the first n terms of its series, over x^n, for abs(x) <= 1/2: (exp(x) - 1 - x) / x^2."""
    return power_series(x, [1 / math.factorial(k + n) for k in range(_exp_terms(x))])


def exp_moment(x: Array, n: int) -> Array:
    """The integral of t^(n - 1) exp(t x) from 0 to 1, for abs(x) <= 1/2."""
    return power_series(x, [1 / (math.factorial(k) * (k + n)) for k in range(_exp_terms(x))])


def _exp_terms(x: Array) -> int:
    return 9 if x.dtype == jnp.float32 else 16


def atanh_rest(square: Array, bound: float = 1 / 3, error: float = 1 / 32) -> Array:
    """(atanh(v) / v - 1) / v^2 as a function of v^2, v <= bound: what keeps log(1 + u) - u and its kin from cancelling.

    There log(1 + u) is 2 atanh(v) with v = u / (2 + u), so that a v up to 1/3 covers u from -1/2 to 1.

    error: by how many eps it may be off.
    """
    most = error * float(jnp.finfo(square.dtype).eps)
    terms = next(k for k in itertools.count() if bound ** (2 * k) / (2 * k + 3) <= most)
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


def d_expm1_ratio(x: Array) -> Array:
    """((x - 1) exp(x) + 1) / x^2, and 1/2 at 0."""
    series = jnp.abs(x) < 0.5
    far = jnp.where(series, 1, x)
    near = exp_moment(jnp.where(series, x, 0), 2)
    return jnp.where(series, near, (jnp.exp(far) - (jnp.exp(far) - 1) / far) / far)


@partials(d_expm1_ratio)
def expm1_ratio(x: Array) -> Array:
    """(exp(x) - 1) / x, and 1 at 0."""
    return jnp.where(x == 0, 1, jnp.expm1(x) / jnp.where(x == 0, 1, x))


# ---------------------------------------------------------------------------------------------------------------------
# The logarithm of gamma, as Stirling's formula and a small remainder:
#   log gamma(x) = (x - 1/2) log x - x + log(2 pi) / 2 + stirling(1 / x).
# As a function of u = 1 / (x + 1/2) the remainder is u P(u). From x = 1 on, so u <= 2/3, P is the polynomial through
# the Chebyshev nodes of [0, 0.69]: it and its derivative are off by 2e-8 of themselves in float32, by 5e-17 in float64.
# Below, gamma(x) = gamma(x + 1) / x says
#   stirling(1 / x) = (x + 1/2) log(1 + 1 / x) - 1 + stirling(1 / (x + 1)).

HALF_LOG_TWO_PI = math.log(2 * math.pi) / 2

STIRLING_32 = (
    *(0.0833333334, 0.041666657, 0.0180559383, 0.00624406076, 0.00188299241),
    *(0.000889782232, 0.00176075443, -0.00110398629, 0.00069337452),
)
STIRLING_64 = (
    *(0.083333333333333333, 0.0416666666666671008, 0.0180555555554534974, 0.00625000000959457878),
    *(0.00183531697939423798, 0.00111608628644992719, 0.00107856062763821488, 0.000221562801386694815),
    *(-0.00079194588359810975, 0.000451698628959941926, -0.000635591002679013041, 0.0125369109188660258),
    *(-0.0530661736132325468, 0.129224446588662284, -0.218462503239911631, 0.272698403385352548),
    *(-0.255406858411317949, 0.177830497458456813, -0.0891775697328836048, 0.0302651363238272431),
    *(-0.00614943331031332822, 0.000552296680781607181),
)


def _stirling_parts(r: Array) -> tuple[Array, Array, tuple[float, ...]]:
    """Whether x = 1 / r is below 1; the c of u = 1 / (x + c); and the coefficients of P."""
    below = r > 1
    return below, jnp.where(below, 1.5, 0.5), STIRLING_32 if r.dtype == jnp.float32 else STIRLING_64


def stirling_slope(r: Array) -> Array:
    """The derivative of `stirling`."""
    below, c, coefficients = _stirling_parts(r)
    u = 1 / (1 / r + c)
    large = jnp.maximum(r, 1)
    first = ((large + 2) / (large + 1) / 2 - jnp.log1p(large) / large) / large
    rest = (1 / (1 + c * r)) ** 2 * power_series(u, [(k + 1) * p for k, p in enumerate(coefficients)])
    return jnp.where(below, first, 0) + rest


@partials(stirling_slope)
def stirling(r: Array) -> Array:
    """log gamma(x) - ((x - 1/2) log x - x + log(2 pi) / 2) at x = 1 / r, for r >= 0."""
    below, c, coefficients = _stirling_parts(r)
    u = 1 / (1 / r + c)
    first = (1 / jnp.maximum(r, 1) + 0.5) * jnp.log1p(r) - 1
    return jnp.where(below, first, 0) + u * power_series(u, coefficients)


def digamma(x: Array) -> Array:
    """The derivative of log gamma(x), for x > 0: of a form whose own derivatives are cheap."""
    r = 1 / x
    return jnp.log(x) - r / 2 - r * (r * stirling_slope(r))
