"""Values from elsewhere: reference vectors (tests/data), PyTorch, SciPy, and the limits of the formulas."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases.exact import mp
from contract import mostly_slow, x64
from scipy import stats

import jaxloss
from jaxloss._numerics.twofold import Twofold

DATA = Path(__file__).parent / "data"


def groups(name: str) -> list[dict[str, Any]]:
    return json.loads((DATA / f"{name}.json").read_text())["groups"]


def graded(loss: Callable[..., Any], *arrays: Any, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """The losses and their derivatives by the last array."""

    def summed(last: Any) -> Any:
        losses = loss(*arrays[:-1], last, **options, reduction="none")
        return jnp.sum(losses), losses

    slopes, losses = jax.grad(summed, has_aux=True)(jnp.asarray(arrays[-1]))
    return np.asarray(losses), np.asarray(slopes)


def compared(loss: Callable[..., Any], residuals: Any, values: Any, slopes: Any, **options: Any) -> None:
    for dtype, rtol in ((np.float32, 2e-6), (np.float64, 1e-12)):
        with x64():
            e = np.asarray(residuals, dtype)
            losses, derivatives = graded(loss, np.zeros_like(e), e, **options)
        assert losses.dtype == dtype
        np.testing.assert_allclose(losses, values, rtol, 1e-12)
        np.testing.assert_allclose(derivatives, slopes, rtol, 1e-12)


@pytest.mark.parametrize("group", groups("balanced_l1"), ids=lambda group: f"beta={group['beta']}")
def test_balanced_l1(group: dict[str, Any]):
    options = {key: group[key] for key in ("alpha", "gamma", "beta")}
    residuals, values, slopes = (group[key] for key in ("diff_pred_minus_target", "value", "grad_wrt_pred"))
    compared(jaxloss.balanced_l1, residuals, values, slopes, **options)


def test_balanced_l1_is_continuous_at_half():
    """beta = 0.5, which the vectors lack: the integral of its slope, from the definition."""
    e = np.linspace(0, 1, 100_001)
    slope = np.where(e < 0.5, 0.5 * np.log1p(np.expm1(3) * e / 0.5), 1.5)
    integral = np.concatenate([[0], np.cumsum((slope[1:] + slope[:-1]) / 2 * np.diff(e))])
    some = slice(None, None, 10_000)
    with x64():
        losses, slopes = graded(jaxloss.balanced_l1, np.zeros_like(e)[some], e[some], beta=0.5)
    np.testing.assert_allclose(losses, integral[some], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(slopes, slope[some], rtol=1e-12)


@pytest.mark.parametrize("group", groups("smooth_l1_huber"), ids=lambda group: f"width={group['beta_or_delta']:.2g}")
@pytest.mark.parametrize(("name", "option"), [("smooth_l1", "beta"), ("huber", "delta")])
def test_smooth_l1_and_huber(name: str, option: str, group: dict[str, Any]):
    values, slopes = group[f"{name}_value"], group[f"{name}_grad"]
    compared(jaxloss.LOSSES[name], group["diff_pred_minus_target"], values, slopes, **{option: group["beta_or_delta"]})


@pytest.mark.parametrize("beta", [0, 0.0, np.zeros((), np.float32)], ids=["int", "float", "traced"])
def test_smooth_l1_of_width_0_is_mae(beta: Any):
    e = np.array([0, 1e-30, -2, 3e38], np.float32)
    for got, want in zip(graded(jaxloss.smooth_l1, 0 * e, e, beta=beta), graded(jaxloss.mae, 0 * e, e), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    "group", groups("sigmoid_focal"), ids=lambda group: "alpha={alpha}, gamma={gamma}, y={label}".format(**group)
)
def test_binary_focal(group: dict[str, Any]):
    """Not the values of Keras beside them, which clip the probability at 1e-7."""
    options = {key: group[key] for key in ("alpha", "gamma")}
    for dtype, rtol in ((np.float32, 2e-6), (np.float64, 1e-12)):
        with x64():
            z = np.asarray(group["logits"], dtype)
            y = np.full_like(z, group["label"])
            losses, slopes = graded(jaxloss.binary_focal, y, z, from_logits=True, **options)
        # Below its smallest normal number float32 may have 0.
        smallest = float(jnp.finfo(dtype).tiny)
        np.testing.assert_allclose(losses, group["value"], rtol, smallest)
        np.testing.assert_allclose(slopes, group["grad_wrt_logits"], rtol, smallest)


# The entries of misc_classification.json: the loss and its options, the names of its inputs there, and that of its
# value. All agree; the value of Keras's Tversky is left out, whose two weights are swapped.
LOGITS = {"from_logits": True}
PIXELS = {"axis": (0, 1)}
OVERLAPS = {"alpha": "alpha_fp", "beta": "beta_fn"}
MISC: dict[str, tuple[str, dict[str, Any], tuple[str, str], str]] = {
    "softmax_cross_entropy": ("cce", LOGITS, ("labels", "logits"), "value"),
    "categorical_focal": ("categorical_focal", {"alpha": "alpha", "gamma": "gamma"}, ("labels", "probs"), "value"),
    "poly1_cross_entropy": ("poly1", {**LOGITS, "epsilon": "epsilon"}, ("labels", "logits"), "value"),
    "dice": ("dice", PIXELS, ("y_true", "y_pred"), "value_no_epsilon"),
    "tversky": ("tversky", {**PIXELS, **OVERLAPS}, ("y_true", "y_pred"), "value_paper"),
}


@pytest.mark.parametrize("entry", MISC)
def test_misc_classification(entry: str):
    name, options, arrays, value = MISC[entry]
    given = json.loads((DATA / "misc_classification.json").read_text())[entry]
    options = {key: given[option] if isinstance(option, str) else option for key, option in options.items()}
    for dtype, rtol in ((np.float32, 2e-6), (np.float64, 1e-12)):
        with x64():
            losses, slopes = graded(jaxloss.LOSSES[name], *(np.asarray(given[x], dtype) for x in arrays), **options)
        np.testing.assert_allclose(losses, given[value], rtol)
        if "grad" in given:
            np.testing.assert_allclose(slopes, given["grad"], rtol, rtol)


@pytest.mark.slow  # only then PyTorch is installed
@pytest.mark.parametrize("scale", [0.02, 1, 30])
@pytest.mark.parametrize("dense", [False, True], ids=["labels", "distributions"])
def test_cross_entropy_of_pytorch(dense: bool, scale: float):
    """In float64, with weights of the classes, smoothing and ignored labels; ours in float32."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    rows, classes = 64, 2049
    z = (scale * rng.normal(size=(rows, classes))).astype(np.float32)
    labels = rng.integers(0, classes, rows).astype(np.int32)
    labels[::5] = -100
    y = rng.dirichlet(np.ones(classes), rows).astype(np.float32) if dense else labels
    class_weights = rng.uniform(0.5, 2, classes).astype(np.float32)
    for smoothing, weight, reduction in itertools.product((0.0, 0.1), (None, class_weights), ("none", "sum", "mean")):
        options: dict[str, Any] = {"label_smoothing": smoothing, "class_weights": weight, "from_logits": True}
        if dense:
            loss, divisor = jaxloss.cce, rows
        else:
            loss, exist = jaxloss.sparse_cce, labels != -100
            options["where"] = exist
            divisor = np.sum(exist if weight is None else weight[labels[exist]])  # that of PyTorch's mean

        def summed(z: Any, loss: Any = loss, options: Any = options, reduction: Any = reduction) -> Any:
            losses = loss(y, z, **options, reduction="none" if reduction == "none" else "sum")
            return jnp.sum(losses), losses

        (_, got), slopes = jax.jit(jax.value_and_grad(summed, has_aux=True))(z)
        by = float(divisor) if reduction == "mean" else 1.0
        scores = torch.tensor(z, dtype=torch.float64, requires_grad=True)
        target = torch.tensor(y, dtype=torch.float64 if dense else torch.long)
        weights = None if weight is None else torch.tensor(weight, dtype=torch.float64)
        want = torch.nn.functional.cross_entropy(
            scores, target, weight=weights, label_smoothing=smoothing, reduction=reduction
        )
        want.sum().backward()
        np.testing.assert_allclose(np.asarray(got) / by, want.detach().numpy(), 1e-6, 1e-6)
        np.testing.assert_allclose(np.asarray(slopes) / by, scores.grad.numpy(), 1e-6, 1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Barron's family at the alphas where its formula divides by 0

E = np.array([0, 1e-18, 1e-3, -0.5, 1, 3, 100, 1e10], np.float32)
HALF_SQUARE = E.astype(np.float64) ** 2 / 2
LIMITS = {2: HALF_SQUARE, 0: np.log1p(HALF_SQUARE), -np.inf: -np.expm1(-HALF_SQUARE)}


@pytest.mark.parametrize("alpha", LIMITS)
@pytest.mark.parametrize("given", [float, np.float32], ids=["constant", "traced"])
def test_barron_at_its_limits(alpha: float, given: Callable[[float], Any]):
    losses, slopes = graded(jaxloss.barron, 0 * E, E, alpha=given(alpha))
    np.testing.assert_allclose(losses, LIMITS[alpha], rtol=1e-6)
    assert np.isfinite(slopes).all()
    beside = jaxloss.barron(0 * E, E, alpha=jnp.maximum(alpha, -1e30) * 0.9999999, reduction="none")
    np.testing.assert_allclose(losses, beside, rtol=1e-5)


def test_the_derivatives_by_alpha_and_scale_are_finite():
    alphas = np.array([-np.inf, -1e30, -2, -1e-6, 0, 1e-6, 1, 2, np.nextafter(np.float32(2), 3), 5], np.float32)

    def loss(alpha: Any, scale: Any) -> Any:
        return jaxloss.barron(0 * E[:-1], E[:-1], alpha=alpha, scale=scale)

    first = jax.vmap(jax.grad(loss, (0, 1)), (0, None))(alphas, jnp.float32(0.5))
    assert np.isfinite(first).all()


def test_the_derivative_by_alpha():
    e = np.linspace(-3, 3, 7)

    def loss(alpha: Any) -> Any:
        return jaxloss.barron(0 * e, e, alpha=alpha)

    with x64():
        alphas = jnp.array([2.5, 1.5, 0.5, 0.0, -1.0, -8.0])
        got = jax.vmap(jax.grad(loss))(alphas)
        want = (jax.vmap(loss)(alphas + 1e-6) - jax.vmap(loss)(alphas - 1e-6)) / 2e-6
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_the_derivative_by_alpha_of_small_residuals():
    """It begins with r^6 / (24 (alpha - 2)^2), since of the loss r^2 and r^4 do not depend on alpha."""
    alphas = np.array([-1e6, -8, -0.5, 1e-3, 1, 1.5, 2.5, 6], np.float32)
    e = np.array([1e-4, 1e-3, 0.01, 0.1, 0.3, 1, 3], np.float32)

    def formula(r: Any, alpha: Any) -> Any:
        b = abs(alpha - 2)
        return b / alpha * ((r**2 / b + 1) ** (alpha / 2) - 1)

    by_alpha = jax.grad(lambda alpha, e: jaxloss.barron(0.0, e, alpha=alpha))
    got = jax.jit(jax.vmap(jax.vmap(by_alpha, (None, 0)), (0, None)))(alphas, e)
    points = [[(mp.mpf(float(r)), float(a)) for r in e] for a in alphas]
    with mp.workdps(60):
        want = [[mp.diff(functools.partial(formula, r), a, h=1e-25) for r, a in row] for row in points]
    np.testing.assert_allclose(got, np.array(want, np.float64), rtol=3e-5, atol=1e-36)


@pytest.mark.parametrize("full", [False, True])
def test_student_t_by_degrees_of_freedom(full: bool):
    """Of many it is of the order of 1 / df^2, and its terms of 1 / df."""
    n, e = np.array([0.1, 1, 4, 30, 1e3, 1e6], np.float32), np.array([0.01, 0.5, 1, 2, 5, 1e3], np.float32)

    def formula(e: Any, n: Any) -> Any:
        constant = mp.loggamma(n / 2) - mp.loggamma((n + 1) / 2) + mp.log(n) / 2
        return (n + 1) / 2 * mp.log(1 + e**2 / n) + full * constant

    by_df = jax.grad(lambda n, e: jaxloss.student_t_nll(0.0, e, 1.0, df=n, full=full))
    got = jax.jit(jax.vmap(jax.vmap(by_df, (None, 0)), (0, None)))(n, e)
    points = [[(mp.mpf(float(x)), float(y)) for x in e] for y in n]
    with mp.workdps(60):
        want = [[mp.diff(functools.partial(formula, x), y, h=1e-20) for x, y in row] for row in points]
    np.testing.assert_allclose(got, np.array(want, np.float64), rtol=3e-6)


@pytest.mark.parametrize("log_rate", [False, True])
def test_tweedie_of_nothing_by_power(log_rate: bool):
    power, mean = np.array([1.1, 1.5, 1.9], np.float32), np.array([0.01, 1, 30], np.float32)
    x = np.log(mean) if log_rate else mean

    def loss(power: Any, x: Any) -> Any:
        return jaxloss.tweedie(0.0, x, power=power, log_rate=log_rate, full=True)

    got = jax.jit(jax.vmap(jax.vmap(jax.grad(loss), (None, 0)), (0, None)))(power, x)
    u, m = 2 - power.astype(float)[:, None], np.exp(x.astype(float)) if log_rate else mean
    np.testing.assert_allclose(got, m**u * (1 / u - np.log(m)) / u, rtol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# The Jensen-Shannon divergence of rows that almost agree


@pytest.mark.parametrize("weight", [0.5, 0.1])
def test_js_divergence_of_almost_equal_rows(weight: float):
    """As exact as for any others: with differences of logarithms it would be off by 6e-8, however small it is."""
    rng = np.random.default_rng(0)
    q = rng.dirichlet(np.ones(10), 6).astype(np.float32)
    p = (q * np.exp(np.float32(10.0) ** np.arange(-6, 0)[:, None] * rng.standard_normal(q.shape))).astype(np.float32)
    p /= p.sum(-1, keepdims=True)
    losses, slopes = graded(jaxloss.js_divergence, q, p, weight=weight)

    w = mp.mpf(float(np.float32(weight)))
    with mp.workdps(50):
        q, p = ([[mp.mpf(float(x)) for x in row] for row in rows] for rows in (q, p))
        pairs = [zip(*rows, strict=True) for rows in zip(q, p, strict=True)]
        mixed = [[(a, b, w * a + (1 - w) * b) for a, b in row] for row in pairs]
        want = [sum(w * a * mp.log(a / m) + (1 - w) * b * mp.log(b / m) for a, b, m in row) for row in mixed]
        by_p = [[(1 - w) * mp.log(b / m) for _, b, m in row] for row in mixed]
    np.testing.assert_allclose(losses, np.array(want, np.float64), rtol=1e-6)
    np.testing.assert_allclose(slopes, np.array(by_p, np.float64), rtol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# The likelihoods, complete, are the log densities of SciPy

PLACES = [np.array([0.3, -2.0, 5.0, 1.0]), np.array([0.1, 3.0, 5.0, -40.0]), np.array([0.5, 2.0, 0.01, 7.0])]
COUNTS = [np.array([0.0, 0, 1, 3, 17, 400]), np.array([0.2, 30, 1.5, 3, 20, 350])]
LOGS = [COUNTS[0], np.log(COUNTS[1])]
DISPERSIONS = np.array([0.5, 2, 1e-3, 40, 0.1, 0.01])


def nbinom(y: np.ndarray, mean: np.ndarray, dispersion: np.ndarray) -> np.ndarray:
    return stats.nbinom.logpmf(y, 1 / dispersion, 1 / (1 + dispersion * mean))


DENSITIES: dict[str, tuple[list[np.ndarray], dict[str, Any], Callable[..., np.ndarray]]] = {
    "gaussian_nll": (PLACES, {}, lambda y, m, v: stats.norm.logpdf(y, m, np.sqrt(v))),
    "laplace_nll": (PLACES, {}, lambda y, m, b: stats.laplace.logpdf(y, m, b)),
    "student_t_nll": (PLACES, {}, lambda y, m, s: stats.t.logpdf(y, 4, m, s)),
    "student_t_nll-many": (PLACES, {"df": 3000.0}, lambda y, m, s: stats.t.logpdf(y, 3000, m, s)),
    "student_t_nll-few": (PLACES, {"df": 0.75}, lambda y, m, s: stats.t.logpdf(y, 0.75, m, s)),
    "poisson_nll": (COUNTS, {}, stats.poisson.logpmf),
    "poisson_nll-log": (LOGS, {"log_rate": True}, lambda y, z: stats.poisson.logpmf(y, np.exp(z))),
    "negative_binomial_nll": ([*COUNTS, DISPERSIONS], {}, nbinom),
    "negative_binomial_nll-log": ([*LOGS, DISPERSIONS], {"log_rate": True}, lambda y, z, a: nbinom(y, np.exp(z), a)),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-12)], ids=["single", "double"])
@pytest.mark.parametrize("case", DENSITIES)
def test_full_likelihoods_are_the_log_densities(case: str, dtype: Any, tolerance: float):
    arrays, options, log_density = DENSITIES[case]
    loss = jaxloss.LOSSES[case.partition("-")[0]]
    traced = {key: dtype(value) if isinstance(value, float) else value for key, value in options.items()}
    with x64():
        given = [x.astype(dtype) for x in arrays]
        results = [np.asarray(loss(*given, **some, full=True, reduction="none")) for some in (options, traced)]
    want = -log_density(*(x.astype(np.float64) for x in given))
    for result in results:
        assert result.dtype == dtype
        np.testing.assert_allclose(result, want, rtol=tolerance, atol=tolerance)


def test_large_counts_do_not_cancel():
    """Here the logarithms of gamma are a million, and SciPy has ten digits left of sixteen."""
    exact = np.array([[1e5, 1e6, 1e6], [1.01e5, 1e6, 1.1e6], [1e-5, 1e-6, 0.1]], np.float32).astype(np.float64)
    y, mean, dispersion = exact.astype(np.float32)
    poisson = jaxloss.poisson_nll(y[:2], mean[:2], full=True, reduction="none")
    np.testing.assert_allclose(poisson, -stats.poisson.logpmf(*exact[:2, :2]), rtol=1e-6)
    binomial = jaxloss.negative_binomial_nll(y, mean, dispersion, full=True, reduction="none")
    np.testing.assert_allclose(binomial, -nbinom(*exact), rtol=1e-6)


@pytest.mark.parametrize("gamma", [1.5, 40.0])
def test_balanced_l1_without_a_bend(gamma: float):
    """Its constants are zero and huge, which the compiler knows."""
    e = np.array([1, -2, 0], np.float32)
    losses = jax.jit(lambda e: jaxloss.balanced_l1(0 * e, e, beta=0.0, gamma=gamma, reduction="none"))(e)
    np.testing.assert_allclose(losses, gamma * abs(e), rtol=1e-6)


@pytest.mark.parametrize("full", [False, True])
def test_no_count_where_none_is_expected_costs_nothing(full: bool):
    """Two calls of one function that cancel: of equal numbers, which each compiler may round as it likes."""
    a, z = np.array([*itertools.product([1e-3, 0.3, 1, 2.5, 40], [-80, -60, -40, -20])], np.float32).T
    y = np.zeros_like(z)
    losses = jaxloss.negative_binomial_nll(y, z, a, log_rate=True, full=full, reduction="none")
    np.testing.assert_allclose(losses, np.log1p(a * np.exp(z, dtype=float)) / a, rtol=1e-6)


def test_the_negative_binomial_becomes_poisson():
    y, rate = (x.astype(np.float32) for x in COUNTS)
    for full in (False, True):
        limit = jaxloss.negative_binomial_nll(y, rate, np.zeros_like(y), full=full, reduction="none")
        np.testing.assert_allclose(limit, jaxloss.poisson_nll(y, rate, full=full, reduction="none"), rtol=2e-6)


@pytest.mark.parametrize("power", [1, 1.25, 2])
@pytest.mark.parametrize("log_rate", mostly_slow([False, True], False))
def test_tweedie_from_poisson_to_gamma(power: float, log_rate: bool):
    y, mean = np.array([0.5, 1, 2, 3]), np.array([1.0, 1 + 1e-4, 0.2, 9])
    if power == 1:
        exact = mean - y * np.log(mean), y * np.log(y / mean) + mean - y
    elif power == 2:
        exact = np.log(mean) + y / mean, y / mean - 1 - np.log(y / mean)
    else:
        u, w = 2 - power, 1 - power
        short = mean**u / u - y * mean**w / w
        exact = short, short + y**u / (u * w)
    with x64():
        given = np.log(mean) if log_rate else mean
        for full, want in zip((False, True), exact, strict=True):
            for p in (power, np.float64(power), np.full(4, power, np.float64)):  # a constant, traced, one each
                losses, slopes = graded(jaxloss.tweedie, y, given, power=p, full=full, log_rate=log_rate)
                np.testing.assert_allclose(losses, want, rtol=1e-12, atol=1e-14)
                np.testing.assert_allclose(slopes, (mean - y) * mean ** (log_rate - power), rtol=1e-10)


def test_cosine_distance_of_any_length():
    """Its first derivative, too, neither overflows nor vanishes, and small angles are not lost to cancellation."""
    for length in (1e-30, 1e-10, 1.0, 1e30):
        y, p = np.array([[3, 4, 0]], np.float32), np.array([[4 * length, 3 * length, 0]], np.float32)
        losses, slopes = graded(jaxloss.cosine_distance, y, p)
        np.testing.assert_allclose(losses, [0.04], rtol=1e-6)
        np.testing.assert_allclose(slopes * length, [[0.0336, -0.0448, 0]], rtol=1e-5, atol=1e-9)
    near = jaxloss.cosine_distance([[1.0, 0.0]], [[1.0, 1e-6]])
    np.testing.assert_allclose(near, 5e-13, rtol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# What a GPU and a TPU compute, computed here


@jax.jit  # an eager derivative is that of the form for all platforms
def graded_as_compiled(y: Any, x: Any) -> Any:
    losses, back = jax.vjp(lambda x: jaxloss.cosine_distance(y, x, reduction="none"), x)
    return losses, back(jnp.ones_like(losses))[0]


@pytest.mark.parametrize("machine", ["gpu", "tpu"], indirect=True)
@pytest.mark.parametrize("ratio", mostly_slow([1.0, 1.001, 3.0, 1e10, 1e-30], 1.001, 1e10))
def test_angles_beyond_single_precision(machine: str, ratio: float):
    """Small ones, and of vectors of any length: closer than the rounding of unit vectors would let them be."""
    rng = np.random.default_rng(0)
    x, across = rng.normal(size=(2, 300))
    across -= x * (x @ across) / (x @ x)
    angles = np.array([1, 1e-2, 1e-4, 1e-6, 0])[:, None]
    y = ratio * (x * np.cos(angles) + across * np.sin(angles))
    x, y = np.broadcast_to(x, y.shape).astype(np.float32), y.astype(np.float32)
    with jax.numpy_dtype_promotion("strict"):
        losses, slopes = graded_as_compiled(y, x)
    for a, b, loss, slope in zip(x, y, losses, slopes, strict=True):
        a, b = ([mp.mpf(float(number)) for number in v] for v in (a, b))
        aa, bb, ab = (mp.fsum(p * q for p, q in zip(v, w, strict=True)) for v, w in ((a, a), (b, b), (a, b)))
        exact = 1 - ab / mp.sqrt(aa * bb)
        error, lost = (1e-7, 5e-16) if machine == "gpu" else (3e-7, 5e-14)
        assert abs(float(loss) - exact) <= error * exact + lost
        want = [float((ab / aa * p - q) / mp.sqrt(aa * bb)) for p, q in zip(a, b, strict=True)]
        np.testing.assert_allclose(slope, want, rtol=2e-6, atol=max(lost, 1e-14))
    losses, slopes = graded_as_compiled(x, x)
    assert not losses.any()
    assert not slopes.any()


def test_numbers_in_twice_single_precision():
    """Each operation against fractions; a sum that cancels is as exact as what it is made of."""
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=1000) * 2.0 ** rng.integers(-20, 20, 1000)).reshape(2, -1).astype(np.float32)
    y[:100] = np.nextafter(x[:100], np.float32(np.inf))

    @jax.jit
    def computed(x: Any, y: Any) -> dict[str, Twofold]:
        xx, xy, yy = (Twofold.product(a, b) for a, b in ((x, x), (x, y), (y, y)))
        return {"xy": xy, "sum": xx + xy, "difference": xx - xy, "product": xx * yy, "quotient": xy / xx}

    def exact(x: Fraction, y: Fraction) -> dict[str, tuple[Fraction, Fraction]]:
        """And of what size its terms are."""
        terms = x * x + abs(x * y)
        sums = {"sum": (x * x + x * y, terms), "difference": (x * x - x * y, terms)}
        return sums | {key: (x, abs(x)) for key, x in {"xy": x * y, "product": (x * y) ** 2, "quotient": y / x}.items()}

    found = {key: np.asarray(number, float).sum(0) for key, number in computed(x, y).items()}
    for i, numbers in enumerate(zip(x, y, strict=True)):
        for key, (value, size) in exact(*(Fraction(float(number)) for number in numbers)).items():
            assert abs(Fraction(found[key][i]) - value) <= size * (0 if key == "xy" else Fraction(1, 2**46)), key
