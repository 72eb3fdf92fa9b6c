"""The box losses against reference values that were computed with 90 digits, and gradients on both sides of each kink.

The files in data/boxes hold twelve pairs for each loss. A gradient of null is that of a side on which the box would be
inverted, "unbounded" that of an infinite slope.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import mostly_slow, run, x64

import jaxloss

DATA = Path(__file__).parent / "data" / "boxes"
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "ciou_gated_2020": ("ciou", {"gate": 0.5}),
    "focal_eiou_detached": ("focal_eiou", {"gamma": 0.5, "detach": True}),
    "siou": ("siou", {"theta": 4}),
    "wiou_v2": ("wiou_v2", {"gamma": 0.5, "iou_loss_mean": 0.6}),
    "wiou_v3": ("wiou_v3", {"alpha": 1.9, "delta": 3.0, "iou_loss_mean": 0.6}),
    **{f"alpha_{base}": ("alpha_iou", {"power": 3, "base": base}) for base in ("iou", "giou", "diou", "ciou")},
}
FILES = sorted(path.stem.removeprefix("box_") for path in DATA.glob("box_*.json"))


def vectors(name: str) -> list[dict[str, Any]]:
    return json.loads((DATA / f"box_{name}.json").read_text())["cases"]


@pytest.mark.parametrize("dtype", mostly_slow((np.float64, np.float32), np.float64))
@pytest.mark.parametrize("name", FILES)
def test_vectors(name: str, dtype: Any):
    value_tolerance, grad_tolerance = (1e-12, 1e-10) if dtype == np.float64 else (2e-6, 1e-5)
    loss, options = OPTIONS.get(name, (name, {}))
    graded = jax.vmap(jax.value_and_grad(functools.partial(jaxloss.LOSSES[loss], **options), argnums=1))
    with x64():
        values, grads = run(graded, *(np.array([case[k] for case in vectors(name)], dtype) for k in ("target", "pred")))
    assert values.dtype == grads.dtype == dtype
    for case, value, grad in zip(vectors(name), values, grads, strict=True):
        np.testing.assert_allclose(value, float(case["value"]), value_tolerance, value_tolerance, err_msg=case["id"])
        assert np.isfinite(grad).all(), (case["id"], grad)
        if case["differentiable"]:
            np.testing.assert_allclose(grad, case["grad"], grad_tolerance, grad_tolerance, err_msg=case["id"])
            continue
        for left, got, right in zip(case["grad_left"], grad, case["grad_right"], strict=True):
            if isinstance(left, float) and isinstance(right, float):
                low, high = sorted((left, right))
                slack = grad_tolerance * max(1, abs(low), abs(high))
                assert low - slack <= got <= high + slack, (case["id"], low, got, high)


def test_every_loss_has_vectors():
    tested = {OPTIONS.get(name, (name, {}))[0] for name in FILES}
    assert tested == {name for name, loss in jaxloss.LOSSES.items() if loss.__module__ == "jaxloss.boxes"}


@pytest.mark.parametrize("sequence", json.loads((DATA / "wiou_state_sequence.json").read_text())["sequences"])
def test_wiou_with_its_running_mean(sequence: dict[str, Any]):
    version, options = (
        f"wiou_v{sequence['version']}",
        {k: sequence[k] for k in ("gamma", "alpha", "delta") if sequence[k] is not None},
    )
    loss = jaxloss.LOSSES[version]

    def step(mean: Any, target: Any, pred: Any) -> Any:
        mean = jaxloss.update_iou_loss_mean(mean, target, pred, momentum=sequence["momentum"])

        def summed(pred: Any) -> Any:
            losses = loss(target, pred, iou_loss_mean=mean, **options, reduction="none")
            return jnp.sum(losses), (mean, losses)

        return jax.grad(summed, has_aux=True)(pred)

    def all_steps(mean: Any, batches: Any) -> Any:
        results = []
        for target, pred in batches:
            grads, (mean, losses) = step(mean, target, pred)
            results.append((mean, losses, grads))
        return results

    batches = [[np.array(s[key], np.float64) for key in ("target", "pred")] for s in sequence["steps"]]
    with x64():
        results = run(all_steps, np.float64(sequence["initial_mean"]), batches)
    for wanted, (mean, losses, grads) in zip(sequence["steps"], results, strict=True):
        np.testing.assert_allclose(mean, wanted["mean_after"], rtol=1e-12)
        np.testing.assert_allclose(losses, wanted["value"], rtol=1e-12)
        slopes = [[np.nan if x is None else x for x in row] for row in wanted["grad_of_sum_wrt_pred"]]
        np.testing.assert_allclose(np.where(np.isnan(slopes), np.nan, grads), slopes, rtol=1e-10, atol=1e-12)
