"""The demonstration as a user starts it, and what it says when something is wrong."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest


def python(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Python as a user has it: on one device, where the tests have eight."""
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def demo() -> Any:
    with warnings.catch_warnings(action="ignore"):  # what the libraries that draw and load data say on import
        from jaxloss import __main__
    return __main__


@pytest.mark.nightly  # .ci/run demo is the same by a user's command
def test_demonstration(tmp_path: Path):
    done = python("-m", "jaxloss", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr

    row = r"^ *(\S+) +(\S+) +(\S+)  (cce|bce|mae|mse|huber)\(\[.*\]\)$"
    rows = re.findall(row, done.stdout, re.MULTILINE)
    assert [name for *_, name in rows] == ["cce", "bce", "mae", "mse", "huber"]
    for documented, computed, difference, _ in rows:
        assert abs(float(documented) - float(computed)) < 1.1e-6
        assert float(difference) < 1e-6

    accuracy = re.search(r"^test accuracy: (\S+)$", done.stdout, re.MULTILINE)
    assert accuracy is not None
    assert float(accuracy[1]) >= 0.97
    assert "30/30" in done.stderr, "no progress bar"

    assert "picture: jaxloss-demo.png\n" in done.stdout
    assert [file.name for file in tmp_path.iterdir()] == ["jaxloss-demo.png"]
    picture = (tmp_path / "jaxloss-demo.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", picture[16:24])
    assert 1000 <= width <= 2000
    assert 600 <= height <= 1200
    assert len(picture) > 50_000, "hardly anything is drawn"


@pytest.mark.slow
def test_missing_extra(tmp_path: Path):
    without = "import sys, runpy; sys.modules['optax'] = None; runpy.run_module('jaxloss', run_name='__main__')"
    done = python("-c", without, folder=tmp_path)
    assert done.returncode == 1
    cure = 'in the folder of jaxloss, pip install ".[demo]"'
    assert done.stderr == f"The demonstration needs optax, which is not installed: {cure}\n"
    done = python("-c", f"import sys; sys.argv.append('--help'); {without}", folder=tmp_path)
    assert done.returncode == 0
    assert "--epochs" in done.stdout


def test_help(demo: Any, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        demo.main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("python -m jaxloss", "--output", "--epochs", "--seed"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--epochs", "many"], "--epochs: invalid int value: 'many'"),
        (["--seed", "-1"], "--seed must be between 0 and"),
        (["--output", "picture.txt"], "--output must end in .png, .pdf or .svg"),
        (["--output", "no/such/folder/picture.png"], "there is no folder"),
        (["--colour"], "unrecognized arguments: --colour"),
    ],
    ids=lambda value: "=".join(value) if isinstance(value, list) else "",
)
def test_bad_arguments(demo: Any, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        demo.main(arguments)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def test_wrong_output_fails(demo: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo, "DOCUMENTED", (("mae", [[0.0]], [[1.0]], 1.00001), ("mse", [[0.0]], [[1.0]], 1.0)))
    with pytest.raises(SystemExit, match=r"^Failed: more than 1e-06 away from the documented output: mae\.$"):
        demo.main([])


@pytest.fixture
def misread(demo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that ends just below the accuracy that is asked for."""
    monkeypatch.setattr(demo, "train", lambda epochs, seed: {"test accuracy": [0.969]})
    monkeypatch.setattr(demo, "draw", lambda history, output: None)


@pytest.mark.usefixtures("misread")
def test_low_accuracy_fails(demo: Any):
    with pytest.raises(SystemExit, match=r"^Failed: the test accuracy is below 0\.97\.$"):
        demo.main([])


@pytest.mark.usefixtures("misread")
def test_fewer_epochs_are_not_judged(demo: Any):
    demo.main(["--epochs", "29"])
