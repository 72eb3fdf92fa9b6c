"""The pages of the site tell the truth: their code runs, page by page, and prints what it says."""

from __future__ import annotations

import ast
import inspect
import os
import re
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from contract import mostly_slow
from test_readme import blocks, promised

import jaxloss
from jaxloss._names import NAMES

ROOT = Path(__file__).resolve().parent.parent
# What a block may import though the quick tests do not install it: `.ci/run clients` does, and requires it.
CLIENTS = {"equinox", "flatbuffers", "flax", "haiku", "keras", "numpyro", "optimistix", "orbax"}
# Pages that are made of docstrings are tested with these.
WRITTEN = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "docs").rglob("*.md")
    if path.parent.name not in ("_made", "losses", "reference")
)
QUICK = ("docs/index.md", "docs/guides/contract.md")
LONG = ("docs/guides/used-with.md",)  # .ci/run clients has it, with all that it fits with


def test_there_are_pages():
    assert {"docs/index.md", "docs/guides/contract.md", "docs/recipes/index.md", "docs/zh/index.md"} <= set(WRITTEN)


def clients(code: str) -> set[str]:
    """Those of CLIENTS that a block imports."""
    imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports]
    return CLIENTS & {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("page", mostly_slow(WRITTEN, *QUICK, nightly=LONG))
def test_code_prints_what_it_says(page: str, capsys: pytest.CaptureFixture[str]):
    """The blocks of a page share their names, from top to bottom, as a reader runs them."""
    names: dict[str, Any] = {}
    for code in blocks("python", page):
        if lacking := {name for name in clients(code) if find_spec(name) is None}:
            assert os.environ.get("JAXLOSS_CLIENTS") != "required", f"not installed: {lacking}"
            continue
        # As a reader has them; the warnings of clients are not ours.
        with warnings.catch_warnings(), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            if clients(code):
                warnings.simplefilter("ignore")
            exec(compile(code, page, "exec"), names)
        assert promised(code) == capsys.readouterr().out.splitlines()


def test_the_chinese_page_has_the_same_code():
    assert blocks("python", "docs/zh/index.md") == blocks("python", "docs/guides/tutorial.md")


# ---------------------------------------------------------------------------------------------------------------------
# The table of names

ROWS = [(library, theirs, *ours) for library, table in NAMES.items() for theirs, ours in table.items()]


def test_the_guide_has_the_names():
    text = (ROOT / "docs/guides/coming-from.md").read_text(encoding="utf-8").partition("## Names")[2]
    rows = []
    for part in text.split("### ")[1:]:
        library, _, table = part.partition("\n")
        assert table.startswith("There: ")  # the order of its arguments
        found = re.findall(r"^\| `(.*?)` \| `(.*?)` \| (?:`(.*?)`)? *\|$", table, re.MULTILINE)
        rows += [(library, *row) for row in found]
    assert rows == ROWS


@pytest.mark.parametrize(("library", "theirs", "ours", "options"), ROWS, ids=[f"{r[0]}.{r[1]}" for r in ROWS])
def test_a_row_names_a_loss_and_its_options(library: str, theirs: str, ours: str, options: str):
    given = eval(f"dict({options})")
    inspect.signature(jaxloss.LOSSES[ours]).bind_partial(**given)


RNG = np.random.default_rng(0)
Y, P = RNG.normal(size=(2, 6, 4)).astype(np.float32)
ONE_HOT = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 1, 1]]
SOFT = np.asarray(jax.nn.softmax(Y))
SIGNS = np.where(Y > 0, 1.0, -1.0).astype(np.float32)
LABELS = np.array([0, 1, 2, 3, 1, 1])

