"""Checked mode: one error for bad values, wherever the loss is called; and nothing of it outside that mode."""

from __future__ import annotations

import concurrent.futures
import inspect
import re
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ROWS, Row
from contract import close, mostly_slow, refuses, same_family, same_in_family, when
from jax.experimental import checkify
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxloss
from jaxloss import BadValueError, checked, contract
from jaxloss._contract import values

NAN, INF = np.nan, np.inf


# What makes two rows alike here is the code on the way to `losses`; `RULES` has the rest.
ALL_ROWS = [pytest.param(row, id=row.id, marks=marks) for row, marks in when(ROWS, same_family, same_in_family)]


def refused(message: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """The call raises a BadValueError of exactly this message."""
    with pytest.raises(BadValueError) as caught:
        call(*args, **kwargs)
    assert str(caught.value) == message


# ---------------------------------------------------------------------------------------------------------------------
# Every loss


def good(row: Row, size: int) -> list[np.ndarray]:
    """A batch of which every value is in the domain. The rows have distributions that do not quite sum to 1."""
    arrays = list(row.make((size,)))
    if row.name == "nll":
        z = arrays[1]
        arrays[1] = z - np.log(np.exp(z).sum(-1, keepdims=True))
    elif max(row.cores) == 1:
        for i, x in enumerate(arrays):
            if x.dtype.kind == "f" and (x >= 0).all() and np.allclose(x.sum(-1), 1.04):
                arrays[i] = x / np.float32(1.04)
    return arrays


@pytest.mark.parametrize("row", ALL_ROWS)
def test_every_loss(row: Row):
    """Good values pass; NaN is reported, but not under a mask; what is poisoned is reported, and by a rule."""
    loss = row.judged(jaxloss.LOSSES[row.name])
    size = len(row.outside[0]) if len(row.outside) else 2
    arrays, every = good(row, size), np.ones(size, bool)
    call = checked(lambda mask, *arrays: loss(*arrays, **row.options, where=mask, reduction="none"))
    close(call(every, *arrays), row.losses(tuple(arrays)), "checked")
    for i in row.differentiable:
        x = arrays[i].copy()
        x.flat[0] = np.nan
        bad = [*arrays[:i], x, *arrays[i + 1 :]]
        words = (f"{row.name}: {row.names[i]} must be ", f": 1 of {x.size} is not, ", f"{(0,) * x.ndim}, which is nan.")
        refuses(BadValueError, words, call, every, *bad)
        call(np.arange(size) > 0, *bad)
    if len(row.outside):
        with pytest.raises(BadValueError, match=f"^{row.name}: ") as caught:
            call(every, *row.outside)
        assert "the loss must be a number" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------------------
# Every rule: loss, options, a good batch; then what is put into it and where, and the message

LEAVE_OUT = " Leave others out with where=, as in where=y_true != -100."
FOR_LOGITS = " For logits give from_logits=True."
HALF = np.full((2, 2), 0.5, np.float32)
EYE = np.eye(2, dtype=np.float32)
ZERO = np.zeros((2, 2), np.float32)
ONE = np.ones(2, np.float32)
BOXES = np.array([[0, 0, 2, 2], [1, 1, 3, 4]], np.float32)
LABELS = np.array([0, 1])
SEQUENCES = (np.array([[1, 2], [2, 1]]), np.zeros((2, 3, 3), np.float32))
LENGTHS = {"label_lengths": np.array([2, 2]), "logit_lengths": np.array([3, 2])}

Spoiled = tuple[int | str, Any, Any, str]
RULES: list[tuple[str, dict[str, Any], tuple[Any, ...], list[Spoiled]]] = [
    (
        "sparse_cce",
        {},
        (LABELS, HALF),
        [
            (0, 1, 2, f"y_true must be in 0..1: 1 of 2 is not, the first at index (1,), which is 2.{LEAVE_OUT}"),
            (0, slice(None), -1, f"y_true must be in 0..1: 2 of 2 are not"
             f", the first at index (0,), which is -1.{LEAVE_OUT}"),
            (1, (1, 0), 1.5, f"y_pred must be in [0, 1]: 1 of 4 is not"
             f", the first at index (1, 0), which is 1.5.{FOR_LOGITS}"),
            (1, (0, 1), -0.5, f"y_pred must be in [0, 1]: 1 of 4 is not"
             f", the first at index (0, 1), which is -0.5.{FOR_LOGITS}"),
            (1, (1, 0), 0.25, "the sum of each row of y_pred must be 1: 1 of 2 is not, the first at index (1,), "
             "which is 0.75."),
        ],
    ),
    (
        "sparse_cce",
        {"from_logits": True, "class_weights": ONE, "label_smoothing": np.float32(0)},
        (LABELS, ZERO),
        [
            (1, (1, 1), INF, "y_pred must be finite or -inf: 1 of 4 is not, the first at index (1, 1), which is inf."),
            ("class_weights", 1, NAN, "class_weights must be finite: 1 of 2 is not, the first at index (1,), "
             "which is nan."),
            ("label_smoothing", (), 1.5, "label_smoothing must be between 0 and 1, got 1.5."),
        ],
    ),
    (
        "cce",
        {"axis": 0},
        (EYE, HALF),
        [
            (0, (1, 0), 1, "the sum of each row of y_true must be 1: 1 of 2 is not, the first at index (0,), "
             "which is 2."),
            (1, (0, 1), 2, f"y_pred must be in [0, 1]: 1 of 4 is not"
             f", the first at index (0, 1), which is 2.{FOR_LOGITS}"),
        ],
    ),
    (
        "bce",
        {"pos_weight": ONE, "weights": ONE},
        (HALF, HALF),
        [
            (0, (0, 0), 2, "y_true must be in [0, 1]: 1 of 4 is not, the first at index (0, 0), which is 2."),
            (1, (1, 0), 1.2, f"y_pred must be in [0, 1]: 1 of 4 is not"
             f", the first at index (1, 0), which is 1.2.{FOR_LOGITS}"),
            ("pos_weight", 1, -1, "pos_weight must be finite and at least 0: 1 of 2 is not, the first at index (1,), "
             "which is -1."),
            ("weights", 0, INF, "weights must be finite: 1 of 2 is not, the first at index (0,), which is inf."),
        ],
    ),
    (
        "nll",
        {},
        (LABELS, np.log(HALF)),
        [
            (0, 0, 7, f"y_true must be in 0..1: 1 of 2 is not, the first at index (0,), which is 7.{LEAVE_OUT}"),
            (1, (0, 0), 1, "y_pred must be the logarithm of a probability, so at most 0: 1 of 4 is not, the first at "
             "index (0, 0), which is 1. For logits give jax.nn.log_softmax(logits)."),
            (1, 1, 0, "the sum of each row of y_pred must be 1: 1 of 2 is not, the first at index (1,), which is 2."),
        ],
    ),
    (
        "hinge",
        {"margin": np.float32(1)},
        (np.array([-1.0, 1.0], np.float32), ONE),
        [
            (0, 1, 2, "y_true must be -1 or +1 (or 0, for -1): 1 of 2 is not, the first at index (1,), which is 2."),
            (1, 0, -INF, "y_pred must be finite: 1 of 2 is not, the first at index (0,), which is -inf."),
            ("margin", (), -1, "margin must be finite and at least 0, got -1."),
        ],
    ),
    (
        "categorical_hinge",
        {},
        (EYE, ZERO),
        [
            (0, (0, 0), 0.5, "y_true must be 0 or 1: 1 of 4 is not, the first at index (0, 0), which is 0.5."),
            (0, (1, 0), 1, "the sum of each row of y_true must be 1: 1 of 2 is not, the first at index (1,), "
             "which is 2."),
        ],
    ),
    (
        "multilabel_margin",
        {},
        (EYE, ZERO),
        [(0, (1, 1), -1, "y_true must be 0 or 1: 1 of 4 is not, the first at index (1, 1), which is -1.")],
    ),
    (
        "kl_divergence",
        {"from_logs": True},
        (np.log(HALF), np.log(HALF)),
        [
            (0, (0, 0), 1, "y_true must be the logarithm of a probability, so at most 0: 1 of 4 is not, the first at "
             "index (0, 0), which is 1."),
            (1, 0, -INF, "the sum of each row of y_pred must be 1: 1 of 2 is not, the first at index (0,), "
             "which is 0."),
        ],
    ),
    (
        "huber",
        {"delta": ONE[0]},
        (ONE, ONE),
        [
            (1, 1, INF, "y_pred must be finite: 1 of 2 is not, the first at index (1,), which is inf."),
            ("delta", (), -2, "delta must be at least 0, got -2."),
            ("delta", (), NAN, "delta must be at least 0, got nan."),
        ],
    ),
    (
        "charbonnier",
        {"scale": ONE[0]},
        (ONE, ONE),
        [("scale", (), 0, "scale must be above 0 and finite, got 0.")],
    ),
    (
        "msle",
        {},
        (ONE, ONE),
        [(1, 0, -1, "y_pred must be finite and above -1: 1 of 2 is not, the first at index (0,), which is -1.")],
    ),
    (
        "gaussian_nll",
        {},
        (ONE, ONE, ONE),
        [(2, 1, -1, "variance must be finite and at least 0: 1 of 2 is not, the first at index (1,), which is -1.")],
    ),
    (
        "poisson_nll",
        {},
        (ONE, ONE),
        [
            (0, 0, -3, "y_true must be finite and at least 0: 1 of 2 is not, the first at index (0,), which is -3."),
            (1, 1, -1, "rate must be finite and at least 0: 1 of 2 is not, the first at index (1,), which is -1."),
        ],
    ),
    (
        "wiou_v2",
        {"iou_loss_mean": ONE[0]},
        (BOXES, BOXES),
        [
            (1, (1, 3), -1, "the width and height of the boxes in y_pred must be at least 0: 1 of 4 is not, the first "
             "at index (1, 1), which is -2. Boxes are x1, y1, x2, y2."),
            ("iou_loss_mean", (), -1, "iou_loss_mean must be finite and at least 0, got -1."),
        ],
    ),
    (
        "ctc",
        LENGTHS,
        SEQUENCES,
        [
            (0, (1, 0), 0, "labels must be in 0..2 and not the blank, 0: 1 of 4 is not, the first at index (1, 0), "
             "which is 0."),
            (0, (1, 0), 3, "labels must be in 0..2 and not the blank, 0: 1 of 4 is not, the first at index (1, 0), "
             "which is 3."),
            (0, (1, 0), 1, "the number of frames must be that of labels and repeats, or more: 1 of 2 is not, the "
             "first at index (1,), which is 2."),
            (1, (1, 1), NAN, "logits must be finite or -inf: 3 of 18 are not, the first at index (1, 1, 0), "
             "which is nan."),
            (1, (1, 2), NAN, ""),  # padding
            ("label_lengths", 0, 3, "label_lengths must be in 0..2: 1 of 2 is not, the first at index (0,), "
             "which is 3."),
            ("logit_lengths", 1, -1, "logit_lengths must be in 0..3: 1 of 2 is not, the first at index (1,), "
             "which is -1."),
        ],
    ),
    (
        "rnnt",
        LENGTHS,
        (SEQUENCES[0], np.zeros((2, 3, 3, 3), np.float32)),
        [
            (1, (0, 0, 0), NAN, "logits must be finite or -inf: 3 of 54 are not, the first at index (0, 0, 0, 0), "
             "which is nan."),
            (1, (1, 2, 0), NAN, ""),
            ("logit_lengths", 1, 0, "the number of frames must be above 0 where there are labels: 1 of 2 is not, the "
             "first at index (1,), which is 0."),
        ],
    ),
    (
        "linear_cce",
        {"bias": np.zeros(3, np.float32), "softcap": np.float32(5)},
        (LABELS, HALF, np.ones((2, 3), np.float32)),
        [
            (0, 1, 3, f"y_true must be in 0..2: 1 of 2 is not, the first at index (1,), which is 3.{LEAVE_OUT}"),
            (1, (0, 1), NAN, "hidden must be finite: 1 of 4 is not, the first at index (0, 1), which is nan."),
            (2, (1, 2), INF, "kernel must be finite: 1 of 6 is not, the first at index (1, 2), which is inf."),
            ("bias", 0, INF, "bias must be finite or -inf: 1 of 3 is not, the first at index (0,), which is inf."),
            ("bias", 0, -INF, ""),
            ("softcap", (), -1, "softcap must be above 0 and finite, got -1."),
        ],
    ),
    (
        "dice",
        {"axis": 1, "where": np.array([[True, True], [True, False]])},
        (EYE, HALF),
        [
            (0, (0, 0), 2, "y_true must be in [0, 1]: 1 of 3 is not, the first at index (0, 0), which is 2."),
            (1, (1, 0), NAN, "y_pred must be in [0, 1]: 1 of 3 is not, the first at index (1, 0), which is nan. For "
             "logits give from_logits=True."),
            (1, (1, 1), NAN, ""),
        ],
    ),
    (
        "lovasz_hinge",
        {"axis": 1},
        (EYE, HALF),
        [(0, (1, 1), 0.5, "y_true must be 0 or 1: 1 of 4 is not, the first at index (1, 1), which is 0.5.")],
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options", "arrays", "spoiled"), RULES, ids=[f"{rule[0]}-{i}" for i, rule in enumerate(RULES)]
)
def test_rules(name: str, options: dict[str, Any], arrays: tuple[Any, ...], spoiled: list[Spoiled]):
    call = checked(jaxloss.LOSSES[name])
    assert np.isfinite(call(*arrays, **options))
    for which, place, value, message in spoiled:
        given: dict[Any, Any] = {**dict(enumerate(arrays)), **options}
        given[which] = np.array(given[which])
        given[which][place] = value
        if not given[which].ndim:  # one of NumPy is a constant, and refused without a look at any array
            given[which] = jnp.asarray(given[which])
        bad = [given.pop(i) for i in range(len(arrays))]
        if message:
            refused(f"{name}: {message}", call, *bad, **given)
        else:
            call(*bad, **given)


def test_infeasible_pairs_may_be_declared_free():
    labels, logits = np.array([[1, 1]]), np.zeros((1, 2, 3), np.float32)
    assert checked(jaxloss.ctc)(labels, logits, infeasible="zero") == 0


def test_lists_and_numbers():
    refused("mse: y_pred must be finite: 1 of 2 is not, the first at index (0,), which is nan.",
            checked(jaxloss.mse), [1.0, 2.0], [NAN, 2.0])  # fmt: skip
    refused("mse: y_true must be finite, got inf.", checked(jaxloss.mse), INF, 0.0)
    refuses(ValueError, ("huber: delta must be at least 0, got -1.0.",), checked(jaxloss.huber), 1.0, 1.0, delta=-1.0)


@pytest.mark.parametrize("dtype", mostly_slow((np.uint8, np.int8), np.uint8))
def test_labels_of_narrow_dtypes(dtype: type):
    logits = np.zeros((3, 300), np.float32)
    call = checked(jaxloss.sparse_cce)
    close(call(np.array([0, 7, 100], dtype), logits, from_logits=True), np.log(300), "good labels")
    few = np.array([0, 7, 100], dtype), logits[:, :9]
    refused(f"sparse_cce: y_true must be in 0..8: 1 of 3 is not, the first at index (2,), which is 100.{LEAVE_OUT}",
            call, *few, from_logits=True)  # fmt: skip


def test_half_precision_is_given_its_rounding():
    exact = np.exp(np.random.default_rng(0).normal(size=(64, 4)))
    p = (exact / exact.sum(-1, keepdims=True)).astype(jnp.bfloat16)
    assert abs(p.astype(np.float64).sum(-1) - 1).max() > 1e-3
    checked(jaxloss.sparse_cce)(np.zeros(64, int), p)


# ---------------------------------------------------------------------------------------------------------------------
# Wherever the loss is called

GOOD = np.arange(16) % 4
BAD = np.where(np.arange(16) == 9, 7, GOOD)
LOGITS = np.linspace(-1, 1, 64, dtype=np.float32).reshape(16, 4)
MESSAGE = f"sparse_cce: y_true must be in 0..3: 1 of 16 is not, the first at index {{}}, which is 7.{LEAVE_OUT}"


def loss(z: Any, y: Any) -> Any:
    return jaxloss.sparse_cce(y, z, from_logits=True)


def over_devices(z: Any, y: Any) -> Any:
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    axes = ("data", "model")

    def mean(z: Any, y: Any) -> Any:
        return jaxloss.sparse_cce(y, z, from_logits=True, reduction=jaxloss.mean_over(axes))

    return jax.shard_map(mean, mesh=mesh, in_specs=P(axes), out_specs=P())(z, y)


def scanned(z: Any, y: Any) -> Any:
    return jax.lax.scan(lambda total, both: (total + loss(*both), None), 0.0, (z, y))[0]


def scanned_option(z: Any, y: Any) -> Any:
    """The option of each step is bad, not its arrays."""

    def step(total: Any, both: Any) -> Any:
        z, y = both
        return total + jaxloss.huber(z, z + 1, delta=(3 - y).astype(jnp.float32)), None

    return jax.lax.scan(step, 0.0, (z, y))[0]


def looped(z: Any, y: Any) -> Any:
    return jax.lax.fori_loop(0, 2, lambda i, total: total + loss(z, y), 0.0)


def branched(z: Any, y: Any) -> Any:
    return jax.lax.cond(z[0, 0] < 0, loss, lambda z, y: 0.0, z, y)


CONTEXTS: dict[str, tuple[Callable[..., Any], str]] = {
    "eager": (checked(loss), "(9,)"),
    "jit inside": (checked(jax.jit(loss)), "(9,)"),
    "value_and_grad inside": (checked(jax.jit(jax.value_and_grad(loss))), "(9,)"),
    "grad outside": (jax.grad(checked(loss)), "(9,)"),
    "hessian outside": (jax.hessian(checked(loss)), "(9,)"),
    "vmap inside": (checked(jax.vmap(loss)), "(9,)"),
    "vmap outside": (jax.vmap(checked(loss)), "(9,)"),
    "vmap of grad outside": (jax.vmap(jax.grad(checked(loss))), "(9,)"),
    "grad of vmap outside": (jax.grad(lambda z, y: jax.vmap(checked(loss))(z, y).sum()), "(9,)"),
    "jit of vmap of grad inside": (checked(jax.jit(jax.vmap(jax.grad(loss)))), "(9,)"),
    "checkpoint": (checked(jax.grad(jax.checkpoint(loss))), "(9,)"),
    "fori_loop": (checked(jax.grad(looped)), "(9,)"),
    "cond": (checked(jax.value_and_grad(branched)), "(9,)"),
    "nested": (checked(lambda z, y: checked(jax.jit(checked(loss)))(z, y)), "(9,)"),
}


SELDOM = ("hessian outside", "grad of vmap outside", "value_and_grad inside", "fori_loop")


@pytest.mark.parametrize("context", [pytest.param(c, marks=[pytest.mark.slow] * (c in SELDOM)) for c in CONTEXTS])
def test_contexts(context: str):
    call, index = CONTEXTS[context]
    try:
        got = call(LOGITS, GOOD)
    except NotImplementedError as error:  # jax 0.7.2
        pytest.skip(f"this jax has no effects there: {error}")
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(got))
    refused(MESSAGE.format(index), call, LOGITS, BAD)


def test_the_value_and_the_gradient_are_those_without_checks():
    close(checked(jax.value_and_grad(loss))(LOGITS, GOOD), jax.value_and_grad(loss)(LOGITS, GOOD), "inside")
    close(jax.value_and_grad(checked(loss))(LOGITS, GOOD), jax.value_and_grad(loss)(LOGITS, GOOD), "outside")


def test_vmap_counts_the_whole_batch():
    """Of all examples and all maps; an index begins with the mapped axes."""
    many = np.stack([GOOD, BAD, BAD])
    call = jax.vmap(checked(loss), in_axes=(None, 0))
    refused(MESSAGE.format("(1, 9)").replace("1 of 16 is", "2 of 48 are"), call, LOGITS, many)
    by_option = jax.vmap(checked(lambda delta: jaxloss.huber(LOGITS, 0 * LOGITS, delta=delta)))
    refused("huber: delta must be at least 0: 1 of 3 is not, the first at index (2,), which is -1.",
            by_option, np.array([1.0, 0.0, -1.0], np.float32))  # fmt: skip


def test_scan_reports_the_step_that_breaks_a_rule():
    """Also where it is differentiated, which drops a check that nothing depends on."""
    for steps, message in (
        (scanned, f"sparse_cce: y_true must be in 0..3, got 7.{LEAVE_OUT}"),
        (scanned_option, "huber: delta must be at least 0, got -4."),
    ):
        call = checked(jax.jit(jax.grad(steps)))
        assert np.isfinite(call(LOGITS, GOOD)).all()
        refused(message, call, LOGITS, BAD)
        refused(message, jax.grad(checked(steps)), LOGITS, BAD)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [scanned, scanned_option])
