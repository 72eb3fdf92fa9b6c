"""Losses whose members see one another, written as a user would: with what `jaxloss.contract` has, and nothing else."""

from __future__ import annotations

import functools
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import close, mostly_slow, refuses, run
from jax import Array
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxloss
from jaxloss.contract import (
    AMOUNT,
    NUMBER,
    POSITIVE,
    SCORE,
    TARGET,
    ArrayLike,
    Holds,
    Units,
    all_members,
    loss,
    losses,
    mean_over,
)

VECTOR = Holds("score", core=1)


@loss
def info_nce(
    queries: ArrayLike,
    keys: ArrayLike,
    *,
    temperature: float | Array = 0.5,
    axis_name: Any = None,
    **units: Unpack[Units],
) -> Any:
    """Each query against the keys of all members: one loss per member."""

    def members(queries: Any, keys: Any, *, exists: Any, temperature: Any) -> Any:
        queries, keys = all_members(queries, keys)
        all_keys, candidate = all_members(keys, exists, axis_name=axis_name)
        temperature = jnp.broadcast_to(jnp.asarray(temperature, queries.dtype), queries.shape[:1])
        positive = jnp.sum(queries * keys, axis=-1) / temperature
        scores = queries @ all_keys.T / temperature[:, None]
        return jax.nn.logsumexp(jnp.where(candidate[None], scores, -jnp.inf), axis=-1) - positive

    inputs = {"queries": (queries, VECTOR), "keys": (keys, VECTOR)}
    options = {"temperature": (temperature, POSITIVE)}
    return losses(members, inputs, options=options, members=-2, axis_name=axis_name, **units)


@loss
def spread(
    y_true: ArrayLike, y_pred: ArrayLike, *, power: float | Array = 1.0, axis: Any = -1, **units: Unpack[Units]
) -> Any:
    """The distance of all pairs of members, in truth and in the prediction: one loss per set."""

    def members(y: Any, p: Any, *, exists: Any, power: Any) -> Any:
        y, p, exists = all_members(y.ravel(), p.ravel(), exists.ravel())
        pair = (exists[:, None] & exists[None]).astype(p.dtype)
        errors = ((y[:, None] - y[None]) - (p[:, None] - p[None])) ** 2
        return power * jnp.sum(pair * errors) / jnp.sum(pair)  # 0 / 0 in an empty set

    inputs = {"y_true": (y_true, NUMBER), "y_pred": (y_pred, SCORE)}
    return losses(members, inputs, options={"power": (power, POSITIVE)}, members=axis, **units)


def info_nce_of(q: np.ndarray, k: np.ndarray, temperature: Any = 0.5) -> np.ndarray:
    q, k = q.astype(np.float64), k.astype(np.float64)
    z = q @ k.T / np.broadcast_to(temperature, len(q))[:, None]
    return np.log(np.exp(z).sum(-1)) - np.diag(z)


def spread_of(y: np.ndarray, p: np.ndarray) -> float:
    y, p = y.astype(np.float64).ravel(), p.astype(np.float64).ravel()
    return (((y[:, None] - y) - (p[:, None] - p)) ** 2).mean()


def vectors(shape: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for _ in range(2)]


EXISTS = np.array([True, False, True, True, False, False])


def spoiled(arrays: list[np.ndarray], exists: np.ndarray, bad: float) -> list[np.ndarray]:
    return [np.where(exists.reshape(exists.shape + (1,) * (x.ndim - exists.ndim)), x, bad) for x in arrays]


# ---------------------------------------------------------------------------------------------------------------------
# One loss per member


