"""The tests of optax, rax, Keras and PyTorch pass with our losses, but for the list in peers/differences.py."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from peers import PEERS, VERSIONS, Result, load
from peers.differences import COUNTS, DIFFERENCES, NOT_OURS, complaints, page

TESTS = Path(__file__).resolve().parent
MODULES = {
    "optax": ("optax", "absl"),
    "rax": ("rax", "absl"),
    "keras": ("keras", "absl"),
    "torch": ("torch", "expecttest"),
}


def missing(peer: str) -> str:
    """Why the suite of a peer cannot be run here, or nothing."""
    absent = [name for name in MODULES[peer] if importlib.util.find_spec(name) is None]
    if absent:
        return f"{absent[0]} is not installed: pip install -e '.[peers]'"
    version = importlib.metadata.version(peer).partition("+")[0]
    if version != VERSIONS[peer]:
        return f"{peer} is {version}, the list is that of {VERSIONS[peer]}: pip install -e '.[peers]'"
    return ""


@pytest.mark.nightly
@pytest.mark.parametrize("peer", PEERS)
def test_all_differences_are_on_the_list(peer: str):
    reason = missing(peer)
    if reason and not os.environ.get("JAXLOSS_PEERS"):  # `.ci/run report` sets it: there nothing may be left out
        pytest.skip(reason)
    assert not reason
    # A process of its own: promotion of dtypes, warnings and devices are the peer's, not those of our conftest.
    paths = os.pathsep.join(filter(None, [str(TESTS.parent), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "peers", peer]
    environment = {**os.environ, "PYTHONPATH": paths}
    run = subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True, timeout=1500)
    assert run.returncode == 0, run.stderr
    found = complaints(peer, load(peer))
    assert not found, "\n".join(found)


def test_the_page_shows_the_list():
    command = "python -m peers.differences > ../DIFFERENCES.md"
    assert (TESTS.parent / "DIFFERENCES.md").read_text(encoding="utf-8") == page(), f"in tests: {command}"


def test_the_list_adds_up():
    for peer, (_, differ, other) in COUNTS.items():
        assert differ == sum(entry.count for entry in DIFFERENCES if entry.peer == peer)
        assert other == sum(entry.count for entry in NOT_OURS if entry.peer == peer)
    assert all("|" not in entry.about + entry.reason for entry in DIFFERENCES), "it would end a cell of the table"


def test_the_list_is_strict():
    """What must fail does, each by a complaint that names the test."""
    listed, other = "DiceLossTest.test_improved_shape_handling", "SmoothLabelsTest.test_scalar"
    wrong = {
        "not on the list": Result("HuberLossTest.test_scalar", "differ", "a reason"),
        "has no loss of ours, and is not on the list": Result("HuberLossTest.test_batched", "not ours"),
        "on the list, but agrees": Result(listed, "agree"),
        "on the list as not ours, but agrees": Result(other, "agree"),
    }
    found = complaints("optax", list(wrong.values()))
    for what, result in wrong.items():
        assert any(line.startswith(f"{result.test}: ") for line in found), what
    assert any("names 0 tests" in line for line in found)
    twice = complaints("optax", [Result(listed, "differ")] * 2)
    assert f"{listed}: 2 tests have this name" in twice