def test_no_order_of_transformations_is_silent(steps: Callable[..., Any]):
    of_one = jax.checkpoint(steps)

    def mapped(z: Any, y: Any) -> Any:
        return jax.vmap(steps)(z[None], y[None]).sum()

    orders = [jax.grad(steps), jax.value_and_grad(mapped), jax.vmap(jax.grad(steps), in_axes=(0, None))]
    orders += [jax.grad(jax.jit(steps)), jax.hessian(steps), jax.grad(of_one), jax.grad(jax.checkpoint(mapped))]
    for order in orders:
        z = LOGITS[None] if order is orders[2] else LOGITS
        try:
            checked(order)(z, GOOD)
        except NotImplementedError:  # checkpoint in jax 0.7.2
            continue
        refuses(BadValueError, ("must be ",), checked(order), z, BAD)


def test_shard_map():
    call = checked(jax.jit(jax.value_and_grad(over_devices)))
    close(call(LOGITS, GOOD), jax.value_and_grad(loss)(LOGITS, GOOD), "shard_map")
    refused(f"sparse_cce: y_true must be in 0..3: 1 of 2 is not"
     f", the first at index (1,) of shard 4, which is 7.{LEAVE_OUT}",
            call, LOGITS, BAD)  # fmt: skip


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_sharded_arrays(kind: AxisType):
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(kind, kind))
    z = jax.device_put(LOGITS, NamedSharding(mesh, P("data", "model")))
    good, bad, mask = (jax.device_put(x, NamedSharding(mesh, P("data"))) for x in (GOOD, BAD, BAD < 4))
    call = checked(jax.value_and_grad(lambda z, y, m: jaxloss.sparse_cce(y, z, from_logits=True, where=m)))
    close(call(z, good, mask)[0], loss(LOGITS[BAD < 4], GOOD[BAD < 4]), "sharded")
    call(z, bad, mask)
    refused(MESSAGE.format("(9,)"), call, z, bad, jnp.ones_like(mask))


