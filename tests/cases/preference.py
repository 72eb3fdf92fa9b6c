"""What is known of the preference losses, of log-probabilities."""

from __future__ import annotations

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import laws
from laws import Domain, Limit, Numbers, Subject, of

from cases import exact as np
from cases.classification import FROM_LOGITS
from cases.common import BIT, CONVEX, ONE, without
from cases.row import LARGEST, SMALLEST, Row, joined, signed

# ---------------------------------------------------------------------------------------------------------------------
# Inputs


def log_p(rng, batch, count):
    """Log-probabilities of the same sequences by several models, so not far from one another."""
    common = -0.3 - rng.random(batch)
    return [common - 0.3 * rng.random(batch) for _ in range(count)]


def pairs(rng, batch):
    return (*log_p(rng, batch, 2),)


def pairs_and_reference(rng, batch):
    (chosen, reference_chosen), (rejected, reference_rejected) = log_p(rng, batch, 2), log_p(rng, batch, 2)
    return chosen, rejected, reference_chosen, reference_rejected


def judged(rng, batch):
    return (rng.integers(0, 2, batch) * 1.0, *log_p(rng, batch, 2))


def tokens(rng, batch):
    return (rng.normal(size=batch), *log_p(rng, batch, 2))


def tokens_and_reference(rng, batch):
    return (rng.normal(size=batch), *log_p(rng, batch, 3))


# ---------------------------------------------------------------------------------------------------------------------
# Formulas


def minus_log_sigmoid(z):
    return np.logaddexp(0, -z)


def preference(chosen, rejected, reference_chosen, reference_rejected):
    return (chosen - rejected) - (reference_chosen - reference_rejected)


def dpo(chosen, rejected, reference_chosen, reference_rejected, beta=0.1, label_smoothing=0.0):
    z = beta * preference(chosen, rejected, reference_chosen, reference_rejected)
    return (1 - label_smoothing) * minus_log_sigmoid(z) + label_smoothing * minus_log_sigmoid(-z)


def ipo(chosen, rejected, reference_chosen, reference_rejected, beta=0.1):
    return (preference(chosen, rejected, reference_chosen, reference_rejected) - 1 / (2 * beta)) ** 2


def simpo(chosen, rejected, beta=2.0, gamma=0.5):
    return minus_log_sigmoid(beta * chosen - beta * rejected - gamma)


def kto(desirable, policy, reference, beta=0.1, kl=0.0, desirable_weight=1.0, undesirable_weight=1.0):
    z = beta * (policy - reference - kl)
    losses = np.where(desirable == 1, desirable_weight / (1 + np.exp(z)), undesirable_weight / (1 + np.exp(-z)))
    return losses


def orpo(chosen, rejected, beta=0.1):
    """The complement of q is at least the smallest normal number, and its logarithm no steeper than at 1e-12."""
    odds = np.exp(rejected - np.log_probability(-np.expm1(rejected)))
    return -chosen + beta * np.log1p(odds * -np.expm1(chosen) / np.exp(chosen))


def grpo(advantages, policy, old, reference=None, epsilon=0.2, epsilon_high=None, beta=0.04):
    r = np.exp(policy - old)
    clipped = np.minimum(np.maximum(r, 1 - epsilon), 1 + (epsilon if epsilon_high is None else epsilon_high))
    losses = -np.minimum(r * advantages, clipped * advantages)
    if reference is None:
        return losses
    d = reference - policy
    return losses + beta * (np.expm1(d) - d)


# ---------------------------------------------------------------------------------------------------------------------
# Hard inputs: one of the log-probabilities is far from 0, or almost 0, or all are equally far

FAR = [1.0, 4.0, 64.0, 104.0, 208.0, 1e4, 1e30, *LARGEST, 1e-30, *SMALLEST]


def one_of(count, numbers):
    """Units with one of these numbers, in turn in each of the places, and 0 in the others."""
    return tuple(np.concatenate([-np.asarray(numbers) * (place == i) for place in range(count)]) for i in range(count))


def hard(count):
    together = tuple(-np.array(FAR) for _ in range(count))
    return joined(one_of(count, FAR), together, tuple([np.zeros(1)] * count))


