"""Preference losses, of log-probabilities that a policy gives to what it or others have written.

The log-probability of a sequence is the sum, or the mean, of those of its tokens. `linear_cce` gives the tokens' with
the sign reversed, and never holds the logits of a large vocabulary:

    log_p = -jnp.sum(jl.linear_cce(tokens, hidden, kernel, where=mask, reduction="none"), axis=-1)

A log-probability is at most 0: a positive one, such as after a forgotten minus, is outside the domain. The reference is
a model that is not trained, so its log-probabilities need no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._numerics.derivatives import partials
from jaxloss._numerics.elementary import (
    LEAST_PROBABILITY,
    at_least_tiny,
    exp_rest,
    is_constant,
    log1p,
    saturate,
    sigmoid,
    softplus,
)
from jaxloss._numerics.rows import zero_at_zero
from jaxloss._numerics.scores import interpolate
from jaxloss.contract import (
    AT_LEAST_0,
    BINARY,
    FRACTION,
    NUMBER,
    POSITIVE,
    ArrayLike,
    Domain,
    Holds,
    Units,
    loss,
    losses,
)

__all__ = ["dpo", "grpo", "ipo", "kto", "orpo", "simpo"]

LOG_P = Holds(
    domain=Domain(
        "the logarithm of a probability, so finite and at most 0",
        # The end of float32: without a lower end nothing would tell -inf from other numbers.
        low=-float(jnp.finfo(jnp.float32).max),
        high=0,
        rounds=True,
        cure="Losses such as linear_cce are -log p: negate them.",
    )
)


@loss
def dpo(
    chosen: ArrayLike,
    rejected: ArrayLike,
    reference_chosen: ArrayLike,
    reference_rejected: ArrayLike,
    *,
    beta: float | ArrayLike = 0.1,
    label_smoothing: float | ArrayLike = 0.0,
    **units: Unpack[Units],
) -> Array:
    """Direct preference optimisation: `-log sigmoid(beta h)`, where h is by how much the policy prefers the chosen one.

    `h = (chosen - reference_chosen) - (rejected - reference_rejected)`. With the label smoothing a it is the
    conservative form, for labels that are wrong that often: `-(1 - a) log sigmoid(beta h) - a log sigmoid(-beta h)`.

    Args:
      chosen: (...) log-probabilities of the preferred sequences by the policy.
      rejected: (...) those of the others.
      reference_chosen, reference_rejected: (...) the same by the reference.
      beta: how strongly the reference binds, above 0.
      label_smoothing: a, in [0, 1].

    Returns:
      The mean over pairs; with `reduction="none"` one loss per pair, shape (...).

    Raises:
      ValueError: shapes that differ, options out of range. A log-probability above 0 makes its pair NaN, with zero
      gradient.

    Example:
      >>> print(dpo([-2.0], [-3.0], [-2.5], [-2.5], beta=1.0))  # log(1 + exp(-1))
      0.3132617

    Source: Rafailov et al. 2023, arXiv 2305.18290, equation 7; with label smoothing: Mitchell 2023, "A note on DPO with
    noisy preferences". Agrees with the loss "sigmoid" of DPOTrainer in trl.
    """

    def pair(h: Array, beta: float | Array, label_smoothing: float | Array) -> Array:
        z = beta * saturate(h)
        return softplus(-z) if is_constant(label_smoothing, 0) else _logistic(z, label_smoothing)

    options = {"beta": (beta, POSITIVE), "label_smoothing": (label_smoothing, FRACTION)}
    return _of_preferences(pair, chosen, rejected, reference_chosen, reference_rejected, options, **units)


@loss
def ipo(
    chosen: ArrayLike,
    rejected: ArrayLike,
    reference_chosen: ArrayLike,
    reference_rejected: ArrayLike,
    *,
    beta: float | ArrayLike = 0.1,
    **units: Unpack[Units],
) -> Array:
    """Identity preference optimisation: `(h - 1 / (2 beta))^2`, h as in `dpo`.

    So h is drawn to 1 / (2 beta) and no further, even if the same sequence is always preferred.

    Args:
      chosen: (...) log-probabilities of the preferred sequences by the policy; trl gives means over tokens.
      rejected: (...) those of the others.
      reference_chosen, reference_rejected: (...) the same by the reference.
      beta: how strongly the reference binds, above 0; tau in the paper.

    Returns:
      The mean over pairs; with `reduction="none"` one loss per pair, shape (...).

    Raises:
      ValueError: shapes that differ, a beta that is not positive. A log-probability above 0 makes its pair NaN, with
      zero gradient.

    Example:
      >>> print(ipo([-2.0], [-3.0], [-2.5], [-2.5], beta=0.25))  # (1 - 2)^2
      1.0

    Source: Azar et al. 2023, arXiv 2310.12036, equation 17. Agrees with the loss "ipo" of DPOTrainer in trl.
    """

    def pair(h: Array, beta: float | Array) -> Array:
        e = h - 0.5 / beta
        return e * e

    options = {"beta": (beta, POSITIVE)}
    return _of_preferences(pair, chosen, rejected, reference_chosen, reference_rejected, options, **units)


@loss
def simpo(
    chosen: ArrayLike,
    rejected: ArrayLike,
    *,
    beta: float | ArrayLike = 2.0,
    gamma: float | ArrayLike = 0.5,
    **units: Unpack[Units],
) -> Array:
    """Simple preference optimisation, without a reference: `-log sigmoid(beta (chosen - rejected) - gamma)`.

    Args:
      chosen: (...) mean log-probabilities of the tokens of the preferred sequences.
      rejected: (...) those of the others.
      beta: the factor of the difference, above 0; 2 to 2.5 in the paper.
      gamma: the margin, by which the preferred one must be ahead, at least 0; 0.3 to 1.6 in the paper.

    Returns:
      The mean over pairs; with `reduction="none"` one loss per pair, shape (...).

    Raises:
      ValueError: shapes that differ, options out of range. A log-probability above 0 makes its pair NaN, with zero
      gradient.

    Example:
      >>> print(simpo([-1.0], [-2.0], beta=2.0, gamma=2.0))  # log 2
      0.6931472

    Source: Meng, Xia and Chen 2024, arXiv 2405.14734, equation 6. Agrees with the loss "simpo" of CPOTrainer in trl at
    cpo_alpha = 0, whose defaults are beta = 0.1 and gamma = 0.5.
    """

    def pair(chosen: Array, rejected: Array, beta: float | Array, gamma: float | Array) -> Array:
        return softplus(gamma - beta * (chosen - rejected))

    inputs = {"chosen": (chosen, LOG_P), "rejected": (rejected, LOG_P)}
    options = {"beta": (beta, POSITIVE), "gamma": (gamma, AT_LEAST_0)}
    return losses(pair, inputs, options=options, elementwise=True, **units)


@loss
def kto(
    desirable: ArrayLike,
    policy: ArrayLike,
    reference: ArrayLike,
    *,
    beta: float | ArrayLike = 0.1,
    kl: float | ArrayLike = 0.0,
    desirable_weight: float | ArrayLike = 1.0,
    undesirable_weight: float | ArrayLike = 1.0,
    **units: Unpack[Units],
) -> Array:
    """Kahneman-Tversky optimisation, of sequences that are not paired: `w sigmoid(-beta (r - kl))` if desirable.

    If undesirable, it is `w sigmoid(beta (r - kl))`, with `r = policy - reference`. The reference point kl is how far
    the policy is from the reference overall. The paper estimates it from prompts joined with the completions of other
    prompts, as `jnp.maximum(jnp.mean(policy - reference), 0)` of these. No derivative passes through it.

    Args:
      desirable: (...) 1 or True where the sequence is desirable, 0 where it is not.
      policy: (...) log-probabilities of the sequences by the policy.
      reference: (...) the same by the reference.
      beta: how strongly the reference binds, above 0.
      kl: the reference point, at least 0.
      desirable_weight, undesirable_weight: the factors w, at least 0.

    Returns:
      The mean over sequences; with `reduction="none"` one loss per sequence, shape (...).

    Raises:
      ValueError: shapes that differ, options out of range. A log-probability above 0, or a target other than 0 and 1,
      makes its sequence NaN, with zero gradient.

    Example:
      >>> print(kto([1, 0], [-2.0, -2.0], [-2.0, -2.0], undesirable_weight=2.0))  # (1 / 2 + 2 / 2) / 2
      0.75

    Source: Ethayarajh et al. 2024, arXiv 2402.01306, equation 8. Agrees with the loss "kto" of KTOTrainer in trl.
    """

    def sequence(
        desirable: Array,
        policy: Array,
        reference: Array,
        beta: float | Array,
        kl: float | Array,
        desirable_weight: float | Array,
        undesirable_weight: float | Array,
    ) -> Array:
        r = (policy - reference) - jax.lax.stop_gradient(jnp.asarray(kl, policy.dtype))
        wanted = desirable > 0
        weight = jnp.where(wanted, desirable_weight, undesirable_weight)
        return weight * sigmoid(beta * jnp.where(wanted, -r, r))

    inputs = {
        "desirable": (desirable, Holds(domain=BINARY)),
        "policy": (policy, LOG_P),
        "reference": (reference, LOG_P),
    }
    options = {
        "beta": (beta, POSITIVE),
        "kl": (kl, AT_LEAST_0),
        "desirable_weight": (desirable_weight, AT_LEAST_0),
        "undesirable_weight": (undesirable_weight, AT_LEAST_0),
    }
    return losses(sequence, inputs, options=options, elementwise=True, **units)


@loss
def orpo(chosen: ArrayLike, rejected: ArrayLike, *, beta: float | ArrayLike = 0.1, **units: Unpack[Units]) -> Array:
    """Odds ratio preference optimisation, without a reference: `-log p - beta log sigmoid(log odds ratio)`.

    The odds ratio is `p / (1 - p)` over `q / (1 - q)`, with p and q the geometric means of the probabilities of the
    tokens, of the chosen and the rejected sequence. So one loss imitates the chosen one and turns away from the other.

    Args:
      chosen: (...) log p, mean log-probabilities of the tokens of the preferred sequences.
      rejected: (...) log q, those of the others. The loss is finite at 0 too, where q is 1.
      beta: the weight of the odds ratio, at least 0; lambda in the paper.

    Returns:
      The mean over pairs; with `reduction="none"` one loss per pair, shape (...).

    Raises:
      ValueError: shapes that differ, a negative beta. A log-probability above 0 makes its pair NaN, with zero gradient.

    Example:
      >>> half = [-0.6931472]  # log 1 / 2
      >>> print(orpo(half, half, beta=1.0))  # log 2 + log 2
      1.3862944

    Source: Hong, Lee and Thorne 2024, arXiv 2403.07691, equation 6. Agrees with ORPOTrainer in trl, whose first term is
    the mean over all tokens of the batch, those of the prompts among them.
    """

    def pair(chosen: Array, rejected: Array, beta: float | Array) -> Array:
        return beta * _minus_log_sigmoid_of_odds(chosen, rejected) - chosen

    inputs = {"chosen": (chosen, LOG_P), "rejected": (rejected, LOG_P)}
    return losses(pair, inputs, options={"beta": (beta, AT_LEAST_0)}, elementwise=True, **units)


@loss
def grpo(
    advantages: ArrayLike,
    policy: ArrayLike,
    old: ArrayLike,
    *,
    reference: ArrayLike | None = None,
    epsilon: float | ArrayLike = 0.2,
    epsilon_high: float | ArrayLike | None = None,
    beta: float | ArrayLike = 0.04,
    **units: Unpack[Units],
) -> Array:
    """The clipped objective of group relative policy optimisation, and of PPO: `-min(r A, clip(r) A) + beta KL`.

    r is `exp(policy - old)` and `clip(r)` lies between `1 - epsilon` and `1 + epsilon_high`. The KL term, only with a
    reference, is `exp(d) - d - 1` with `d = reference - policy`. Where clipping begins, the derivative is 0.

    Nothing is broadcast: one advantage for each sequence is `jnp.broadcast_to(advantages[:, None], policy.shape)`. In
    the paper each sequence counts the same: `reduction=jl.mean_of_means()` of (batch, time).

    Args:
      advantages: (...) how much better than expected it was to take each token.
      policy: (...) log-probabilities of the tokens by the policy; of continuous actions, log-densities.
      old: (...) those by the policy that wrote them. For a single step, `jax.lax.stop_gradient(policy)`.
      reference: (...) those by the reference.
      epsilon: how far r may fall below 1, at least 0; also how far it may rise above 1, unless epsilon_high is given.
      epsilon_high: how far r may rise above 1, at least 0.
      beta: the weight of the KL term, at least 0.

    Returns:
      The mean over tokens; with `reduction="none"` one loss per token, shape (...).

    Raises:
      ValueError: shapes that differ, options out of range.

    Example:
      >>> print(grpo([1.0, 1.0], [-1.0, -1.0], [-1.0, -2.0]))  # -(1 + 1.2) / 2, as exp(1) is clipped
      -1.1

    Source: Shao et al. 2024, arXiv 2402.03300, equation 3; Schulman et al. 2017, arXiv 1707.06347; epsilon_high: Yu et
    al. 2025, arXiv 2503.14476. Agrees with the losses "grpo" (by `mean_of_means`, if no completion is empty) and
    "bnpo" of GRPOTrainer in trl, whose beta is 0 if not given, and with rlax.clipped_surrogate_pg_loss. Its "dr_grpo"
    is the sum over the number of sequences times the longest length that is allowed.
    """

    def token(
        advantage: Array,
        policy: Array,
        old: Array,
        *reference: Array,
        epsilon: float | Array,
        epsilon_high: float | Array | None,
        beta: float | Array,
    ) -> Array:
        high = epsilon if epsilon_high is None else epsilon_high
        clipped = _clipped(advantage, policy - old, epsilon, high)
        if not reference:
            return clipped
        return clipped + zero_at_zero(jnp.asarray(beta, policy.dtype), _kl(reference[0] - policy))

    inputs = {"advantages": (advantages, NUMBER), "policy": (policy, NUMBER), "old": (old, NUMBER)}
    if reference is not None:
        inputs["reference"] = (reference, NUMBER)
    options = {
        "epsilon": (epsilon, AT_LEAST_0),
        "epsilon_high": (epsilon_high, AT_LEAST_0),
        "beta": (beta, AT_LEAST_0),
    }
    return losses(token, inputs, options=options, elementwise=True, **units)


# ---------------------------------------------------------------------------------------------------------------------
# Pieces


def _of_preferences(
    formula: Callable[..., Array],
    chosen: ArrayLike,
    rejected: ArrayLike,
    reference_chosen: ArrayLike,
    reference_rejected: ArrayLike,
    options: Mapping[str, Any],
    **units: Unpack[Units],
) -> Array:
    """The loss of a batch of pairs, from the formula of h, by how much the policy prefers the chosen one."""

    def pair(
        chosen: Array, rejected: Array, reference_chosen: Array, reference_rejected: Array, **options: Any
    ) -> Array:
        # First of each sequence: its two log-probabilities may be large, and are alike.
        return formula((chosen - reference_chosen) - (rejected - reference_rejected), **options)

    inputs = {
        "chosen": (chosen, LOG_P),
        "rejected": (rejected, LOG_P),
        "reference_chosen": (reference_chosen, LOG_P),
        "reference_rejected": (reference_rejected, LOG_P),
    }
    return losses(pair, inputs, options=options, elementwise=True, **units)


def _logistic_slope(z: Array, a: Array) -> Array:
    """sigmoid(z) - (1 - a)."""
    small = jnp.exp(-jnp.abs(z))
    return jnp.where(z >= 0, a - (1 - a) * small, a * small - (1 - a)) / (1 + small)


@partials(_logistic_slope, lambda z, a: z)
def _logistic(z: Array, a: Array) -> Array:
    """-(1 - a) log sigmoid(z) - a log sigmoid(-z)."""
    return interpolate(a, softplus(-z), lambda: softplus(z))


# With the complements of both probabilities, p' = 1 - p and q' = 1 - q, the loss of the odds is
#   log(1 + (q / p) (p' / q')),
# and its derivatives are, by log p, -1 / (p' + (p / q) q'), and by log q, -(1 + q / q') p' times that. At p = 1 all of
# this is finite. For q = 1 the logarithm of q' is that of the smallest number, with the slope at 1e-12, as elsewhere.


def _complement(log_p: Array) -> Array:
    return -jnp.expm1(jnp.minimum(log_p, 0))


def _d_chosen(log_p: Array, log_q: Array) -> Array:
    return -1 / (_complement(log_p) + jnp.exp(log_p - log_q) * at_least_tiny(_complement(log_q)))


def _d_rejected(log_p: Array, log_q: Array) -> Array:
    odds = jnp.exp(log_q) / jnp.maximum(_complement(log_q), LEAST_PROBABILITY)
    return -(1 + odds) * _complement(log_p) * _d_chosen(log_p, log_q)


@partials(_d_chosen, _d_rejected)
def _minus_log_sigmoid_of_odds(log_p: Array, log_q: Array) -> Array:
    ahead, rest, other = log_q - log_p, _complement(log_p), at_least_tiny(_complement(log_q))
    near = ahead < 64
    ratio = jnp.exp(jnp.minimum(ahead, 64)) * (rest / other)
    log_ratio = ahead + (jnp.log(at_least_tiny(rest)) - jnp.log(other))
    return jnp.where(near & (ratio < 1e30), log1p(ratio), log_ratio)


def _clipped_ratio(a: Array, d: Array, low: Array, high: Array) -> Array:
    ratio = jnp.where(a < 0, jnp.exp(d), jnp.minimum(jnp.exp(d), 1 + high))
    return jnp.where(a > 0, ratio, jnp.maximum(ratio, 1 - low))


def _clipped_slope(a: Array, d: Array, low: Array, high: Array) -> Array:
    ratio = jnp.exp(d)
    free = jnp.where(a > 0, ratio < 1 + high, (a < 0) & (ratio > 1 - low))
    return jnp.where(free, -a * ratio, 0)


@partials(
    lambda a, d, low, high: -_clipped_ratio(a, d, low, high),
    _clipped_slope,
    lambda a, d, low, high: jnp.where((a < 0) & (jnp.exp(d) < 1 - low), a, 0),
    lambda a, d, low, high: jnp.where((a > 0) & (jnp.exp(d) > 1 + high), -a, 0),
)
def _clipped(a: Array, d: Array, low: Array, high: Array) -> Array:
    """-min(r a, clip(r, 1 - low, 1 + high) a), r = exp(d)."""
    return -a * _clipped_ratio(a, d, low, high)


@partials(lambda d: jnp.expm1(d))
def _kl(d: Array) -> Array:
    """exp(d) - d - 1."""
    small = jnp.abs(d) < 0.5
    return jnp.where(small, d * exp_rest(jnp.where(small, d, 0)) * d, jnp.exp(d) - 1 - d)