STAGED: dict[str, Callable[..., Any]] = {
    "jit": jax.jit(checked(loss)),
    "grad of jit": jax.grad(jax.jit(checked(loss))),
    "scan": lambda z, y: jax.lax.scan(lambda c, both: (c, checked(loss)(*both)), 0.0, (z, y)),
    "checkpoint": jax.checkpoint(checked(loss)),
}


@pytest.mark.parametrize("context", STAGED)
def test_where_no_error_can_come_out_the_cure_is_named(context: str):
    words = ("Wrap the outermost function, as in jaxloss.checked(jax.jit(step))",)
    refuses(RuntimeError, words, STAGED[context], LOGITS, GOOD)
    checked(lambda z, y: STAGED[context](z, y))  # the cure
    refuses(RuntimeError, words, STAGED[context], LOGITS, GOOD)


def test_the_outermost_cures():
    step = jax.jit(checked(loss))
    refused(MESSAGE.format("(9,)"), checked(step), LOGITS, BAD)


# ---------------------------------------------------------------------------------------------------------------------
# Programs with and without checks


def test_programs_are_never_mixed_up():
    """One that was traced without checks does not serve with them, nor the other way round."""
    body = jax.jit(jax.checkpoint(lambda total, both: (total + loss(*both), None)))
    step = jax.jit(lambda z, y: jax.lax.scan(body, 0.0, (z, y))[0])
    for _ in range(2):
        assert np.isnan(step(LOGITS, BAD))
        refused(f"sparse_cce: y_true must be in 0..3, got 7.{LEAVE_OUT}", checked(step), LOGITS, BAD)


