"""What is known of the likelihoods."""

from __future__ import annotations

import jax.numpy as jnp
import laws
from laws import Domain, Limit, Numbers, Subject, of, times

from cases import exact as np
from cases.common import ANY_REAL, BOUNDED, OF_RESIDUALS, POSITIVE, REALS, SMALL
from cases.excuses import absorbed, absorbed_by_half, overflows, vanishes
from cases.row import EXTREMES, Row, every, joined, signed

# ---------------------------------------------------------------------------------------------------------------------
# Inputs


def spread(rng, batch):
    return rng.normal(size=batch), rng.normal(size=batch), rng.uniform(0.3, 3, batch)


def log_spread(rng, batch):
    return rng.normal(size=batch), rng.normal(size=batch), rng.normal(size=batch)


# ---------------------------------------------------------------------------------------------------------------------
# Formulas


def gaussian_nll(y, mean, variance, log_variance=False, full=False, eps=1e-6):
    v = np.raised(variance, np.log(eps) if log_variance else eps)
    log = v if log_variance else np.log(v)
    with np.errstate(over="ignore"):
        return (log + (y - mean) ** 2 * np.exp(-log) + full * np.log(2 * np.pi)) / 2


def laplace_nll(y, location, scale, full=False, eps=1e-6):
    b = np.raised(scale, eps)
    return np.log(b) + np.abs(y - location) / b + full * np.log(2)


def student_t_nll(y, location, scale, df=4.0, full=False, eps=1e-6):
    s = np.raised(scale, eps)
    constant = np.gammaln(df / 2) - np.gammaln((df + 1) / 2) + np.log(np.pi * df) / 2
    return np.log(s) + (df + 1) / 2 * np.log1p(((y - location) / s) ** 2 / df) + full * constant


# ---------------------------------------------------------------------------------------------------------------------
# Rows

PLACED = ("y_true", "location", "scale")
HARD_PLACED = joined(
    every([0.0, -65504.0, 1.7e38], [0.0, 1e-30, 65504.0, -1.7e38], [1e-6, 1e-3, 1.0, 65504.0, 1e30]),
    *(every([0.0, *n], [0.0, *signed(n)], [1.0, *n]) for n in EXTREMES),
)
OUTSIDE_PLACED = ([0.0, 0.0], [0.0, 1.0], [-1.0, -1e-3])
HARD_LOG_SPREAD = joined(
    every([0.0, -65504.0, 1.7e38], [0.0, 1e-30, 65504.0, -1.7e38], [0.0, 1.0, -10.0, 30.0, 80.0, 300.0, -1e4, 3e38]),
    *(every([0.0, *n], [0.0, *signed(n)], [1.0, *signed(n)]) for n in EXTREMES),
)
APART = "the difference of mean and target exceeds the largest number, and counts as that"
ROWS = (
    Row(
        "gaussian_nll",
        spread,
        gaussian_nll,
        names=("y_true", "mean", "variance"),
        hard=HARD_PLACED,
        outside=OUTSIDE_PLACED,
        refused=({"eps": -1.0},),
        excused=overflows("gradient by y_true", "gradient by mean", "gradient by variance"),
    ),
    Row(
        "gaussian_nll-log_variance",
        log_spread,
        gaussian_nll,
        {"log_variance": True, "full": True},
        names=("y_true", "mean", "variance"),
        hard=HARD_LOG_SPREAD,
        hard_options=({"eps": 0.0},),
        excused=((r"gradient by (y_true|mean) .* y_true 3\.\d+e\+38, mean -3\.\d+e\+38, variance 1\.0", APART),),
    ),
    Row(
        "laplace_nll",
        spread,
        laplace_nll,
        names=PLACED,
        hard=HARD_PLACED,
        outside=OUTSIDE_PLACED,
        refused=({"eps": -1.0},),
        excused=(
            *overflows("loss", "gradient by scale"),
            *vanishes("gradient by scale @float64"),
            *absorbed("gradient by scale"),
        ),
    ),
    Row(
        "student_t_nll",
        spread,
        student_t_nll,
        {"df": 3.0, "full": True},
        names=PLACED,
        hard=HARD_PLACED,
        outside=OUTSIDE_PLACED,
        refused=({"eps": -1.0}, {"df": 0.0}, {"df": float("nan")}),
        excused=(
            *overflows("loss", "gradient by scale @float64"),
            *vanishes("gradient by y_true", "gradient by location", "gradient by scale @float64"),
            *absorbed("gradient by scale"),
            *absorbed_by_half("gradient by scale @float64"),
        ),
    ),
)

