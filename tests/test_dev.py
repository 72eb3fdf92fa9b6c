"""What surrounds the library: `dev.py`, the steps of `.ci/run` and the files that GitHub reads."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(folder: Path, *arguments: str) -> str:
    paths = os.pathsep.join(map(str, (folder, folder / "tests")))
    environment = {**os.environ, "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    return done.stdout + done.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what `dev.py new` reads and writes."""
    for name in ("jaxloss", "tests/cases"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("dev.py", "pyproject.toml", "tests/contract.py", "tests/hard_inputs.py", "tests/laws.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def new(checkout: Path, *arguments: str) -> str:
    """`dev.py new` with the Python of the tests, which needs no installation."""
    code = "import sys, dev; dev.PYTHON, dev.install = sys.executable, lambda extra: None; dev.main(sys.argv[1:])"
    return run(checkout, "-c", code, "new", *arguments)


@pytest.mark.slow
def test_new_writes_a_loss_that_lacks_its_formula(checkout: Path):
    said = new(checkout, "quartic", "--family", "regression")
    assert "python3 dev.py test -k quartic" in said, said
    assert "NotImplementedError: TODO: the formula for one element" in run(checkout, "-c", CALL)
    for file in (checkout / "jaxloss" / "regression.py", checkout / "tests" / "cases" / "regression.py"):
        text = file.read_text()
        file.write_text(re.sub(r"raise NotImplementedError\(.*\)", "return ((p - y) / scale) ** 4", text))
    said = run(checkout, "-c", CALL)
    assert said == "16.0\n", said


CALL = """
import jaxloss
import laws
import numpy as np
from contract import CHECKS
from cases import regression

print(jaxloss.quartic([0.0], [1.0], scale=0.5))
row = regression.ROWS[-1]
laws.LAWS["convex"](regression.LAWS[-1], (np.float32([1.0, 0.0]), np.float32([2.0, 0.0])), np.float32([-3.0, 1.0]))
for name in ("signature", "value", "traced_options", "options_refused", "ties", "mask"):
    CHECKS[name](row, jaxloss.LOSSES["quartic"])
"""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["huber", "--family", "regression"], "there is a jaxloss.huber already"),
        (["log-cosh", "--family", "regression"], "log-cosh is no name of a loss"),
        (["quartic", "--family", "regress"], "invalid choice: 'regress'"),
        (["quartic"], "--family"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_new_refuses(arguments: list[str], words: str, checkout: Path):
    before = [path.read_bytes() for path in sorted(checkout.rglob("*.py"))]
    assert words in new(checkout, *arguments)
    assert before == [path.read_bytes() for path in sorted(checkout.rglob("*.py"))]


def steps(which: str) -> list[str]:
    found = re.search(rf"^{which}=\((.*)\)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert found
    return found[1].split()


@pytest.mark.parametrize(("which", "file"), [("steps", "ci"), ("night", "nightly")])
def test_github_runs_all_steps(which: str, file: str):
    workflow = (ROOT / ".github" / "workflows" / f"{file}.yml").read_text()
    assert f"step: [{', '.join(steps(which))}]\n" in workflow


def test_only_steps_are_run():
    done = subprocess.run([ROOT / ".ci" / "run", "style", "stile"], capture_output=True, text=True)
    assert done.returncode == 2
    known = f"{' '.join(steps('steps'))}, and for the night: {' '.join(steps('night'))}"
    assert done.stderr == f"stile is no step; there are: {known}\n"


def test_one_address():
    """The repository's is that of pyproject.toml; the notebooks need it too, for their badges."""
    address = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    owner = address.removeprefix("https://github.com/")
    kinds = ("md", "py", "ipynb", "toml", "cff", "yml")
    files = [
        path for kind in kinds for where in ("", "[!.]*/**/", ".github/**/") for path in ROOT.glob(f"{where}*.{kind}")
    ]
    for path in files:
        named = re.findall(r"github(?:\.com)?/([\w-]+/jaxloss)\b", path.read_text(encoding="utf-8"))
        assert set(named) <= {owner}, path
        assert not named or path.name == "pyproject.toml" or path.parent.name == "notebooks", f"{path} has it, too"