def test_other_threads_are_not_checked():
    def elsewhere(z: Any, y: Any) -> Any:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            losses.append(pool.submit(loss, LOGITS, BAD).result())
        return loss(z, y)

    losses: list[Any] = []
    refused(MESSAGE.format("(9,)"), checked(elsewhere), LOGITS, BAD)
    assert np.isnan(losses[0])


def test_one_trace():
    traces = []

    def counted(z: Any, y: Any, power: int) -> Any:
        traces.append(power)
        return loss(z, y) ** power

    for _ in range(2):
        checked(counted)(LOGITS, GOOD, power=2)
    assert len(traces) == 1
    checked(counted)(LOGITS, GOOD, power=3)
    assert traces == [2, 3]


def test_the_checks_of_others_are_raised_too():
    def other(x: Any) -> Any:
        checkify.check(jnp.all(x > 0), "x is {x}", x=x[0])
        return jaxloss.mse(x, x)

    refuses(BadValueError, ("x is -1.0",), checked(other), -np.ones(2, np.float32))


def plain(row: Row, wrapped: Callable[..., Any]) -> jax.stages.Lowered:
    """The program of a loss, traced anew."""
    raw = row.judged(getattr(wrapped, "__wrapped__"))  # noqa: B009
    names = {k: jnp.asarray(v) if isinstance(v, np.ndarray) else v for k, v in row.options.items()}
    options = {"weights": None, "where": None, "reduction": "mean"}

    def program(*arrays: Any) -> Any:
        return raw(*map(jnp.asarray, arrays), **{**options, **names})

    return jax.jit(program).lower(*row.make((2,)))