def test_one_loss_per_member():
    q, k = vectors((2, 6, 3))
    want = np.stack([info_nce_of(*x) for x in zip(q, k, strict=True)])
    close(info_nce(q, k, reduction="none"), want, "losses", rtol=1e-5)
    close(info_nce(q[0], k[0]), want[0].mean(), "mean", rtol=1e-5)
    weights = np.arange(6, dtype=np.float32)
    close(info_nce(q[0], k[0], weights=weights), (weights * want[0]).sum() / weights.sum(), "weights", rtol=1e-5)
    close(
        info_nce(q, k, weights=np.array([1, 3], np.float32)),
        (want.mean(-1) * [1, 3]).sum() / 4,
        "weights of sets",
        rtol=1e-5,
    )
    both = info_nce(q, k, reduction=lambda l, w: jnp.stack([l, w]))
    close(both, np.stack([want, np.ones((2, 6))]), "a function", rtol=1e-5)
    temperatures: Any = np.linspace(0.5, 2, 6).astype(np.float32)
    want = info_nce_of(q[1], k[1], temperatures)
    close(info_nce(q, k, temperature=temperatures, reduction="none")[1], want, "an option for each member", rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_masked_member_is_neither_anchor_nor_candidate(bad: float):
    q, k = vectors((6, 3))

    def graded(q: Any, k: Any, where: Any, temperature: Any) -> Any:
        def mean(q: Any, k: Any, temperature: Any) -> Any:
            return info_nce(q, k, temperature=temperature, where=where)

        return jax.value_and_grad(mean, (0, 1, 2))(q, k, temperature)

    want = run(lambda q, k: graded(q, k, None, 0.5), q[EXISTS], k[EXISTS])
    value, (by_q, by_k, by_t) = run(lambda q, k: graded(q, k, EXISTS, 0.5), *spoiled([q, k], EXISTS, bad))
    close((value, (by_q[EXISTS], by_k[EXISTS], by_t)), want, "value and gradients")
    assert (by_q[~EXISTS] == 0).all()
    assert (by_k[~EXISTS] == 0).all()
    none = info_nce(*spoiled([q, k], EXISTS, bad), where=EXISTS, reduction="none")
    close(none, np.where(EXISTS, np.insert(info_nce_of(q[EXISTS], k[EXISTS]), [1, 3, 3], 0), 0), "none", rtol=1e-5)
    _, (by_q, by_k, by_t) = run(lambda q, k: graded(q, k, EXISTS & False, 0.5), *spoiled([q, k], EXISTS & False, bad))
    assert all((x == 0).all() for x in (by_q, by_k, by_t)), "all masked"


def test_sets_of_one_member_and_of_none():
    q, k = vectors((3, 1, 4))
    close(info_nce(q, k, reduction="none"), np.zeros((3, 1)), "one member", atol=1e-6)
    assert info_nce(q[:, :0], k[:, :0]) == 0
    assert info_nce(q[:, :0], k[:, :0], reduction="none").shape == (3, 0)
    assert spread(q[:, :0, 0], k[:, :0, 0], reduction="none").shape == (3,)
    assert spread(q[:, :0, 0], k[:, :0, 0], weights=np.ones(3)) == 0


# ---------------------------------------------------------------------------------------------------------------------
# One loss per set


def test_one_loss_per_set():
    y, p = vectors((3, 4, 2))
    want = np.array([spread_of(*x) for x in zip(y, p, strict=True)])
    close(spread(y, p, axis=(1, 2), reduction="none"), want, "sets", rtol=1e-5)
    moved = [np.moveaxis(x, 0, 1) for x in (y, p)]  # members on both sides of the axis of the sets
    close(spread(*moved, axis=(0, 2), reduction="none"), want, "members first", rtol=1e-5)
    close(spread(*moved, axis=(-1, 0), reduction="none"), want, "negative axes", rtol=1e-5)
    weights = np.array([1, 2, 5], np.float32)
    close(spread(y, p, axis=(1, 2), weights=weights), (weights * want).sum() / 8, "weights", rtol=1e-5)
    powers = np.array([1, 2, 3], np.float32)
    close(
        spread(y, p, axis=(1, 2), power=jnp.asarray(powers), reduction="none"),
        powers * want,
        "an option for each set",
        rtol=1e-5,
    )
    single = [spread(a, b, axis=-1, reduction="none") for a, b in zip(y, p, strict=True)]
    close(spread(y, p, axis=-1, reduction="none"), np.stack(single), "rows as sets", rtol=1e-6)


def test_a_set_without_members_is_not_counted():
    y, p = vectors((3, 4))
    where = np.array([[True, False, True, True], [False] * 4, [True] * 4])
    bad = spoiled([y, p], where, np.nan)
    kept = [spread_of(y[0][where[0]], p[0][where[0]]), spread_of(y[2], p[2])]

    def graded(y: Any, p: Any, power: Any) -> Any:
        return jax.value_and_grad(lambda p, power: spread(y, p, power=power, where=where), (0, 1))(p, power)

    value, (by_p, by_power) = run(graded, *bad, np.float32(2))
    close(value, 2 * np.mean(kept), "mean", rtol=1e-5)
    close(by_power, np.mean(kept), "gradient by an option", rtol=1e-5)
    assert np.isfinite(by_p).all()
    assert (by_p[~where] == 0).all()
    assert (by_p[0, where[0]] != 0).any()
    close(spread(*bad, where=where, reduction="none"), np.array([kept[0], 0, kept[1]]), "none", rtol=1e-5)
    close(spread(*bad, where=where, reduction="sum_over_batch_size"), np.mean(kept), "over the sets", rtol=1e-5)
    close(
        spread(*bad, where=where, weights=np.array([1, 9, 3], np.float32)),
        (kept[0] + 3 * kept[1]) / 4,
        "weights",
        rtol=1e-5,
    )
    close(spread(y, p, where=np.array([True, False, True])), np.mean([spread_of(y[0], p[0]), kept[1]]), "sets", 1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# Derivatives, transformations


@pytest.mark.parametrize("function", [info_nce, lambda q, k, **options: spread(q, k, axis=(-2, -1), **options)])
def test_derivatives_and_transformations(function: Any):
    q, k = vectors((4, 3, 2))
    where = np.array([[True, True, False], [True] * 3, [False] * 3, [False, True, True]])
    direction = vectors((4, 3, 2), seed=1)[0]

    def value(k: Any, q: Any = q, where: Any = where) -> Any:
        return function(q, k, where=where if function is info_nce else jnp.broadcast_to(where[..., None], q.shape))

    def each(q: Any, k: Any, where: Any) -> Any:
        return jax.value_and_grad(value)(k, q, where)

    def all_ways(q: Any, k: Any) -> Any:
        loop = [each(*x) for x in zip(q, k, where, strict=True)]
        mapped = jax.vmap(each)(q, k, where)
        scanned = jax.lax.scan(lambda none, x: (none, each(*x)), None, (q, k, where))[1]
        hessian = jax.hessian(value)(k)
        return loop, mapped, scanned, jax.grad(value)(k), jax.jvp(value, (k,), (direction,))[1], hessian

    loop, mapped, scanned, grad, along, hessian = run(all_ways, q, k)
    want = jax.tree.map(lambda *x: np.stack(x), *loop)
    close(mapped, want, "vmap")
    close(scanned, want, "scan")
    close(along, (grad * direction).sum(), "forward mode", rtol=1e-5)
    step = 1e-2
    ahead, behind = (value(k + sign * step * direction) for sign in (1, -1))
    close((ahead - behind) / (2 * step), along, "differences", rtol=1e-2)
    slopes = [jax.grad(value)(k + sign * step * direction) for sign in (1, -1)]
    bend = np.einsum("abcdef,def->abc", hessian, direction)
    close((slopes[0] - slopes[1]) / (2 * step), bend, "differences of the gradient", rtol=2e-2, atol=2e-3)
    assert (hessian[2] == 0).all()


def test_half_precision_and_checked():
    q, k = vectors((6, 3))
    half = [jnp.asarray(x, jnp.bfloat16) for x in (q, k)]
    assert info_nce(*half).dtype == np.float32
    close(info_nce(*half), info_nce_of(*(np.asarray(x, np.float32) for x in half)).mean(), "bfloat16", rtol=1e-5)
    bad = spoiled([q, k], EXISTS, np.nan)
    assert np.isfinite(jaxloss.checked(info_nce)(*bad, where=EXISTS))
    with pytest.raises(ValueError, match=r"queries must be finite: 9 of 18 are not, the first at index \(1, 0\)"):
        jaxloss.checked(info_nce)(*bad)


# ---------------------------------------------------------------------------------------------------------------------
# Outside the domain


@loss
def share(
    y_true: ArrayLike, y_pred: ArrayLike, *, size: ArrayLike | None = None, quick: bool = True, **units: Unpack[Units]
) -> Any:
    """How much of a class is missed: one loss for each class of a set."""

    def members(y: Any, *rest: Any, exists: Any) -> Any:
        w = exists.astype(y.dtype)[:, None] * (rest[0][:, None] if len(rest) > 1 else 1.0)
        return jnp.sum(w * y * (1 - rest[len(rest) - 1]), axis=0)

    inputs = {
        "y_true": (y_true, TARGET._replace(core=1, alone=True)),
        "size": (size, AMOUNT),
        "y_pred": (y_pred, Holds("score", TARGET.domain, core=1, alone=True)),
    }
    given = {name: x for name, x in inputs.items() if x[0] is not None}
    return losses(members, given, members=-2, outputs=1, spreads_nan=quick, **units)


@pytest.mark.parametrize("quick", [False, True])
def test_outside_the_domain(quick: bool):
    rng = np.random.default_rng(0)
    y, p = (rng.random((2, 5, 3)).astype(np.float32) for _ in range(2))
    size = np.ones((2, 5), np.float32)
    want = (y * (1 - p)).sum(1)

    def graded(y: Any, p: Any, size: Any) -> Any:
        def summed(*arrays: Any) -> Any:
            found = share(*arrays[:2], size=arrays[2], quick=quick, reduction="none")
            return jnp.sum(found), found

        return jax.value_and_grad(summed, (0, 1, 2), has_aux=True)(y, p, size)

    close(graded(y, p, size)[0][1], want, "inside")
    for value in (2.0, -1e-3, np.nan, np.inf):
        for i in (0, 1):  # one class of one set is lost
            arrays = [y.copy(), p.copy(), size]
            arrays[i][1, 2, 0] = value
            (_, found), (by_y, by_p, by_size) = run(graded, *arrays)
            assert (np.isnan(found) == [[False] * 3, [True, False, False]]).all(), value
            close(found[0], want[0], "the other set")
            assert all(np.isfinite(g).all() for g in (by_y, by_p, by_size)), value
            assert (by_y[1, :, 0] == 0).all()
            assert (by_p[1, :, 0] == 0).all()
            assert (by_p[1, :, 1] != 0).all() or not quick
        arrays = [y, p, size.copy()]
        arrays[2][0, 1] = value if np.isnan(value) else -abs(value)
        (_, found), slopes = run(graded, *arrays)
        assert (np.isnan(found) == [[True], [False]]).all()
        assert all((g[0] == 0).all() for g in slopes)


@pytest.mark.parametrize(("selects", "seen"), [(False, 1.0), (True, 7.0)])
def test_what_members_hold_that_do_not_exist(selects: bool, seen: float):
    """Ones, but for values of a formula that promises to select; this one breaks the promise to tell what it sees."""

    def total(x: Any) -> Any:
        inputs, exists = {"y_pred": (x, SCORE)}, np.array([True, False])
        return losses(lambda x, exists: jnp.sum(x), inputs, members=0, where=exists, selects=selects)

    x = np.array([2.0, 7.0], np.float32)
    assert total(x) == 2 + seen
    value, grad = run(jax.value_and_grad(total), x)
    assert value == 2 + 1
    assert grad.tolist() == [1, 0]


def test_what_a_formula_returns_is_checked():
    def call(formula: Any, **options: Any) -> Any:
        return losses(formula, {"y_pred": (np.ones((2, 3), np.float32), SCORE)}, **options)

    refuses(ValueError, ("returned", "(2,)", "() or (3,)"), call, lambda p, exists: jnp.ones(2), members=1)
    refuses(ValueError, ("returned", "()", "1"), call, lambda p, exists: jnp.sum(p), members=1, outputs=1)
    assert call(lambda p, exists: p[:, None] * jnp.ones((1, 4)), members=1, outputs=1, reduction="none").shape == (
        2,
        3,
        4,
    )
    assert call(lambda p: p * jnp.ones(4), outputs=1, reduction="none").shape == (2, 3, 4)
    refuses(ValueError, ("returned", "()", "(2, 3)", "not elementwise"), call, jnp.sum, elementwise=True)
    refuses(ValueError, ("elementwise", "without members"), call, lambda p, exists: p, members=1, elementwise=True)
    refuses(ValueError, ("axis 2", "y_pred", "2"), call, lambda p, exists: p, members=2)
    refuses(ValueError, ("(1, -1)", "different"), call, lambda p, exists: p, members=(1, -1))


def test_shapes_are_refused():
    q, k = vectors((4, 6, 3))
    refuses(ValueError, ("info_nce", "where", "(6,)", "(4, 6)", "left"), info_nce, q, k, where=EXISTS)
    refuses(ValueError, ("info_nce", "weights", "(6,)", "(4, 6)"), info_nce, q, k, weights=np.ones(6))
    refuses(ValueError, ("spread", "weights", "(4, 6)", "(4,)"), spread, q[..., 0], k[..., 0], weights=np.ones((4, 6)))
    refuses(ValueError, ("temperature", "(3,)", "(4, 6)"), info_nce, q, k, temperature=jnp.ones(3))
    refuses(ValueError, ("queries", "(4, 6, 3)", "(4, 5, 3)"), info_nce, q, k[:, :5])


# ---------------------------------------------------------------------------------------------------------------------
# Spread over devices


def devices(kind: AxisType) -> jax.sharding.Mesh:
    return jax.make_mesh((2, 4), ("sets", "members"), axis_types=(kind, kind))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize(
    "layout", mostly_slow((("sets", None), (None, "members"), ("sets", "members")), ("sets", "members"))
)
def test_sharded_equals_whole(kind: AxisType, layout: tuple[Any, Any]):
    q, k = vectors((4, 8, 3))
    where = np.random.default_rng(1).random((4, 8)) < 0.7
    weights = np.arange(1, 5, dtype=np.float32)

    def both(q: Any, k: Any, where: Any, weights: Any) -> Any:
        def of_members(q: Any, k: Any) -> Any:
            return info_nce(q, k, where=where, weights=weights)

        def of_sets(q: Any, k: Any) -> Any:
            return spread(q, k, where=where, weights=weights, axis=(1, 2))

        return [jax.value_and_grad(f, (0, 1))(q, k) for f in (of_members, of_sets)]

    want = run(both, q, k, where, weights)
    mesh = devices(kind)
    placed = [jax.device_put(x, NamedSharding(mesh, P(*layout))) for x in (q, k, where)]
    got = jax.jit(both)(*placed, jax.device_put(weights, NamedSharding(mesh, P(layout[0]))))
    close(got, want, f"over {layout}", rtol=2e-6)
    if kind is AxisType.Explicit:
        assert all(g.sharding.is_equivalent_to(placed[0].sharding, g.ndim) for _, slopes in got for g in slopes)


def test_members_of_several_devices_in_shard_map():
    """Each device has some anchors, and all candidates; masks differ, one device has no member at all."""
    q, k = vectors((16, 3))
    where = np.arange(16) % 3 != 1
    where[4:6] = False
    mesh, axes = devices(AxisType.Auto), ("sets", "members")

    def mean(q: Any, k: Any, where: Any) -> Any:
        return info_nce(q, k, where=where, axis_name=axes, reduction=mean_over(axes))

    spec = {"mesh": mesh, "in_specs": (P(axes), P(axes), P(axes))}
    graded = functools.partial(jax.value_and_grad, argnums=(0, 1))
    outside = graded(jax.shard_map(mean, **spec, out_specs=P()))
    inside = jax.shard_map(graded(mean), **spec, out_specs=(P(), (P(axes), P(axes))))
    want = run(graded(lambda q, k: info_nce(q, k, where=where)), q, k)
    bad = spoiled([q, k], where, np.nan)
    got, also, none = run(lambda *a: (outside(*a), inside(*a), outside(*a[:2], where & False)), *bad, where)
    close(got, want, "differentiated outside", rtol=2e-6)
    close(also, want, "differentiated inside", rtol=2e-6)
    close(none, jax.tree.map(np.zeros_like, want), "all masked", atol=0)
