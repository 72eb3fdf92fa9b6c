"""What another package gets of the contract: a wheel, installed elsewhere, and losses of its own held to the laws."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import refuses

from jaxloss import contract
from jaxloss.contract import LABEL, LABELS, LOGITS, NUMBER, NUMBERS, POSITIVE, ArrayLike, losses

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_losses_of_another_package(tmp_path: Path):
    """From the wheel, in a new environment: two right losses keep all laws, and three wrong ones are caught."""

    def run(*command: str | Path) -> str:
        environment = {name: x for name, x in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run([*map(str, command)], cwd=tmp_path, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    (packages,) = (tmp_path / "venv").glob("[Ll]ib/**/site-packages")
    run(*pip, "install", "--quiet", "--no-deps", "--target", packages, wheel)
    # What jaxloss needs is taken from here; a path file of an editable jaxloss does not count there.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    project = tmp_path / "project"
    project.mkdir()
    shutil.copy(ROOT / "tests" / "own_losses.py", project)
    where, *wrong = run(python, project / "own_losses.py").splitlines()
    assert Path(where).is_relative_to(packages)
    assert [line.split()[:2] for line in wrong] == [
        ["unscaled", "breaks"],
        ["all_candidates", "breaks"],
        ["times_mask", "breaks"],
    ]


@contract.compiled
def mean_surprisal(y_true: ArrayLike, y_pred: ArrayLike):
    """Of several labels in one row of logits."""

    def example(labels: jax.Array, z: jax.Array) -> jax.Array:
        z = z.astype(jnp.float32)
        return jnp.mean(jax.nn.logsumexp(z) - z[labels])

    return losses(example, {"y_true": (y_true, LABELS), "y_pred": (y_pred, LOGITS)}, reduction="none")


def test_labels_outside_in_a_row_of_labels():
    labels, z = np.array([[0, 2, 1], [1, 7, 0], [2, -100, 1]]), np.zeros((3, 3), np.float32)
    np.testing.assert_allclose(mean_surprisal(labels, z), [np.log(3), np.nan, np.nan], rtol=1e-6)


@contract.compiled
def spread_of_matrices(y_pred: ArrayLike):
    holds = {"y_pred": (y_pred, contract.PROBABILITY._replace(core=2))}
    return losses(lambda p: jnp.max(p) - jnp.min(p), holds, reduction="none")


def test_entries_outside_of_a_matrix():
    p = np.full((3, 2, 4), 0.5, np.float32)
    p[0, 1, 2], p[1, 0, 3] = 0.75, 1.5
    np.testing.assert_array_equal(spread_of_matrices(p), [0.25, np.nan, 0])


@contract.compiled
def unsummed(y_true: ArrayLike, y_pred: ArrayLike):
    return losses(lambda y, p: (y - p) ** 2, {"y_true": (y_true, NUMBERS), "y_pred": (y_pred, NUMBERS)})


def test_labels_beside_what_has_no_rows():
    @contract.compiled
    def misplaced(labels: ArrayLike, x: ArrayLike):
        return losses(lambda label, x: x, {"labels": (labels, LABEL), "x": (x, NUMBER)})

    refuses(ValueError, ("misplaced: labels is declared as LABEL", "x holds no rows", "ID"), misplaced, 1, 2.0)


def test_a_mask_of_one_loss_of_a_row():
    """Of entries that the formula sees together it would leave out one, and change the loss of another."""

    @contract.compiled
    def steps(x: ArrayLike, where: ArrayLike | None = None):
        holds = {"x": (x, NUMBERS)}
        return losses(lambda x: jnp.cumsum(x), holds, outputs=1, where=where, reduction="none")

    np.testing.assert_array_equal(steps([[1.0, 2.0], [3.0, 4.0]], where=[True, False]), [[1, 3], [0, 0]])
    words = ("steps: where masks single losses of a row", "all of x", "alone=True")
    refuses(ValueError, words, steps, [[1.0, 2.0]], where=[[False, True]])


def test_an_option_without_an_annotation_is_learned():
    @contract.compiled
    def scaled(y_true, y_pred, *, scale=1.0):
        inputs = {"y_true": (y_true, NUMBER), "y_pred": (y_pred, NUMBER)}
        return losses(lambda y, p, scale: scale * (y - p), inputs, options={"scale": (scale, POSITIVE)})

    assert jax.grad(lambda scale: scaled(3.0, 1.0, scale=scale))(2.0) == 2


def test_a_formula_that_forgets_its_sum():
    words = ("unsummed: the formula returned an array of shape (3,) for one unit, expected one number.", "its sum?")
    refuses(ValueError, words, unsummed, np.ones((2, 3)), np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("returned", "words"),
    [(None, "NoneType"), ((1.0, 2.0), "tuple")],
)
def test_a_formula_that_returns_no_array(returned: Any, words: str):
    @contract.compiled
    def nothing(y_true: ArrayLike, y_pred: ArrayLike):
        return losses(lambda y, p: returned, {"y_true": (y_true, NUMBER), "y_pred": (y_pred, NUMBER)})

    refuses(TypeError, (f"nothing: the formula returned {words}, expected an array",), nothing, 1.0, 2.0)


def test_an_input_that_does_not_say_what_it_holds():
    @contract.compiled
    def bare(y_true: ArrayLike, y_pred: ArrayLike):
        return losses(lambda y, p: y - p, {"y_true": y_true, "y_pred": (y_pred, NUMBER)})  # pyright: ignore

    words = "bare: y_true is declared by an array alone, expected a pair, as in (y_true, NUMBER)."
    refuses(TypeError, (words,), bare, np.ones(2), np.ones(2))


@pytest.mark.parametrize(
    ("holds", "domain", "words"),
    [
        (POSITIVE, POSITIVE, ("y_true is declared by the Domain 'above 0 and finite', expected a Holds.", "Did you")),
        (NUMBER, (0, 1), ("scale is declared by (0, 1), expected a Domain or Holds.",)),
    ],
)
def test_declarations_in_the_wrong_words(holds: Any, domain: Any, words: tuple[str, ...]):
    @contract.compiled
    def misdeclared(y_true: ArrayLike, y_pred: ArrayLike):
        inputs = {"y_true": (y_true, holds), "y_pred": (y_pred, NUMBER)}
        return losses(lambda y, p, scale: (y - p) * scale, inputs, options={"scale": (1.0, domain)})

    refuses(TypeError, ("misdeclared: ", *words), misdeclared, 1.0, 2.0)
