"""A logit of -inf excludes a class: what that means where the target is another class, this class, or all are excluded.

The softmax has its limit, 0 for an excluded class (for all of them, if no class is left), so that the gradient is a
number everywhere; the loss of a target that is excluded is infinite, like -log 0.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import close, run

import jaxloss as jl

INF = np.inf
LOGITS = np.array(
    [[-INF, 1, 2, 0], [0.5, 1, -INF, 0], [-INF, 1, -INF, 0], [3, -INF, -INF, -INF], [-INF] * 4], np.float32
)
LABELS = np.array([0, 0, 0, 0, 0])
SOFT = np.array([[0.5, 0.25, 0.25, 0]] * 5, np.float32)
ONE_HOT = np.eye(4, dtype=np.float32)[LABELS]
KERNEL = np.zeros((2, 4), np.float32)


def softmax(z: np.ndarray) -> np.ndarray:
    z = z.astype(np.float64)
    powers = np.exp(z - np.maximum(z.max(-1, keepdims=True), -1e300))
    return powers / np.maximum(powers.sum(-1, keepdims=True), 1e-300)


def cross_entropy(q: np.ndarray, smoothing: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """The losses and their gradient p - q."""
    q, p = (1 - smoothing) * q + smoothing / 4, softmax(LOGITS)
    with np.errstate(divide="ignore", invalid="ignore"):
        return -np.where(q == 0, 0, q * np.log(p)).sum(-1), p * q.sum(-1, keepdims=True) - q


def linear(z, **options):
    return jax.vmap(lambda label, bias: jl.linear_cce(label, jnp.ones(2), KERNEL, bias=bias, **options))(LABELS, z)


CASES = {
    "cce, one-hot": (lambda z: jl.cce(ONE_HOT, z, from_logits=True, reduction="none"), cross_entropy(ONE_HOT)),
    "cce, soft": (lambda z: jl.cce(SOFT, z, from_logits=True, reduction="none"), cross_entropy(SOFT)),
    "cce, smoothed": (
        lambda z: jl.cce(ONE_HOT, z, from_logits=True, label_smoothing=0.1, reduction="none"),
        cross_entropy(ONE_HOT, 0.1),
    ),
    "sparse_cce": (lambda z: jl.sparse_cce(LABELS, z, from_logits=True, reduction="none"), cross_entropy(ONE_HOT)),
    "sparse_cce, smoothed": (
        lambda z: jl.sparse_cce(LABELS, z, from_logits=True, label_smoothing=0.1, reduction="none"),
        cross_entropy(ONE_HOT, 0.1),
    ),
    "sparse_cce, no smoothing, traced": (
        lambda z: jl.sparse_cce(
            LABELS, z, from_logits=True, label_smoothing=jnp.where(z[0, 1] == 7, 0.1, 0.0), reduction="none"
        ),
        cross_entropy(ONE_HOT),
    ),
    "categorical_focal, gamma 0": (
        lambda z: jl.categorical_focal(ONE_HOT, z, from_logits=True, gamma=0.0, alpha=1.0, reduction="none"),
        cross_entropy(ONE_HOT),
    ),
    "linear_cce": (linear, cross_entropy(ONE_HOT)),
    "linear_cce, no smoothing, traced": (
        lambda z: linear(z, label_smoothing=jnp.where(z[0, 1] == 7, 0.1, 0.0)),
        cross_entropy(ONE_HOT),
    ),
    "linear_cce, smoothed": (lambda z: linear(z, label_smoothing=0.1), cross_entropy(ONE_HOT, 0.1)),
}


@pytest.mark.parametrize("case", CASES)
def test_excluded_classes(case: str):
    losses, (want, slopes) = CASES[case]
    got, pull = run(lambda z: (losses(z), jax.vjp(losses, z)[1](jnp.ones(5))[0]), LOGITS)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)  # inf equals inf
    close(pull, slopes, "gradients", 1e-6, 1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_with_any_gamma(gamma: float):
    """Extreme logits and an excluded wrong class: the loss is the formula, its gradient a number."""
    z = np.array([[1e4, -1e4, 0, 1], [-1e4, 1e4, 0, 1], [-3, -INF, 2, 1], [40, -INF, -INF, 0]], np.float32)
    y = np.eye(4, dtype=np.float32)[[0, 0, 0, 0]]

    def losses(z):
        return jl.categorical_focal(y, z, from_logits=True, gamma=gamma, alpha=1.0, reduction="none")

    got, slope = run(lambda z: (losses(z), jax.grad(lambda z: jnp.sum(losses(z)))(z)), z)
    wide = z.astype(np.longdouble)
    log_sum = wide.max(-1) + np.log(np.exp(wide - wide.max(-1, keepdims=True)).sum(-1))
    surprise = log_sum - wide[:, 0]
    others = np.exp(wide[:, 1:] - log_sum[:, None]).sum(-1)  # 1 - p, without cancellation
    close(got, (others**gamma * surprise).astype(np.float64), "losses", 1e-5, 1e-12)
    assert np.isfinite(slope).all(), slope


@pytest.mark.parametrize("name", ["mse", "mae", "huber", "bce"])
def test_infinity_under_a_zero_weight_is_loud(name: str):
    """It is no finite input: the result is NaN, unless the unit is masked."""
    y, p, w = np.zeros(2, np.float32), np.array([1, INF], np.float32), np.array([1, 0], np.float32)
    loss = jl.LOSSES[name]
    options = {"from_logits": True} if name == "bce" else {}
    assert np.isnan(loss(y, p, weights=w, **options))
    close(loss(y, p, weights=w, where=w > 0, **options), loss(y[:1], p[:1], **options), "masked")
