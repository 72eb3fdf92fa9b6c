"""CTC and RNN-T beyond the contract: known cases, all paths counted, lengths, long sequences, sharp inputs."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases.classification import log_softmax
from contract import mostly_slow, x64

import jaxloss

CASES = json.loads((Path(__file__).parent / "data" / "ctc.json").read_text())["cases"]
LOSSES = {"ctc": jaxloss.ctc, "rnnt": jaxloss.rnnt}


def graded(loss: Any, labels: Any, logits: Any, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """The losses, and the derivative of their sum by the logits."""

    def total(z: Any) -> Any:
        losses = loss(labels, z, **options, reduction="none")
        return jnp.sum(losses), losses

    slope, losses = jax.jit(jax.grad(total, has_aux=True))(logits)
    return np.asarray(losses), np.asarray(slope)


# ---------------------------------------------------------------------------------------------------------------------
# Known cases


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
@pytest.mark.parametrize("dtype", mostly_slow((np.float64, np.float32), np.float64))
def test_known_cases(case: dict[str, Any], dtype: Any):
    rtol, atol = (1e-12, 1e-10) if dtype is np.float64 else (2e-6, 1e-5)
    logits = np.array(case["logits"], dtype)
    labels = np.array(case["labels"], np.int32).reshape(len(logits), -1)
    lengths: dict[str, Any] = {"label_lengths": case["target_lengths"], "logit_lengths": case["input_lengths"]}
    with x64():
        losses, slope = graded(jaxloss.ctc, labels, logits, **lengths, blank=case["blank"])
        zero, also = graded(jaxloss.ctc, labels, logits, **lengths, blank=case["blank"], infeasible="zero")
    np.testing.assert_allclose(losses, np.array(case["value_per_sequence"], float), rtol, rtol)
    np.testing.assert_allclose(zero, np.array(case["zero_infinity_value"], float), rtol, rtol)
    assert (losses >= 0).all()
    want = np.array(case["grad_of_sum_wrt_logits"] or np.zeros_like(logits), float)
    np.testing.assert_allclose(slope, want, 0, atol)
    np.testing.assert_allclose(also, want, 0, atol)


# ---------------------------------------------------------------------------------------------------------------------
# All paths


def ctc_by_paths(labels: list[int], log_p: np.ndarray, blank: int) -> float:
    total = -np.inf
    for path in itertools.product(range(log_p.shape[-1]), repeat=len(log_p)):
        merged = [k for k, before in zip(path, (None, *path), strict=False) if k != before]
        if [k for k in merged if k != blank] == labels:
            total = np.logaddexp(total, log_p[np.arange(len(path)), path].sum())
    return -total


def rnnt_by_paths(labels: list[int], log_p: np.ndarray, blank: int) -> float:
    total = -np.inf
    for steps in itertools.product([False, True], repeat=len(log_p) + len(labels) - 1):
        if sum(steps) == len(labels):
            t, u, log_path = 0, 0, 0.0
            for says in (*steps, False):
                log_path += log_p[t, u, labels[u] if says else blank]
                t, u = (t, u + 1) if says else (t + 1, u)
            total = np.logaddexp(total, log_path)
    return -total


@pytest.mark.parametrize(("name", "by_paths"), [("ctc", ctc_by_paths), ("rnnt", rnnt_by_paths)])
def test_the_sum_over_all_paths(name: str, by_paths: Any):
    """All lengths of labels and frames, repeats, and what lies behind the lengths is anything."""
    rng = np.random.default_rng(0)
    blank, classes = 1, 3
    sizes = [(n, t) for n in range(4) for t in range(1, 6)] * 2
    labels = rng.choice([0, 2], (len(sizes), 3))
    places = (4,) if name == "rnnt" else ()
    logits = rng.normal(size=(len(sizes), 5, *places, classes)).astype(np.float32)
    want = []
    for i, (n, t) in enumerate(sizes):
        cut = (i, slice(t), *([slice(n + 1)] if places else []))
        want.append(by_paths(labels[i, :n].tolist(), log_softmax(logits[cut].astype(float)), blank))
        labels[i, n:] = -100
        outside = np.ones_like(logits[i], bool)
        outside[cut[1:]] = False
        logits[i][outside] = np.nan
    lengths: dict[str, Any] = dict(zip(("label_lengths", "logit_lengths"), np.transpose(sizes), strict=True))
    losses, slope = graded(LOSSES[name], labels, logits, **lengths, blank=blank)
    np.testing.assert_allclose(losses, want, 1e-6, 1e-7)
    assert np.isinf(losses).any() == (name == "ctc")
    assert np.isfinite(slope).all()
    assert (slope[np.isnan(logits)] == 0).all()
    assert (slope[np.isinf(losses)] == 0).all()
    np.testing.assert_allclose(slope.sum(-1), 0, atol=1e-6)


def test_no_frames_and_no_labels():
    for frames, labels, want in ((0, 0, 0.0), (0, 1, np.inf), (1, 0, np.log(2))):
        y = np.ones((1, labels), np.int32)
        lengths: dict[str, Any] = {"label_lengths": [labels], "logit_lengths": [frames]}
        for loss, z in ((jaxloss.ctc, np.zeros((1, frames, 2))), (jaxloss.rnnt, np.zeros((1, frames, labels + 1, 2)))):
            np.testing.assert_allclose(loss(y, z), want, 1e-6)
            z, wide = np.zeros((1, 3, *z.shape[2:])), np.ones((1, z.shape[2] - 1 if z.ndim == 4 else labels), np.int32)
            np.testing.assert_allclose(loss(wide, z, **lengths), want, 1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Sharp inputs


@pytest.mark.parametrize("name", LOSSES)
def test_excluded_classes(name: str):
    """A logit of -inf in a class that no path needs changes nothing; where all paths need it, the loss is infinite."""
    rng = np.random.default_rng(1)
    labels = np.array([[1, 2], [1, 2]])
    logits = rng.normal(size=(2, 4, *([3] if name == "rnnt" else []), 5)).astype(np.float32)
    logits[..., 4] = -np.inf
    losses, slope = graded(LOSSES[name], labels, logits)
    few, few_slope = graded(LOSSES[name], labels, logits[..., :4])
    np.testing.assert_allclose(losses, few, 1e-6)
    np.testing.assert_allclose(slope, np.pad(few_slope, [(0, 0)] * (slope.ndim - 1) + [(0, 1)]), 0, 1e-6)
    logits[1, ..., 2] = -np.inf
    losses, slope = graded(LOSSES[name], labels, logits)
    np.testing.assert_allclose(losses, [few[0], np.inf], 1e-6)
    assert (slope[1] == 0).all()
    np.testing.assert_allclose(slope[0, ..., :4], few_slope[0], 0, 1e-6)
    zero, _ = graded(LOSSES[name], labels, logits, infeasible="zero")
    np.testing.assert_allclose(zero, [few[0], 0], 1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_never_negative(name: str):
    """Certain of the right path: rounding does not carry the loss below 0."""
    labels = np.array([[1, 2, 1]])
    sharp = np.linspace(0, 40, 41, dtype=np.float32)
    if name == "ctc":
        path = np.eye(3, dtype=np.float32)[[0, 1, 1, 2, 0, 1, 0]]
    else:
        path = np.zeros((3, 4, 3), np.float32)
        for t, u, k in ((0, 0, 1), (0, 1, 0), (1, 1, 2), (1, 2, 1), (1, 3, 0), (2, 3, 0)):
            path[t, u, k] = 1
    logits = sharp.reshape(-1, *[1] * path.ndim) * path
    losses, slope = graded(LOSSES[name], np.repeat(labels, 41, 0), logits)
    assert (losses >= 0).all()
    assert losses[-1] < 1e-6
    assert np.abs(slope[-1]).max() < 1e-6


# ---------------------------------------------------------------------------------------------------------------------
# Long sequences


def test_long_ctc_in_float32():
    """At 2,000 frames float32 loses next to nothing: other implementations have errors of 3e-3 here."""
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(2, 2000, 30)).astype(np.float32)
    labels = rng.integers(1, 30, (2, 400))
    with x64():
        wide, wide_slope = graded(jaxloss.ctc, labels, logits.astype(np.float64))
    losses, slope = graded(jaxloss.ctc, labels, logits)
    assert slope.dtype == np.float32
    np.testing.assert_allclose(losses, wide, 5e-7)
    np.testing.assert_allclose(slope, wide_slope, 0, 5e-6)


def test_long_rnnt_in_float32():
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(1, 500, 51, 10)).astype(np.float32)
    labels = rng.integers(1, 10, (1, 50))
    with x64():
        wide, wide_slope = graded(jaxloss.rnnt, labels, logits.astype(np.float64))
    losses, slope = graded(jaxloss.rnnt, labels, logits)
    np.testing.assert_allclose(losses, wide, 5e-7)
    np.testing.assert_allclose(slope, wide_slope, 0, 5e-6)


# ---------------------------------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64])
def test_integer_dtypes(dtype: Any):
    labels, logits = np.array([[1, 2]], dtype), np.ones((1, 4, 3), np.float32)
    lengths: dict[str, Any] = {"label_lengths": np.array([2], dtype), "logit_lengths": np.array([3], dtype)}
    np.testing.assert_array_equal(
        jaxloss.ctc(labels, logits, **lengths), jaxloss.ctc([[1, 2]], logits, logit_lengths=[3])
    )
    with x64():
        assert jaxloss.ctc(labels, logits, **lengths).dtype == np.float32


def test_messages():
    labels, logits = np.ones((2, 3), np.int32), np.ones((2, 5, 4), np.float32)
    with pytest.raises(TypeError, match=r"ctc: label_lengths must hold integers, got float32"):
        jaxloss.ctc(labels, logits, label_lengths=np.ones(2, np.float32))
    with pytest.raises(ValueError, match=r"logit_lengths has shape \(3,\).*batch axes must be equal"):
        jaxloss.ctc(labels, logits, logit_lengths=np.ones(3, np.int32))
    with pytest.raises(ValueError, match=r"rnnt: logits have 3 places for labels, expected 4"):
        jaxloss.rnnt(labels, np.ones((2, 5, 3, 4), np.float32))
    with pytest.raises(ValueError, match=r"at least 2"):
        jaxloss.ctc(labels, np.ones(4, np.float32))