# What each function of optax is given, theirs first the prediction, and the factor of ours that it is.
OPTAX: dict[str, tuple[Any, Any, float]] = {
    "cosine_distance": (Y, P, 1),
    "hinge_loss": (SIGNS, P, 1),
    "huber_loss": (Y, P, 1),
    "kl_divergence": (SOFT, np.asarray(jax.nn.log_softmax(P)), 1),
    "kl_divergence_with_log_targets": (np.log(SOFT), np.asarray(jax.nn.log_softmax(P)), 1),
    "l2_loss": (Y, P, 0.5),
    "log_cosh": (Y, P, 1),
    "multiclass_hinge_loss": (LABELS, P, 1),
    "multiclass_perceptron_loss": (LABELS, P, 1),
    "perceptron_loss": (SIGNS, P, 1),
    "poly_loss_cross_entropy": (ONE_HOT, P, 1),
    "safe_softmax_cross_entropy": (ONE_HOT, P, 1),
    "sigmoid_binary_cross_entropy": (ONE_HOT, P, 1),
    "sigmoid_focal_loss": (ONE_HOT, P, 1),
    "softmax_cross_entropy": (ONE_HOT, P, 1),
    "softmax_cross_entropy_with_integer_labels": (LABELS, P, 1),
    "sparsemax_loss": (ONE_HOT, P, 1),
    "squared_error": (Y, P, 1),
}
IMAGES = RNG.normal(size=(2, 3, 3, 4)).astype(np.float32)
PIXELS = np.eye(4, dtype=np.float32)[RNG.integers(0, 4, (2, 3, 3))]
# The same of functions whose units are not ours: means are compared.
MEANS: dict[str, tuple[Any, Any]] = {
    "binary_dice_loss": (PIXELS[..., 0], IMAGES[..., 0]),
    "dice_loss": (PIXELS, IMAGES),
    "ntxent": (LABELS[2:5] % 2, Y[2:5]),
}
ELSEWHERE = {  # their arguments are others; tests/peers judges them
    "cosine_similarity",  # 1 - ours
    "ctc_loss",
    "multiclass_generalized_dice_loss",  # another formula
    "ranking_softmax_loss",  # tests/test_ranking.py compares it
    "triplet_margin_loss",  # below
}


def test_every_row_of_optax_is_compared():
    assert set(OPTAX) | set(MEANS) | ELSEWHERE == set(NAMES["optax.losses"])


@pytest.mark.parametrize("theirs", MEANS)
def test_a_row_of_optax_has_the_same_mean(theirs: str):
    losses = pytest.importorskip("optax").losses
    y_true, y_pred = MEANS[theirs]
    ours, options = NAMES["optax.losses"][theirs]
    axis: dict[str, Any] = {"class_axis": None} if theirs == "binary_dice_loss" else {}
    with jax.numpy_dtype_promotion("standard"):
        expected = np.mean(getattr(losses, theirs)(y_pred, y_true))
    result = jaxloss.LOSSES[ours](y_true, y_pred, **axis, **eval(f"dict({options})"))
    np.testing.assert_allclose(result, expected, rtol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("theirs", "y_true"), [("CategoricalFocalCrossentropy", ONE_HOT), ("CategoricalGeneralizedCrossEntropy", LABELS)]
)
def test_a_row_of_keras_has_the_same_mean(theirs: str, y_true: Any):
    os.environ.setdefault("KERAS_BACKEND", "jax")
    losses = pytest.importorskip("keras").losses
    ours, options = NAMES["keras.losses"][theirs]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected = getattr(losses, theirs)()(y_true, SOFT)
    result = jaxloss.LOSSES[ours](y_true, SOFT, **eval(f"dict({options})"))
    np.testing.assert_allclose(result, expected, rtol=2e-5)


def test_triplets_of_optax_have_the_same_numbers():
    theirs = pytest.importorskip("optax").losses.triplet_margin_loss
    points = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    np.testing.assert_allclose(jaxloss.triplet(*points, reduction="none"), theirs(*points), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("theirs", OPTAX)
def test_a_row_of_optax_has_the_same_numbers(theirs: str):
    losses = pytest.importorskip("optax").losses
    y_true, y_pred, factor = OPTAX[theirs]
    ours, options = NAMES["optax.losses"][theirs]
    target = ONE_HOT if theirs.startswith("multiclass") else y_true
    expected = getattr(losses, theirs)(y_pred, y_true)
    result = jaxloss.LOSSES[ours](target, y_pred, reduction="none", **eval(f"dict({options})"))
    np.testing.assert_allclose(factor * result, expected, rtol=2e-5, atol=2e-6)
