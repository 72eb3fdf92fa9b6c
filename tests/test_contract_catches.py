"""A test of the tests: losses with one fault each, of a kind met elsewhere, must fail the check that is about it.

Each is the true loss of the library with a fault put around it, or the shortest honest form of the faulty idea. It
must fail for the right reason, which is a part of the message, and pass another check.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ROWS
from contract import CHECKS
from jax.core import Tracer

import jaxloss
from jaxloss._contract.reduce import reduce
from jaxloss.contract import NUMBER, losses

ROW = {row.id: row for row in ROWS}
FAULTS: list[Any] = []

bce, cce, huber, mae, mse, sparse_cce = (
    jaxloss.LOSSES[name] for name in ("bce", "cce", "huber", "mae", "mse", "sparse_cce")
)


def fault(
    row: str, fails: str, because: str, passes: str = "value", mended: tuple[int, ...] = ()
) -> Callable[..., Any]:
    """Enter a wrong loss in the table, under the name and signature of the right one.

    mended: the version of jax from which on it is no longer wrong.
    """
    marks = [pytest.mark.skip("right with this jax")] if mended and jax.__version_info__ >= mended else []

    def enter(wrong: Callable[..., Any]) -> Callable[..., Any]:
        right = jaxloss.LOSSES[ROW[row].name]
        fault_id = f"{wrong.__name__}-fails-{fails}"
        loss = functools.wraps(right)(wrong)
        if fails == "signature":
            del loss.__wrapped__, loss.__signature__  # pyright: ignore
        FAULTS.append(pytest.param(loss, row, fails, because, passes, id=fault_id, marks=marks))
        return loss

    return enter


def reduced(losses: Any, weights: Any, where: Any, reduction: Any) -> Any:
    """The reductions of the library for losses of an honest but unprotected formula."""
    weights, where = (None if x is None else jnp.asarray(x) for x in (weights, where))
    return reduce(jnp.asarray(losses) if where is None else jnp.where(where, losses, 0), weights, where, reduction)


# ---------------------------------------------------------------------------------------------------------------------
# How it is called


@fault("mse", "shapes", "no ValueError")
def broadcasts(y_true, y_pred, **options):
    y, p = jnp.asarray(y_true), jnp.asarray(y_pred)
    shape = np.broadcast_shapes(y.shape, p.shape)
    return mse(jnp.broadcast_to(y, shape), jnp.broadcast_to(p, shape), **options)


@fault("huber-delta", "signature", "delta is positional or keyword")
def takes_options_by_position(y_true, y_pred, delta=1.0, weights=None, where=None, reduction="mean"):
    return huber(y_true, y_pred, delta=delta, weights=weights, where=where, reduction=reduction)


@fault("mse", "signature", "variadic keyword")
def hides_its_options(y_true, y_pred, *, options=None, **more):
    return mse(y_true, y_pred, **more)


@fault("mse", "lists", "unsupported operand")
def takes_no_lists(y_true, y_pred, **options):
    return mse(0 * y_true, y_pred - y_true, **options)


@fault("mse", "integers", "uint8")
def subtracts_in_uint8(y_true, y_pred, **options):
    if jnp.asarray(y_true).dtype == jnp.uint8:
        return mse(y_true, y_pred.astype(jnp.uint8), **options)
    return mse(y_true, y_pred, **options)


@fault("mse", "masks_and_weights_refused", "no TypeError")
def takes_any_mask(y_true, y_pred, *, where=None, **options):
    return mse(y_true, y_pred, where=None if where is None else jnp.asarray(where) != 0, **options)


@fault("huber", "options_refused", "no ValueError about .*delta")
def checks_no_option(y_true, y_pred, *, delta=1.0, **options):
    return huber(y_true, y_pred, delta=jnp.float32(delta), **options)


@fault("sparse_cce-logits", "dtypes", "no TypeError about .*integer")
def truncates_float_labels(y_true, y_pred, **options):
    truncated = np.asarray(y_true, np.int32) if getattr(y_true, "dtype", None) == np.float32 else y_true
    return sparse_cce(truncated, y_pred, **options)


@fault("huber-delta", "one_trace", "traced again")
def traces_each_time(y_true, y_pred, **options):
    reduction = options.pop("reduction", "mean")
    again = (lambda *a: reduction(*a)) if callable(reduction) else reduction
    return huber(y_true, y_pred, **options, reduction=again)


# ---------------------------------------------------------------------------------------------------------------------
# What it computes


@fault("cce-logits", "value", "another axis", "transformations")
def ignores_the_axis(y_true, y_pred, *, axis=-1, **options):
    del axis
    return cce(y_true, y_pred, **options)


@fault("sparse_cce-logits", "value", "compiled", "lists")
def differs_when_compiled(y_true, y_pred, **options):
    return sparse_cce(y_true, y_pred, **options) * (1 + 1e-4 * isinstance(y_pred, Tracer))


@jax.custom_batching.custom_vmap
def _square_alone(e):
    return e**2


@_square_alone.def_vmap
def _(size, batched, e):
    return e[::-1] ** 2, True


@jax.custom_jvp
def _square_batched(e):
    return _square_alone(e)


@_square_batched.defjvp
def _(primals, tangents):
    return _square_batched(primals[0]), 2 * primals[0] * tangents[0]


@fault("mse", "transformations", "vmap")
def is_wrong_under_vmap(y_true, y_pred, *, weights=None, where=None, reduction="mean"):
    e = jnp.asarray(y_pred, jnp.float32) - jnp.asarray(y_true, jnp.float32)
    return reduced(_square_batched(e), weights, where, reduction)


@jax.custom_batching.custom_vmap
def _difference_alone(y, z):
    return z - y


@_difference_alone.def_vmap
def _(size, batched, y, z):
    y, z = (x if there else jnp.broadcast_to(x, (size, *x.shape)) for x, there in zip((y, z), batched, strict=True))
    return (z - y) * (1 if all(batched) else 2), True


@jax.custom_jvp
def _difference(y, z):
    return _difference_alone(y, z)


@_difference.defjvp
def _(primals, tangents):
    return _difference(*primals), tangents[1] - tangents[0]


@fault("mse", "transformations", "in common")
def is_wrong_where_vmap_has_an_array_in_common(y_true, y_pred, *, weights=None, where=None, reduction="mean"):
    e = _difference(*(jnp.asarray(x, jnp.float32) for x in (y_true, y_pred)))
    return reduced(e**2, weights, where, reduction)


@fault("mse", "one_example", "one example")
def needs_a_batch(y_true, y_pred, **options):
    return mse(jnp.atleast_1d(y_true), jnp.atleast_1d(y_pred), **options)


@fault("bce-probability", "debug_modes", "invalid value")
def selects_after_the_logarithm(y_true, y_pred, *, weights=None, where=None, reduction="mean"):
    y, p = (jnp.asarray(x, jnp.float32) for x in (y_true, y_pred))
    logs = jnp.where(y == 0, 0, y * jnp.log(p)) + jnp.where(y == 1, 0, (1 - y) * jnp.log1p(-p))
    return reduced(-logs, weights, where, reduction)


SEEN = []


@fault("mse", "debug_modes", "[Ll]eaked")
def remembers_what_it_saw(y_true, y_pred, **options):
    SEEN.append(y_pred)
    return mse(y_true, y_pred, **options)


@jax.custom_jvp
def _square(e):
    return e**2


@_square.defjvp
def _(primals, tangents):
    return primals[0] ** 2, primals[0] * tangents[0]  # the 2 is forgotten


@fault("mse", "gradient", "reverse mode")
def wrong_derivative(y_true, y_pred, *, weights=None, where=None, reduction="mean"):
    return reduced(_square(y_pred - y_true), weights, where, reduction)


@jax.custom_jvp
def _square_once(e):
    return e**2


@_square_once.defjvp
def _(primals, tangents):
    return primals[0] ** 2, 2 * jax.lax.stop_gradient(primals[0]) * tangents[0]


@fault("mse", "gradient", "second order")
def wrong_second_derivative(y_true, y_pred, *, weights=None, where=None, reduction="mean"):
    return reduced(_square_once(y_pred - y_true), weights, where, reduction)


@fault("huber-delta", "gradient", "reverse mode", "traced_options")
def option_without_derivative(y_true, y_pred, *, delta=1.0, **options):
    return huber(y_true, y_pred, delta=jax.lax.stop_gradient(delta), **options)


@fault("huber-delta", "traced_options", "arrays")
def rounds_traced_options(y_true, y_pred, *, delta=1.0, **options):
    if isinstance(delta, jax.Array):
        delta = delta.astype(jnp.bfloat16).astype(delta.dtype)
    return huber(y_true, y_pred, delta=delta, **options)


@fault("mse", "precision", "float16")
def sums_in_half_precision(y_true, y_pred, **options):
    result = mse(y_true, y_pred, **options)
    return result.astype(jnp.result_type(y_pred)).astype(result.dtype)


@fault("mse", "precision", "float32.* inputs give float64")
def widens_to_float64(y_true, y_pred, **options):
    wide = jnp.float64 if jax.config.read("jax_enable_x64") else jnp.float32
    return mse(y_true, y_pred, **options).astype(wide)


@fault("bce-probability", "hard_inputs", "float32")
def clips_probabilities(y_true, y_pred, **options):
    return bce(y_true, jnp.clip(y_pred, 1e-7, 1 - 1e-7), **options)


@fault("bce-probability", "hard_inputs", "gradient by y_pred")
def kills_the_gradient(y_true, y_pred, **options):
    clipped = clips_probabilities(y_true, y_pred, **options)
    return clipped + jax.lax.stop_gradient(bce(y_true, y_pred, **options) - clipped)


@fault("bce-logit", "hard_inputs", "is NaN")
def takes_the_logarithm_of_a_sigmoid(
    y_true, y_pred, *, from_logits, label_smoothing=0.0, weights=None, where=None, reduction="mean"
):
    y, z = (jnp.asarray(x, jnp.float32) for x in (y_true, y_pred))
    y = (1 - label_smoothing) * y + label_smoothing / 2
    p = 1 / (1 + jnp.exp(-z))
    return reduced(-y * jnp.log(p) - (1 - y) * jnp.log(1 - p), weights, where, reduction)


@fault("bce-logit", "hard_bfloat16", "bfloat16")
def stays_in_half_precision(
    y_true, y_pred, *, from_logits, label_smoothing=0.0, weights=None, where=None, reduction="mean"
):
    y, z = (1 - label_smoothing) * jnp.asarray(y_true) + label_smoothing / 2, jnp.asarray(y_pred)
    return reduced(jnp.maximum(z, 0) - z * y + jnp.log1p(jnp.exp(-jnp.abs(z))), weights, where, reduction)


@fault("bce-logit", "hard_float64", "float64")
def rounds_to_float32(y_true, y_pred, **options):
    return bce(*(jnp.asarray(x, jnp.float32) for x in (y_true, y_pred)), **options).astype(jnp.result_type(y_pred))


@fault("mse", "hard_mixtures", "loss is NaN")
def multiplies_out(y_true, y_pred, *, weights=None, where=None, reduction="mean"):
    y, p = (jnp.asarray(x, jnp.float32) for x in (y_true, y_pred))
    return reduced(y * y + p * p - 2 * y * p, weights, where, reduction)


@fault("mae", "ties", "derivative at a kink")
def has_slope_1_at_0(y_true, y_pred, *, weights=None, where=None, reduction="mean"):
    losses = jnp.abs(jnp.asarray(y_pred, jnp.float32) - jnp.asarray(y_true, jnp.float32))
    return reduced(losses, weights, where, reduction)


@fault("sparse_cce-logits", "labels_outside", "plausible", "transformations")
def takes_the_last_class(y_true, y_pred, **options):
    return sparse_cce(jnp.asarray(y_true) % jnp.shape(y_pred)[-1], y_pred, **options)


@fault("sparse_cce-logits", "labels_outside", "plausible", "transformations")
def counts_other_labels_as_0(y_true, y_pred, **options):
    return cce(jax.nn.one_hot(y_true, np.shape(y_pred)[-1]), y_pred, **options)


@fault("bce-probability", "outside_domain", "plausible")
def clips_whatever_it_gets(y_true, y_pred, **options):
    return bce(y_true, jnp.clip(y_pred, 0, 1), **options)


# ---------------------------------------------------------------------------------------------------------------------
# Units: reduced, weighted, masked


@fault("mse", "mask", "nan under the mask")
def masks_by_multiplying(y_true, y_pred, *, weights=None, where=None, reduction="mean"):
    losses = mse(y_true, y_pred, reduction="none")
    if where is not None:
        losses = losses * jnp.asarray(where, jnp.float32)
    return reduced(losses, weights, None if reduction == "none" else where, reduction)


@fault("mse", "mask", "nan under the mask")
def says_that_it_is_elementwise(y_true, y_pred, **units):
    inputs = {"y_true": (y_true, NUMBER), "y_pred": (y_pred, NUMBER)}
    return losses(lambda y, p: (y - p) ** 2 + 0 * jnp.sum(p), inputs, elementwise=True, **units)


@fault("mse", "mask", "gradient under the mask")
def masks_only_the_value(y_true, y_pred, *, weights=None, where=None, reduction="mean"):
    losses = (jnp.asarray(y_pred) - jnp.asarray(y_true)) * (jnp.asarray(y_pred) - jnp.asarray(y_true))
    kept = losses if where is None else jnp.where(where, losses, 0)
    return reduced(kept, weights, where, reduction)


@fault("mse", "weights", "weighted mean")
def divides_by_the_size(y_true, y_pred, *, reduction="mean", **options):
    return mse(y_true, y_pred, reduction="sum_over_batch_size" if reduction == "mean" else reduction, **options)


@fault("mse", "reductions", "sum_over_batch_size")
def divides_by_all_units(y_true, y_pred, *, where=None, reduction="mean", **options):
    if reduction != "sum_over_batch_size":
        return mse(y_true, y_pred, where=where, reduction=reduction, **options)
    return mse(y_true, y_pred, where=where, reduction="sum", **options) / np.size(y_true)


@fault("mse", "nan_is_loud", "y_true is NaN")
def takes_nan_for_0(y_true, y_pred, **options):
    return mse(jnp.nan_to_num(y_true), y_pred, **options)


@fault("mse", "zero_weight", "is hidden")
def hides_a_nan(y_true, y_pred, *, weights=None, where=None, reduction="mean"):
    losses = mse(y_true, y_pred, reduction="none")
    if weights is not None:
        losses = jnp.where(jnp.asarray(weights) == 0, 0, losses)
    return reduced(losses, weights, where, reduction)


@fault("mse", "zero_weight", "derivative of the sum by the weights")
def skips_what_weighs_nothing(y_true, y_pred, *, weights=None, where=None, reduction="mean"):
    losses = mse(y_true, y_pred, where=where, reduction="none")
    if weights is not None:
        losses = jnp.where((jnp.asarray(weights) == 0) & jnp.isfinite(losses), 0, losses)
    return reduced(losses, weights, where, reduction)


@fault("mse", "from_the_left", "batch,")
def matches_from_the_right(y_true, y_pred, *, weights=None, **options):
    if weights is not None and np.ndim(weights):
        weights = jnp.broadcast_to(weights, np.shape(y_pred))
    return mse(y_true, y_pred, weights=weights, **options)


@fault("mse", "nothing_left", "mean.*nan")
def divides_by_nothing(y_true, y_pred, *, weights=None, where=None, reduction="mean"):
    if reduction != "mean":
        return mse(y_true, y_pred, weights=weights, where=where, reduction=reduction)
    losses = mse(y_true, y_pred, where=where, reduction="none")
    w = jnp.ones_like(losses) if weights is None else jnp.asarray(weights)
    w = w if where is None else jnp.where(where, w, 0)
    return jnp.sum(w * losses) / jnp.sum(w)


@jax.custom_jvp
def _through_bits(x):
    return jax.lax.bitcast_convert_type(jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}"), x.dtype)


_through_bits.defjvp(lambda primals, tangents: (_through_bits(*primals), tangents[0]))


@fault("huber", "inside_scan", "second derivatives in a scan", "gradient", mended=(0, 12))
def leaves_the_derivative_to_a_rule(y_true, y_pred, **options):
    return huber(y_true, _through_bits(y_pred), **options)


# ---------------------------------------------------------------------------------------------------------------------
# Spread over devices


@fault("mae", "inside_shard_map", "differentiated outside")
def averages_the_averages(y_true, y_pred, *, reduction="mean", **options):
    if not isinstance(reduction, jaxloss.mean_over):
        return mae(y_true, y_pred, reduction=reduction, **options)
    return jax.lax.pmean(mae(y_true, y_pred, **options), reduction.axis_name)


@fault("sparse_cce-logits", "explicit_sharding", "out_sharding", "lists")
def gathers_a_class(y_true, y_pred, *, from_logits, weights=None, where=None, reduction="mean"):
    z = jnp.asarray(y_pred)
    picked = jnp.take_along_axis(z, jnp.asarray(y_true)[..., None], -1)[..., 0]
    return reduced(jax.nn.logsumexp(z, axis=-1) - picked, weights, where, reduction)


# ---------------------------------------------------------------------------------------------------------------------
# What surrounds it


@fault("mse", "documentation", "does not say what it agrees with")
def compares_itself_with_nothing(y_true, y_pred, **options):
    return mse(y_true, y_pred, **options)


@fault("mse", "documentation", "has a gap")
def is_written_tomorrow(y_true, y_pred, **options):
    return mse(y_true, y_pred, **options)


is_written_tomorrow.__doc__ = (mse.__doc__ or "").replace("Gauss 1821", "TODO")
compares_itself_with_nothing.__doc__ = (mse.__doc__ or "").replace("Agrees with", "Unlike")


@pytest.mark.parametrize(("loss", "row", "fails", "because", "passes"), FAULTS)
def test_a_wrong_loss_is_caught(loss: Callable[..., Any], row: str, fails: str, because: str, passes: str):
    with pytest.raises(Exception, match=f"(?s){because}"):
        CHECKS[fails](ROW[row], loss)
    CHECKS[passes](ROW[row], loss)
