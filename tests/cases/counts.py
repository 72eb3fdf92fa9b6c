"""What is known of the likelihoods of counts."""

from __future__ import annotations

import hypothesis.strategies as st
import jax.numpy as jnp
import laws
from laws import Domain, Limit, Numbers, Subject, of
from scipy.special import xlogy

from cases import exact as np
from cases.common import BOTH, POSITIVE, SMALL, log_of
from cases.excuses import STEEPEST, absorbed, absorbed_by_half, absorbed_by_large, close, overflows, vanishes
from cases.row import ANY, EXTREMES, Row, every, joined, pairs, signed

# ---------------------------------------------------------------------------------------------------------------------
# Inputs


def rates(rng, batch):
    return rng.uniform(0.2, 4, batch), rng.uniform(0.2, 4, batch)


def log_rates(rng, batch):
    return rng.uniform(0.2, 4, batch), rng.normal(size=batch)


def rates_and_dispersions(rng, batch):
    return *rates(rng, batch), rng.uniform(0.1, 2, batch)


def log_rates_and_dispersions(rng, batch):
    return *log_rates(rng, batch), rng.uniform(0.1, 2, batch)


# ---------------------------------------------------------------------------------------------------------------------
# Formulas


def poisson_nll(y, rate, log_rate=False, full=False):
    with np.errstate(over="ignore"):
        mean = np.exp(rate) if log_rate else rate
    log = rate if log_rate else np.log_probability(rate)
    return mean - y * log + full * np.gammaln(y + 1)


def negative_binomial_nll(y, mean, dispersion, log_rate=False, full=False):
    log = mean if log_rate else np.log_probability(mean)
    n = 1 / dispersion
    log_total = np.logaddexp(np.log(n), log) if log_rate else np.log(n + mean)
    loss = np.gammaln(n) - np.gammaln(n + y) + n * (log_total - np.log(n)) + y * (log_total - log)
    return loss + full * np.gammaln(y + 1)


def tweedie(y, mean, power=1.5, log_rate=False, full=False):
    with np.errstate(over="ignore"):
        m = np.exp(mean) if log_rate else mean
    least = np.maximum(m, np.smallest.normal) if not log_rate else m
    loss = m ** (2 - power) / (2 - power) - y * least ** (1 - power) / (1 - power)
    return loss + full * y ** (2 - power) / ((1 - power) * (2 - power))


# ---------------------------------------------------------------------------------------------------------------------
# Rows

COUNTS = [0.0, 1.0, 3.0, 30.0, 1e4]
HARD_LOGS = joined(
    every(COUNTS, [0.0, 1e-30, 1.0, 80.0, -80.0, 3e38, -1e4, -3e37]),
    *(every([0.0, 1.0, *n], [0.0, 1.0, *signed(n)]) for n in EXTREMES),
)
HARD_RATES = joined(
    every(COUNTS, [0.0, 1e-38, 1e-30, 1e-7, 1.0, 30.0, 1e4, 3e38]), pairs(EXTREMES), every(COUNTS[2:], ANY)
)

TARGETS = "the derivative by the target is a difference of logarithms and digammas: exact to eps times those"
EQUAL_TERMS = "the sum of terms that almost cancel: exact to 4e-8 absolutely"
RATES = r"mean (0\.0|[\d.]+e-(3\d|4\d))\b"

