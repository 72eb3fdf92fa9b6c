"""The tests of other libraries, as witnesses: each is run against jaxloss, and every difference has a reason.

`python -m peers optax` (or rax, keras, torch; from the folder `tests`) runs one suite and writes what came of it, one
line a test, to `RESULTS`. `tests/test_peers.py` starts the four in processes of their own, since they need other
settings than our suite, and judges them by the list in `differences.py`, from which `DIFFERENCES.md` is printed too.

`summary()` reads the results of the last run, for whoever reports them:

    [{"peer": "optax", "version": "0.2.8", "run": 178, "agree": 90, "differ": 8, "not ours": 80}, ...]

The four numbers add up: run = agree + differ + not ours. All that differ are on the list, or test_peers.py fails.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

RESULTS = Path(__file__).resolve().parent.parent.parent / ".pytest_cache" / "peers"
PEERS = ("optax", "rax", "keras", "torch")

# For these the list in differences.py holds; the extra `peers` of pyproject.toml installs them.
VERSIONS = {"optax": "0.2.8", "rax": "0.4.0", "keras": "3.15.1", "torch": "2.13.0"}

Outcome = Literal["agree", "differ", "not ours"]


@dataclass(frozen=True)
class Result:
    """What came of one test of a peer.

    test: its name: `Class.test`, or for PyTorch `function[number of the sample]` and the sample in words.
    outcome: it passes with our losses; it does not; or it asks for none that we have.
    why: the beginning of the error, where it differs.
    """

    test: str
    outcome: Outcome
    why: str = ""


def save(peer: str, results: list[Result]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{peer}.json").write_text(json.dumps([asdict(result) for result in results], indent=1))


def load(peer: str) -> list[Result]:
    """The results of the last run of a suite; a FileNotFoundError if there was none."""
    return [Result(**entry) for entry in json.loads((RESULTS / f"{peer}.json").read_text())]


def summary() -> list[dict[str, Any]]:
    """The counts of the suites that were run, see above."""
    rows = []
    for peer in PEERS:
        if (RESULTS / f"{peer}.json").exists():
            counts = Counter(result.outcome for result in load(peer))
            outcomes = {outcome: counts[outcome] for outcome in ("agree", "differ", "not ours")}
            rows.append({"peer": peer, "version": VERSIONS[peer], "run": counts.total(), **outcomes})
    return rows