# ---------------------------------------------------------------------------------------------------------------------
# Laws

LOCATED = Domain(laws.pairs(laws.each(ANY_REAL), laws.each(POSITIVE)), OF_RESIDUALS)


def gaussian_terms(y, mean, v):
    return 1 + np.abs(np.log(v)) + (y - mean) ** 2 / v


def laplace_terms(y, location, b):
    return 1 + np.abs(np.log(b)) + np.abs(y - location) / b


def student_terms(y, location, s):
    return 1 + np.abs(np.log(s)) + 2.5 * np.log1p(((y - location) / s) ** 2 / 4)


LIKELY = {"least": None, "translated": True, "symmetric": True}
UNBOUNDED = {"non_negative": "a density may exceed 1", "homogeneous": "the logarithm of the scale is added"}
LAWS = (
    Subject(
        "gaussian_nll",
        LOCATED,
        {**LIKELY, "convex": True, "least": (lambda y, m, v: y, lambda y, m, v: np.log(v) / 2)},
        UNBOUNDED,
        size=gaussian_terms,
    ),
    Subject(
        "laplace_nll",
        LOCATED,
        {**LIKELY, "convex": True, "least": (lambda y, l, b: y, lambda y, l, b: np.log(b))},
        UNBOUNDED,
        size=laplace_terms,
    ),
    Subject(
        "student_t_nll",
        LOCATED,
        {**LIKELY, "least": (lambda y, l, s: y, lambda y, l, s: np.log(s))},
        {**UNBOUNDED, **BOUNDED},
        size=student_terms,
    ),
)

# ---------------------------------------------------------------------------------------------------------------------
# Limits

LIMITS = (
    Limit("gaussian_nll-mse", REALS, times(2, lambda y, p: of("gaussian_nll")(y, p, 0 * p + 1)), of("mse")),
    Limit(
        "gaussian_nll-of logarithms",
        Domain(laws.pairs(laws.each(SMALL), laws.each(Numbers((0, 1, -1, 2), (-6, 6)))), ()),
        of("gaussian_nll", log_variance=True),
        lambda y, m, s: of("gaussian_nll")(y, m, jnp.exp(s)),
        size=lambda y, m, s: (1 + np.abs(s)) * gaussian_terms(y, m, np.exp(s)),
    ),
    Limit("laplace_nll-mae", REALS, lambda y, p: of("laplace_nll")(y, p, 0 * p + 1), of("mae")),
    Limit(
        "student_t_nll-cauchy",
        LOCATED,
        of("student_t_nll", df=1.0),
        lambda y, l, s: jnp.log(s) + of("cauchy", scale=0.5**0.5)((y - l) / s, 0 * s),
        size=student_terms,
    ),
    Limit(
        "student_t_nll-gaussian_nll",
        Domain(laws.pairs(laws.each(SMALL), laws.each(Numbers((1, 2), (0.5, 4)))), ()),
        of("student_t_nll", df=1e8, full=True),
        lambda y, l, s: of("gaussian_nll", full=True)(y, l, s**2),
        size=gaussian_terms,
        within=lambda y, l, s: 1e-8 * (1 + ((y - l) / s) ** 2) ** 2,
    ),
)
