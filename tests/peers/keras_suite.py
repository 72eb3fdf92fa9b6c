"""Keras's tests of its losses, on JAX. Its functions take the targets first, as ours do, and return the means over the
last axis; its classes weigh and reduce those. Both steps are ours here."""

from __future__ import annotations

import importlib
import unittest
from collections.abc import Callable
from typing import Any, Unpack

import jax
import jax.numpy as jnp

import jaxloss as jl
from jaxloss.contract import NUMBER, Units, loss, losses
from peers import Result, rerouted


def elements(loss: Callable[..., Any]) -> Callable[..., Any]:
    def call(y_true: Any, y_pred: Any, **options: Any) -> Any:
        return jnp.mean(loss(y_true, jnp.asarray(y_pred, float), reduction="none", **options), -1)

    return call


def examples(loss: Callable[..., Any]) -> Callable[..., Any]:
    return lambda y_true, y_pred, **options: loss(y_true, y_pred, reduction="none", **options)


def cosine_similarity(y_true: Any, y_pred: Any, axis: int = -1) -> Any:
    return jl.cosine_distance(y_true, y_pred, axis=axis, reduction="none") - 1


def binary_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1
) -> Any:
    options = {"from_logits": from_logits, "label_smoothing": label_smoothing}
    return jnp.mean(jl.bce(y_true, y_pred, reduction="none", **options), axis)


def binary_focal_crossentropy(
    y_true: Any,
    y_pred: Any,
    apply_class_balancing: bool = False,
    alpha: float = 0.25,
    axis: int = -1,
    **options: Any,
) -> Any:
    a = alpha if apply_class_balancing else None
    return jnp.mean(jl.binary_focal(y_true, y_pred, alpha=a, reduction="none", **options), axis)


def sparse_categorical_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool = False, ignore_class: int | None = None, axis: int = -1
) -> Any:
    labels = jnp.asarray(y_true).astype(int)  # the classes of Keras make floats of all inputs
    if labels.ndim == jnp.ndim(y_pred) and labels.shape[axis] == 1:
        labels = jnp.squeeze(labels, axis)
    where = None if ignore_class is None else labels != ignore_class
    losses = jl.sparse_cce(labels, y_pred, from_logits=from_logits, axis=axis, where=where, reduction="none")
    if where is not None:
        importlib.import_module("keras.src.backend").set_keras_mask(losses, mask=where)
    return losses


def generalized(y_true: Any, y_pred: Any, q: float) -> Any:
    one_hot = jax.nn.one_hot(jnp.asarray(y_true).astype(int), y_pred.shape[-1])
    return jl.generalized_cce(one_hot, y_pred, power=q, reduction="none")


def circle(
    y_true: Any,
    y_pred: Any,
    ref_labels: Any = None,
    ref_embeddings: Any = None,
    remove_diagonal: bool = True,
    **options: Any,
) -> Any:
    """Each anchor is in one set with all references. The mean does not count what costs 0."""
    labels, x = jnp.asarray(y_true).astype(int), jnp.asarray(y_pred)
    if ref_embeddings is None:
        losses = jl.circle(labels, x, reduction="none", **options)
    elif remove_diagonal:
        raise NotImplementedError("references of which each anchor has one that it does not meet")
    else:

        def with_references(label: Any, x: Any) -> Any:
            labels, members = jnp.append(label, ref_labels), jnp.vstack([x, ref_embeddings])
            return jl.circle(labels, members, reduction="none", **options)[0]

        losses = jax.vmap(with_references)(labels, x)
    importlib.import_module("keras.src.backend").set_keras_mask(losses, mask=losses > 0)
    return losses


def ctc(y_true: Any, y_pred: Any) -> Any:
    labels = jnp.asarray(y_true).astype(int)
    return jl.ctc(labels, y_pred, label_lengths=jnp.sum(labels != 0, -1), reduction="none")


def overlap(loss: Callable[..., Any]) -> Callable[..., Any]:
    """Without an axis, all entries are pixels of one unit."""

    def call(y_true: Any, y_pred: Any, axis: tuple[int, ...] | None = None, **options: Any) -> Any:
        pixels = tuple(range(jnp.ndim(y_pred))) if axis is None else axis
        return loss(y_true, y_pred, axis=pixels, reduction="none", **options)

    return call


def from_the_left(x: Any, values: Any) -> Any:
    """A weight or a mask that has an axis of length 1 in the end, for the axes that it leaves out."""
    while x is not None and x.ndim and x.shape != values.shape[: x.ndim] and x.shape[-1] == 1:
        x = jnp.squeeze(x, -1)
    return x


@loss
def numbers(values: Any, **units: Unpack[Units]) -> Any:
    """Numbers that are losses already."""
    return losses(lambda value: value, {"values": (values, NUMBER)}, **units)


def reduce_weighted_values(
    values: Any,
    sample_weight: Any = None,
    mask: Any = None,
    reduction: Any = "sum_over_batch_size",
    dtype: Any = None,
) -> Any:
    """Numbers that are losses already, reduced by ours."""
    names: dict[Any, Any] = {None: "none", "mean": "sum_over_batch_size", "mean_with_sample_weight": "mean"}
    values = jnp.asarray(values)
    weights = None if sample_weight is None else from_the_left(jnp.asarray(sample_weight), values)
    where = None if mask is None else from_the_left(jnp.asarray(mask).astype(bool), values)
    return numbers(values, weights=weights, where=where, reduction=names.get(reduction, reduction))


LOSSES = {
    "mean_squared_error": elements(jl.mse),
    "mean_absolute_error": elements(jl.mae),
    "mean_absolute_percentage_error": elements(jl.mape),
    "mean_squared_logarithmic_error": elements(jl.msle),
    "huber": elements(jl.huber),
    "log_cosh": elements(jl.log_cosh),
    "poisson": elements(jl.poisson_nll),
    "hinge": elements(jl.hinge),
    "squared_hinge": elements(jl.squared_hinge),
    "categorical_hinge": examples(jl.categorical_hinge),
    "cosine_similarity": cosine_similarity,
    "kl_divergence": examples(jl.kl_divergence),
    "categorical_crossentropy": examples(jl.cce),
    "categorical_focal_crossentropy": examples(jl.categorical_focal),
    "categorical_generalized_cross_entropy": generalized,
    "sparse_categorical_crossentropy": sparse_categorical_crossentropy,
    "binary_crossentropy": binary_crossentropy,
    "binary_focal_crossentropy": binary_focal_crossentropy,
    "circle": circle,
    "ctc": ctc,
    "dice": overlap(jl.dice),
    "tversky": overlap(jl.tversky),
}


def skipped(test: unittest.TestCase) -> bool:
    """Whether a mark of pytest, which unittest does not know, leaves the test out on JAX."""
    marks = getattr(getattr(test, test._testMethodName), "pytestmark", [])
    return any(mark.name == "skipif" and mark.args[0] for mark in marks)


def run() -> list[Result]:
    losses = importlib.import_module("keras.src.losses.losses")
    reduction = importlib.import_module("keras.src.losses.loss")
    tests = [importlib.import_module(f"keras.src.losses.{name}") for name in ("losses_test", "loss_test")]
    return rerouted.run({losses: LOSSES, reduction: {"reduce_weighted_values": reduce_weighted_values}}, tests, skipped)