ROWS = (
    Row(
        "poisson_nll",
        rates,
        poisson_nll,
        names=("y_true", "rate"),
        hard=HARD_RATES,
        outside=([-1.0, 1.0, 0.0], [1.0, -1.0, -0.1]),
    ),
    Row(
        "poisson_nll-full",
        log_rates,
        poisson_nll,
        {"log_rate": True, "full": True},
        names=("y_true", "rate"),
        hard=HARD_LOGS,
        outside=([-1.0], [1.0]),
        excused=(
            (
                "gradient by rate .* y_true 1.0, rate (1.0000000031710769e-30|9.98402083170343e-31)",
                "exp(x) - 1 by subtraction",
            ),
            *overflows("loss @float64"),
            *vanishes("gradient by rate @float64"),
            *absorbed("loss", "gradient by rate"),
        ),
    ),
    Row(
        "negative_binomial_nll",
        rates_and_dispersions,
        negative_binomial_nll,
        names=("y_true", "mean", "dispersion"),
        hard=joined(
            every(COUNTS, [0.0, 1e-30, 1.0, 30.0, 1e4], [1e-2, 1.0, 100.0]),
            *(joined(every([0.0, 1.0, *n], [1.0, *n], [1.0]), every([1.0], [1.0], n)) for n in EXTREMES),
        ),
        outside=([-1.0, 1.0, 0.0], [1.0, -1.0, 1.0], [1.0, 1.0, -0.1]),
        excused=(
            ("gradient by y_true ", TARGETS),
            ("gradient by dispersion .* y_true [01].0, mean ", EQUAL_TERMS),
            (r"gradient by mean .* y_true 0\.0, mean 0\.0, .*\(float64\)", STEEPEST),
            *vanishes("loss @float64", "gradient by mean @float64", "gradient by dispersion @float64"),
            *absorbed("loss", "gradient by dispersion"),
            *absorbed_by_large("loss"),
            *close("gradient by mean @float64"),
        ),
    ),
    Row(
        "negative_binomial_nll-full",
        log_rates_and_dispersions,
        negative_binomial_nll,
        {"log_rate": True, "full": True},
        names=("y_true", "mean", "dispersion"),
        hard=joined(
            every(COUNTS, [0.0, 1e-30, 1.0, 80.0, -80.0, 1e4, -1e4], [1e-2, 1.0, 100.0]),
            *(joined(every([0.0, 1.0, *n], [1.0, *signed(n)], [1.0]), every([1.0], [1.0], n)) for n in EXTREMES),
        ),
        outside=([-1.0, 1.0], [1.0, 1.0], [1.0, -0.1]),
        excused=(
            ("gradient by y_true ", TARGETS),
            (
                "gradient by mean .* y_true 1.0, mean (1.0000000031710769e-30|9.98402083170343e-31)",
                "mean - y by subtraction",
            ),
            ("gradient by dispersion .* y_true [01].0, mean -(80|10000|9984).0", EQUAL_TERMS),
            *overflows("gradient by dispersion @float64"),
            *vanishes("gradient by mean @float64"),
            *absorbed("loss @float64", "gradient by mean", "gradient by dispersion"),
            *absorbed_by_large("loss @float64"),
            *absorbed_by_half("gradient by dispersion @float64"),
        ),
    ),
    Row(
        "tweedie",
        rates,
        tweedie,
        {"power": 1.75},
        names=("y_true", "mean"),
        hard=HARD_RATES,
        outside=([-1.0, 1.0, 0.0], [1.0, -1.0, -0.1]),
        refused=({"power": 0.5}, {"power": 3.0}, {"power": float("nan")}),
        excused=(
            ("gradient by (y_true|mean) .*" + RATES, STEEPEST),
            *overflows("gradient by y_true", "gradient by mean"),
            *vanishes("gradient by y_true", "gradient by mean"),
        ),
    ),
    Row(
        "tweedie-full",
        log_rates,
        tweedie,
        {"power": 1.25, "log_rate": True, "full": True},
        names=("y_true", "mean"),
        hard=joined(
            every(COUNTS, [0.0, 1e-30, 1.0, 20.0, -20.0, 1e4]),
            *(every([0.0, 1.0, *n], [1.0, *signed(n)]) for n in EXTREMES),
        ),
        outside=([-1.0], [1.0]),
        excused=(
            ("gradient by y_true .* y_true 0.0", STEEPEST),
            (
                "gradient by mean .* y_true 1.0, mean (1.0000000031710769e-30|9.98402083170343e-31)",
                "exp(x) - 1 by subtraction",
            ),
            *overflows("gradient by y_true", "gradient by mean"),
            *vanishes("loss", "gradient by y_true", "gradient by mean @float64"),
            *absorbed("gradient by mean", "loss @float64"),
            *absorbed_by_half("gradient by mean"),
        ),
    ),
)

# ---------------------------------------------------------------------------------------------------------------------
# Laws

COUNT = Numbers(laws.whole(0, 4), (0, 1e4))
LOG = Numbers((*laws.whole(-4, 4), 1e-30), (-30, 30))
DISPERSION = Numbers((1, 2, 0.5), (1e-3, 4))
OF_COUNTS = ("convex", "least", "non_negative", "homogeneous")
COUNTED = Domain(st.tuples(laws.each(COUNT), laws.each(POSITIVE)), OF_COUNTS)
LOG_COUNTS = Domain(st.tuples(laws.each(COUNT), laws.each(LOG)), OF_COUNTS)
DISPERSED = Domain(st.tuples(laws.each(COUNT), laws.each(POSITIVE), laws.each(DISPERSION)), OF_COUNTS)
LOG_DISPERSED = Domain(st.tuples(laws.each(COUNT), laws.each(LOG), laws.each(DISPERSION)), OF_COUNTS)


def poisson_terms(y, rate):
    return 1 + rate + y * np.abs(np.log(rate))


def log_poisson_terms(y, x):
    return 1 + np.exp(x) * (1 + np.abs(x)) + y * np.abs(x)


def nb_terms(y, mean, a):
    return 1 + (y + 1 / a) * np.log1p(a * mean) + y * (np.abs(np.log(mean)) + np.log1p(a * y) + 1)


def nb_value(y, mean, a):
    n = 1 / a
    return np.gammaln(n) - np.gammaln(n + y) + n * np.log1p(a * mean) + y * np.log1p(a * mean) - xlogy(y, a * mean)