@pytest.mark.parametrize("row", ALL_ROWS)
def test_outside_the_mode_no_program_differs(row: Row, monkeypatch: pytest.MonkeyPatch):
    """Nothing of `values` is reached, and the program of a loss is that of the same loss without any rule for it."""
    loss = jaxloss.LOSSES[row.name]
    reached = [name for name, x in vars(values).items() if inspect.isfunction(x) and x.__module__ == values.__name__]
    assert {"report", "inspect", "inspect_option", "inspect_weights", "inspect_losses", "reporting"} <= set(reached)
    for name in reached:
        monkeypatch.setattr(values, name, None)
    with_rules = plain(row, loss)
    for module in [m for name, m in sys.modules.items() if name.startswith("jaxloss.")]:
        if getattr(module, "losses", None) is contract.losses:
            monkeypatch.setattr(module, "losses", lambda *a, rules=None, **k: contract.losses(*a, **k))
    without = plain(row, loss)
    assert with_rules.as_text() == without.as_text()
    if row.id in ("sparse_cce-probabilities", "huber", "ctc"):
        texts = [p.compile().as_text() or "" for p in (with_rules, without)]
        # But for the lines of Python that it was traced from.
        texts = [re.sub(r", metadata={[^}]*}|^\d+ .*\n", "", text, flags=re.MULTILINE) for text in texts]
        assert "ENTRY" in texts[0]
        assert texts[0] == texts[1]
