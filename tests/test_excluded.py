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
WEIGHTS = np.array([0, 2, 1, 0.5], np.float32)


def softmax(z: np.ndarray) -> np.ndarray:
    z = z.astype(np.float64)
    powers = np.exp(z - np.maximum(z.max(-1, keepdims=True), -1e300))
    return powers / np.maximum(powers.sum(-1, keepdims=True), 1e-300)


def cross_entropy(q: np.ndarray, smoothing: float = 0.0, weights: np.ndarray | float = 1.0) -> tuple[np.ndarray, ...]:
    """The losses and their gradient p - q, of q with the weights of its classes."""
    q, p = weights * ((1 - smoothing) * q + smoothing / 4), softmax(LOGITS)
    with np.errstate(divide="ignore", invalid="ignore"):
        return -np.where(q == 0, 0, q * np.log(p)).sum(-1), p * q.sum(-1, keepdims=True) - q


def linear(z, **options):
    return jax.vmap(lambda label, bias: jl.linear_cce(label, jnp.ones(2), KERNEL, bias=bias, **options))(LABELS, z)


def weighted(loss, y, a=0.0):
    options = {"from_logits": True, "label_smoothing": a, "class_weights": WEIGHTS, "reduction": "none"}
    return lambda z: loss(y, z, **options)


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
    "linear_cce, weights": (lambda z: linear(z, class_weights=WEIGHTS), cross_entropy(ONE_HOT, 0, WEIGHTS)),
    "linear_cce, smoothed, weights": (
        lambda z: linear(z, label_smoothing=0.1, class_weights=WEIGHTS),
        cross_entropy(ONE_HOT, 0.1, WEIGHTS),
    ),
    "cce, weights": (weighted(jl.cce, ONE_HOT), cross_entropy(ONE_HOT, 0, WEIGHTS)),
    "cce, smoothed, weights": (weighted(jl.cce, ONE_HOT, 0.1), cross_entropy(ONE_HOT, 0.1, WEIGHTS)),
    "sparse_cce, weights": (weighted(jl.sparse_cce, LABELS), cross_entropy(ONE_HOT, 0, WEIGHTS)),
    "sparse_cce, smoothed, weights": (weighted(jl.sparse_cce, LABELS, 0.1), cross_entropy(ONE_HOT, 0.1, WEIGHTS)),
    "sparse_cce_stats, weights": (
        lambda z: jl.sparse_cce_stats(LABELS, z, class_weights=WEIGHTS, reduction="none")[0],
        cross_entropy(ONE_HOT, 0, WEIGHTS),
    ),
    "sparse_focal, gamma 0, weights": (
        lambda z: jl.sparse_focal(LABELS, z, from_logits=True, gamma=0.0, alpha=WEIGHTS, reduction="none"),
        cross_entropy(ONE_HOT, 0, WEIGHTS),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_excluded_classes(case: str):
    losses, (want, slopes) = CASES[case]
    got, pull = run(lambda z: (losses(z), jax.vjp(losses, z)[1](jnp.ones(5))[0]), LOGITS)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)  # inf equals inf
    close(pull, slopes, "gradients", 1e-6, 1e-6)


def test_nll_of_an_excluded_class_without_weight():
    def loss(log_p):
        return jl.nll([0], log_p, class_weights=[0.0, 1.0])

    value, slope = jax.value_and_grad(loss)(jnp.array([[-INF, 0.0]]))
    assert value == 0
    np.testing.assert_array_equal(slope, [[0, 0]])


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


BINARY = {
    "bce": {},
    "bce, pos_weight": {"pos_weight": 3.0},
    "bce, smoothed": {"label_smoothing": 0.5},
    "multilabel_soft_margin": {},
    "binary_focal": {"alpha": None},
    "binary_focal, gamma 0": {"alpha": None, "gamma": 0.0},
    "binary_focal, gamma 0.5": {"alpha": None, "gamma": 0.5},
}


@pytest.mark.parametrize("case", BINARY)
def test_infinite_logits_of_one_class(case: str):
    """The limit of the formula: 0 with zero gradient where the target agrees, else infinite; numbers beside it count.

    With y the target, p the 0 or 1 that the logit says: the loss is infinite where y (1 - p) + (1 - y) p is not 0, and
    the gradient e^gamma (p - y), with that term as e.
    """
    name, options = case.split(",")[0], BINARY[case] | ({} if "multi" in case else {"from_logits": True})
    y, z = np.array([0, 1, 0, 1, 0.25], np.float32), np.array([-INF, INF, INF, -INF, INF], np.float32)

    def losses(z):
        rows = (y[:, None], z[:, None]) if "multi" in case else (y, z)
        return jl.LOSSES[name](*rows, reduction="none", **options)

    got, slope = run(lambda z: (losses(z), jax.grad(lambda z: jnp.sum(losses(z)))(z)), z)
    target = y / 2 + 0.25 if "smoothed" in case else y
    p = (z > 0).astype(np.float32)
    error = target * (1 - p) + (1 - target) * p
    np.testing.assert_array_equal(got, np.where(error > 0, INF, 0))
    factor = np.where(y == 1, options.get("pos_weight", 1), 1) * error ** options.get("gamma", 2.0 * ("focal" in name))
    close(slope, factor * (p - target), "gradients", 1e-6, 1e-7)
    if "focal" in name:
        moved = jax.grad(lambda y: jnp.sum(jl.binary_focal(y, z, reduction="none", **options)))(y)
        assert not np.isnan(moved).any(), moved
        half = np.full_like(y, 0.5)
        knobs = jax.grad(
            lambda gamma, alpha: jnp.sum(jl.binary_focal(half, z, from_logits=True, gamma=gamma, alpha=alpha)), (0, 1)
        )(options.get("gamma", 2.0), 0.25)
        assert not np.isnan(knobs).any(), knobs


@pytest.mark.parametrize("name", ["mse", "mae", "huber", "bce"])
def test_infinity_under_a_zero_weight_is_loud(name: str):
    """It is no finite input: the result is NaN, unless the unit is masked."""
    y, p, w = np.zeros(2, np.float32), np.array([1, INF], np.float32), np.array([1, 0], np.float32)
    loss = jl.LOSSES[name]
    options = {"from_logits": True} if name == "bce" else {}
    assert np.isnan(loss(y, p, weights=w, **options))
    close(loss(y, p, weights=w, where=w > 0, **options), loss(y[:1], p[:1], **options), "masked")
