"""Preference losses of a language model: from its last layer, by sequence and by token."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import close, mostly_slow, refuses, run, x64

import jaxloss as jl


def sequences(vocabulary: int, batch: int = 4, time: int = 12, features: int = 8) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(2, 2, batch, time, features))  # of the policy and the reference, chosen and rejected
    return {
        "tokens": rng.integers(0, vocabulary, (2, batch, time)),
        "mask": np.arange(time) < rng.integers(1, time + 1, (2, batch, 1)),
        "hidden": hidden.astype(np.float32),
        "kernel": rng.normal(size=(features, vocabulary)).astype(np.float32),
    }


def log_p(tokens: Any, hidden: Any, kernel: Any, where: Any) -> Any:
    """Of sequences, as the documentation of the module says."""
    return -jnp.sum(jl.linear_cce(tokens, hidden, kernel, where=where, reduction="none"), axis=-1)


def plain_log_p(tokens: Any, hidden: Any, kernel: Any, where: Any) -> Any:
    each = jnp.take_along_axis(jax.nn.log_softmax(hidden @ kernel), tokens[..., None], -1)[..., 0]
    return jnp.sum(jnp.where(where, each, 0), axis=-1)


@pytest.mark.parametrize("vocabulary", mostly_slow((50, 50_257), 50))
@pytest.mark.parametrize("name", ["dpo", "ipo"])
def test_from_the_last_layer(vocabulary: int, name: str):
    """Value and gradients by hidden states and kernel, against the logits in full and float64."""
    given = sequences(vocabulary)

    def loss(of: Any, pairs: Any, hidden: Any, kernel: Any) -> Any:
        one = [
            of(given["tokens"][which], model[which], kernel, given["mask"][which])
            for model in (hidden, given["hidden"][1].astype(hidden.dtype))
            for which in range(2)
        ]
        return pairs(*one)

    def plain(chosen: Any, rejected: Any, reference_chosen: Any, reference_rejected: Any) -> Any:
        h = (chosen - reference_chosen) - (rejected - reference_rejected)
        return jnp.mean(jnp.logaddexp(0, -0.1 * h) if name == "dpo" else (h - 5) ** 2)

    got = run(
        lambda *at: jax.value_and_grad(lambda *at: loss(log_p, jl.LOSSES[name], *at), (0, 1))(*at),
        given["hidden"][0],
        given["kernel"],
    )
    with x64():
        exact = [x.astype(np.float64) for x in (given["hidden"][0], given["kernel"])]
        want = run(lambda *at: jax.value_and_grad(lambda *at: loss(plain_log_p, plain, *at), (0, 1))(*at), *exact)
    close(got[0], want[0], "value", rtol=1e-5)
    size = max(np.abs(g).max() for g in want[1])
    close(got[1], want[1], "gradients", rtol=1e-4, atol=1e-5 * size)


def test_a_forgotten_minus_is_loud():
    """What linear_cce returns is the negative log-probability."""
    given = sequences(50)
    surprisal = -log_p(given["tokens"], given["hidden"][0], given["kernel"], given["mask"])
    for name, count in (("dpo", 4), ("ipo", 4), ("simpo", 2), ("orpo", 2)):
        assert np.isnan(jl.LOSSES[name](*[surprisal[0]] * count)), name
        words = (f"{name}: chosen must be the logarithm of a probability", "negate them")
        refuses(jl.BadValueError, words, jl.checked(jl.LOSSES[name]), *[surprisal[0]] * count)
    assert np.isnan(jl.kto(np.ones(4), surprisal[0], surprisal[0]))


def test_tokens_by_sequence():
    """One advantage for each sequence; the mean of the means of the tokens that exist, whatever the others hold."""
    rng = np.random.default_rng(0)
    policy, old, reference = (-rng.random((3, 5)).astype(np.float32) for _ in range(3))
    mask = np.arange(5) < np.array([[5], [2], [0]])
    advantages = np.broadcast_to(np.array([[1.0], [-2.0], [np.nan]], np.float32), policy.shape)
    policy[~mask] = np.nan

    def loss(policy: Any) -> Any:
        return jl.grpo(advantages, policy, old, reference=reference, where=mask, reduction=jl.mean_of_means())

    value, slope = run(jax.value_and_grad(loss), policy)
    r, d = np.exp(policy - old), reference - policy
    each = -np.minimum(r * advantages, np.clip(r, 0.8, 1.2) * advantages) + 0.04 * (np.exp(d) - d - 1)
    close(value, (each[0].mean() + each[1, :2].mean()) / 2, "mean of means")
    assert (slope[~mask] == 0).all()


def test_clipping():
    """Beyond the end that lowers the loss there is no gradient, nor at that end; beyond the other there is."""
    ratio = np.array([0.5, 0.75, 1.0, 1.5, 2.0], np.float32)
    for advantage, free in ((1.0, [True, True, True, False, False]), (-1.0, [False, False, True, True, True])):

        def loss(policy: Any, advantage: float = advantage) -> Any:
            a = jnp.full_like(policy, advantage)
            return jl.grpo(a, policy, jnp.zeros_like(policy), epsilon=0.25, epsilon_high=0.5, reduction="sum")

        close(jax.grad(loss)(np.log(ratio)), np.where(free, -advantage * ratio, 0), f"advantage {advantage}")


def test_the_reference_point_of_kto_is_a_constant():
    def loss(policy: Any) -> Any:
        kl = jnp.maximum(jnp.mean(policy - 1), 0.5)
        return jl.kto([1, 0], policy, [-2.0, -2.0], kl=kl)

    def held(policy: Any) -> Any:
        return jl.kto([1, 0], policy, [-2.0, -2.0], kl=0.5)

    policy = jnp.array([-1.0, -3.0])
    close(jax.value_and_grad(loss)(policy), jax.value_and_grad(held)(policy), "kl")