NO_CONSTANT = {"non_negative": "the term of the target alone is left out"}
SCALED_COUNT = {"homogeneous": "the logarithm of the factor is added"}


def best_rate(y, rate, *others):
    return np.maximum(y, 1e-12)  # below, the logarithm of the rate need not be small against it


LAWS = (
    Subject(
        "poisson_nll",
        COUNTED,
        {"convex": True, "least": (best_rate, lambda y, r: y - xlogy(y, y))},
        {**NO_CONSTANT, **SCALED_COUNT},
        size=poisson_terms,
    ),
    Subject(
        "poisson_nll-log_rate",
        LOG_COUNTS,
        {"convex": True, "least": (lambda y, x: log_of(np.maximum(y, 1e-30)), lambda y, x: y - xlogy(y, y))},
        {**NO_CONSTANT, "homogeneous": "logarithms"},
        {"log_rate": True},
        log_poisson_terms,
    ),
    Subject(
        "negative_binomial_nll",
        DISPERSED,
        {"least": (best_rate, lambda y, m, a: nb_value(y, np.maximum(y, 1e-12), a))},
        {"convex": "its slope falls for large means", **NO_CONSTANT, **SCALED_COUNT},
        size=nb_terms,
    ),
    Subject(
        "negative_binomial_nll-log_rate",
        LOG_DISPERSED,
        {"convex": True},
        {
            "least": "as for negative_binomial_nll",
            **NO_CONSTANT,
            "homogeneous": "logarithms",
        },
        {"log_rate": True},
        lambda y, x, a: nb_terms(y, np.exp(x), a),
    ),
    Subject(
        "tweedie",
        COUNTED,
        {
            "least": (best_rate, lambda y, m: np.maximum(y, 1e-12) ** 0.5 * 2 + y * np.maximum(y, 1e-12) ** -0.5 * 2),
            "non_negative": True,
            "homogeneous": (0.5, BOTH),
        },
        {"convex": "a power below 1 of the mean is added"},
    ),
    Subject(
        "tweedie-deviance",
        COUNTED,
        {"least": (lambda y, m: y, 0.0), "non_negative": True, "homogeneous": (0.5, BOTH)},
        {"convex": "a power below 1 of the mean is added"},
        {"full": True},
    ),
    Subject(
        "tweedie-almost gamma",
        COUNTED,
        {"least": (lambda y, m: y, 0.0), "non_negative": True, "homogeneous": (2 - 1.99, BOTH)},
        {"convex": "a power below 1 of the mean is added"},
        {"full": True, "power": 1.99},
    ),
)

# ---------------------------------------------------------------------------------------------------------------------
# Limits

LIMITS = (
    Limit(
        "poisson_nll-of logarithms",
        LOG_COUNTS,
        of("poisson_nll", log_rate=True),
        lambda y, x: of("poisson_nll")(y, jnp.exp(x)),
        size=log_poisson_terms,
    ),
    Limit("tweedie-poisson_nll", COUNTED, of("tweedie", power=1.0), of("poisson_nll")),
    Limit(
        "tweedie-gamma",
        COUNTED,
        of("tweedie", power=2.0),
        lambda y, m: jnp.log(m) + y / m,
        size=lambda y, m: 1 + np.abs(np.log(m)) + y / m,
    ),
    Limit(
        "tweedie-poisson_nll in the limit",
        COUNTED,
        of("tweedie", power=1 + 2.0**-20, full=True),
        lambda y, m: of("poisson_nll")(y, m) - of("poisson_nll")(y, jnp.maximum(y, 1e-30)),
        size=lambda y, m: poisson_terms(y, m) + poisson_terms(y, np.maximum(y, 1e-30)),
        # The derivative by the power is at most (y + m) times the square of a logarithm between 1e-6 and 1e4.
        within=lambda y, m: 2.0**-20 * (1 + y + m) * 200,
    ),
    Limit(
        "tweedie-of logarithms",
        Domain(st.tuples(laws.each(COUNT), laws.each(SMALL)), ()),
        of("tweedie", log_rate=True),
        lambda y, x: of("tweedie")(y, jnp.exp(x)),
    ),
    Limit(
        "negative_binomial_nll-poisson_nll",
        COUNTED,
        lambda y, m: of("negative_binomial_nll")(y, m, 0 * m),
        of("poisson_nll"),
        size=poisson_terms,
    ),
    Limit(
        "negative_binomial_nll-of logarithms",
        LOG_DISPERSED,
        of("negative_binomial_nll", log_rate=True),
        lambda y, x, a: of("negative_binomial_nll")(y, jnp.exp(x), a),
        size=lambda y, x, a: nb_terms(y, np.exp(x), a) + (y + np.exp(x)) * (1 + np.abs(x)),
    ),
)