def outside(count):
    """A forgotten minus, NaN and the logarithm of 0, in turn in each place."""
    wrong = [2.0, np.nan, -np.inf]
    return tuple(
        np.concatenate([np.asarray(wrong) if place == i else -np.ones(3) for place in range(count)])
        for i in range(count)
    )


def hard_judged():
    policy, reference = hard(2)
    return joined(*((np.full(len(policy), y), policy, reference) for y in (0.0, 1.0)))


def hard_tokens():
    """The advantage is 0, or far from 0, or the ratio is."""
    policy, old = hard(2)
    far = np.array(signed([*LARGEST, *SMALLEST]))
    return joined(*((np.full(len(policy), a), policy, old) for a in (0.0, 1.0, -1.0)), (far, 0 * far - 1, 0 * far - 1))


# ---------------------------------------------------------------------------------------------------------------------
# Rows

OF_PAIRS = ("chosen", "rejected")
OF_MODELS = ("chosen", "rejected", "reference_chosen", "reference_rejected")
BETAS = ({"beta": 0.0}, {"beta": -1.0}, {"beta": float("nan")})
SMOOTHING = ({"label_smoothing": -0.1}, {"label_smoothing": 1.1})

ROWS = (
    Row(
        "dpo",
        pairs_and_reference,
        dpo,
        {"beta": 0.5},
        OF_MODELS,
        hard=hard(4),
        outside=outside(4),
        refused=(*BETAS, *SMOOTHING),
    ),
    Row("dpo-smoothed", pairs_and_reference, dpo, {"beta": 0.5, "label_smoothing": 0.25}, OF_MODELS, hard=hard(4)),
    Row(
        "ipo",
        pairs_and_reference,
        ipo,
        {"beta": 0.5},
        OF_MODELS,
        hard=hard(4),
        outside=outside(4),
        ties=([-1.0, -3.0], [-2.0, -2.0], [-2.0, -4.0], [-2.0, -2.0]),
        refused=BETAS,
    ),
    Row(
        "simpo",
        pairs,
        simpo,
        {"beta": 2.0, "gamma": 0.5},
        OF_PAIRS,
        hard=hard(2),
        outside=outside(2),
        refused=(*BETAS, {"gamma": -1.0}),
    ),
    Row(
        "kto",
        judged,
        kto,
        {"beta": 0.5, "kl": 0.25, "desirable_weight": 1.5, "undesirable_weight": 0.75},
        ("desirable", "policy", "reference"),
        constant=("kl",),
        detached=(0,),
        hard=hard_judged(),
        outside=([0.5, 2.0, 1.0, 1.0, 0.0], [-1.0, -1.0, 2.0, -1.0, -np.inf], [-1.0, -1.0, -1.0, np.nan, -1.0]),
        refused=(*BETAS, {"kl": -1.0}, {"desirable_weight": -1.0}, {"undesirable_weight": -1.0}),
    ),
    Row("orpo", pairs, orpo, {"beta": 0.5}, OF_PAIRS, hard=hard(2), outside=outside(2), refused=(BETAS[1:])),
    Row(
        "grpo",
        tokens_and_reference,
        grpo,
        {"epsilon": 0.25, "epsilon_high": 0.5, "beta": 0.5},
        ("advantages", "policy", "old", "reference"),
        keywords=("reference",),
        hard=(),
        refused=({"epsilon": -0.1}, {"epsilon_high": -0.1}, {"beta": -0.1}),
    ),
    Row("grpo-clipped", tokens, grpo, {"epsilon": 0.25}, ("advantages", "policy", "old"), hard=hard_tokens()),
)

# ---------------------------------------------------------------------------------------------------------------------
# Laws

# Log-probabilities so far from 0 that they may be translated.
LOG_P = laws.each(Numbers((0.0, *laws.whole(-8, 8), 1e-3), (-62, 62))).map(lambda x: x - np.float32(128))
PAIRS_AND_REFERENCE = Domain(st.tuples(LOG_P, LOG_P, LOG_P, LOG_P), ("convex", "non_negative", "translated"))
PAIRS = Domain(st.tuples(LOG_P, LOG_P), ("convex", "non_negative", "translated"))
JUDGED = Domain(st.tuples(laws.each(BIT), LOG_P, LOG_P), ("convex", "non_negative", "translated"), moves=(1, 2))
TOKENS = Domain(
    st.tuples(
        laws.each(Numbers(laws.whole(-4, 4), (-4, 4))),
        *(laws.each(Numbers((*laws.whole(-4, 0), 1e-30), (-8, 8))) for _ in range(3)),
    ),
    ("convex", "non_negative", "translated"),
    moves=(1, 2, 3),
)


def squared_preference(*log_p):
    """What is squared is a difference of log-probabilities, rounded as they are."""
    return 1 + np.abs(log_p).sum(0) ** 2


def ratio(advantages, policy, old, reference):
    """Exponentials of differences of log-probabilities, with the rounding of those."""
    size = 1 + np.abs(policy) + np.abs(old) + np.abs(reference)
    return size * (np.abs(advantages) * np.exp(policy - old) + np.exp(reference - policy) + size)


LAWS = (
    Subject("dpo", PAIRS_AND_REFERENCE, CONVEX, options={"beta": 0.5}),
    Subject("dpo-smoothed", PAIRS_AND_REFERENCE, CONVEX, options={"beta": 0.5, "label_smoothing": 0.25}),
    Subject("ipo", PAIRS_AND_REFERENCE, CONVEX, options={"beta": 0.5}, size=squared_preference),
    Subject("simpo", PAIRS, CONVEX, size=ONE),
    Subject(
        "orpo",
        PAIRS,
        without(CONVEX, "translated"),
        {"translated": "the chosen sequence is imitated"},
        size=lambda chosen, rejected: np.abs(chosen),
    ),
    Subject("kto", JUDGED, without(CONVEX, "convex"), {"convex": "a sigmoid"}, options={"beta": 0.5, "kl": 0.25}),
    Subject(
        "grpo",
        TOKENS,
        {"translated": True},
        {"convex": "the ratio is clipped", "non_negative": "an advantage is a gain"},
        {"beta": 0.5},
        ratio,
        ("reference",),
    ),
)

# ---------------------------------------------------------------------------------------------------------------------
# Limits


def alone(policy, old):
    """Without a reference, and with the advantage 1, the ratio, however large."""
    return -of("grpo", epsilon=1e30)(jnp.ones_like(policy), policy, old)


LIMITS = (
    Limit(
        "dpo-bce",
        PAIRS_AND_REFERENCE,
        of("dpo", beta=0.5, label_smoothing=0.25),
        lambda c, r, rc, rr: of("bce", **FROM_LOGITS)(jnp.full_like(c, 0.75), 0.5 * ((c - rc) - (r - rr))),
        size=lambda c, r, rc, rr: np.abs((c - rc) - (r - rr)),
    ),
    Limit(
        "dpo-simpo",
        PAIRS,
        lambda c, r: of("dpo", beta=2.0)(c, r, jnp.zeros_like(c), jnp.zeros_like(r)),
        of("simpo", beta=2.0, gamma=0.0),
    ),
    Limit(
        "kto-both kinds",
        PAIRS,
        lambda p, r: of("kto", beta=0.5, kl=3.0)(jnp.ones_like(p), p, r),
        lambda p, r: 1 - of("kto", beta=0.5, kl=3.0)(jnp.zeros_like(p), p, r),
        size=lambda p, r: 1.0,
    ),
    Limit("grpo-the ratio", PAIRS, alone, lambda p, old: jnp.exp(p - old)),
    Limit(
        "orpo-soft margin of logits",
        Domain(laws.pairs(laws.each(Numbers((-1.0, -2.0, -0.5), (-8, -0.1)))), ()),
        lambda p, q: of("orpo", beta=1.0)(p, q) + p,
        # The odds of a probability are the exponential of its logit.
        lambda p, q: jax.nn.softplus((q - jnp.log(-jnp.expm1(q))) - (p - jnp.log(-jnp.expm1(p)))),
        size=lambda p, q: 1 + np.abs(p) + np.abs(q),
    ),
)
