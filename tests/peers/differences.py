"""Where jaxloss differs from its peers, and why: the list that judges their tests, and that DIFFERENCES.md shows.

It is strict. A test that differs must be named by exactly one entry; one that an entry names must differ; and an entry
names as many tests as it says. So the list stays true when the losses, or the peers, change.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from peers import PEERS, VERSIONS, Result


@dataclass(frozen=True)
class Difference:
    """A reason, and the tests that differ for it.

    kind: whether the peer is wrong, or our contract decided otherwise.
    about: what of the peer it concerns, in its own names.
    tests: a regular expression that the whole name of each test matches.
    count: how many tests that are.
    reason: one sentence or two.
    """

    peer: str
    kind: Literal["their bug", "contract"]
    about: str
    tests: str
    count: int
    reason: str


@dataclass(frozen=True)
class NotOurs:
    """Tests of a peer that call no loss of ours; the fields are those of a `Difference`."""

    peer: str
    about: str
    tests: str
    count: int


DIFFERENCES = (
    # optax
    Difference(
        "optax",
        "contract",
        "kl_divergence, kl_divergence_with_log_targets, generalized_kl_divergence",
        r"(Generalized)?KLDivergence(WithLogTargets)?Test\.test_(mask|axis)\d",
        15,
        "The tests take normally distributed numbers for log-probabilities. A probability above 1 is outside the "
        "domain, and makes its loss NaN, never a plausible number.",
    ),
    Difference(
        "optax",
        "contract",
        "dice_loss",
        r"DiceLossTest\.test_improved_shape_handling",
        1,
        "Shapes must be equal: a missing class axis is an error that names both shapes, optax adds it.",
    ),
    Difference(
        "optax",
        "contract",
        "dice_loss(apply_softmax=False)",
        r"DiceLossTest\.test_probability_validation",
        1,
        "Classes may overlap, so probabilities need not add up to 1. optax raises an error if they do not; since it "
        "looks at values for that, its function cannot be compiled.",
    ),
    Difference(
        "optax",
        "contract",
        "cosine_similarity, inside ntxent",
        r"NtxentTest\.test_batched",
        1,
        "It compares all pairs by broadcasting (n, 1, d) against (1, n, d). Nothing is broadcast here.",
    ),
)

NOT_OURS = (
    NotOurs("optax", "ranking losses", r"RankingLossesTest\..*", 13),
    NotOurs("optax", "triplet_margin_loss", r"TripletMarginLossTest\..*", 3),
    NotOurs("optax", "smooth_labels, here an option", r"SmoothLabelsTest\..*", 2),
    NotOurs("optax", "multiclass_sparsemax_loss", r"SparsemaxTest\.test_multi_class_.*", 2),
    NotOurs("optax", "ctc_loss_with_forward_probs", r"CTCTest\.test_with_one_to_one_alignment", 1),
)

# What the suites gave when the list was made: agree, differ, not ours. test_peers.py holds the next run to it.
COUNTS = {
    "optax": (139, 18, 21),
}


def complaints(peer: str, results: Sequence[Result]) -> list[str]:
    """What the list says of the results of a suite that is not so."""
    found = []
    lists = {
        "differ": [entry for entry in DIFFERENCES if entry.peer == peer],
        "not ours": [entry for entry in NOT_OURS if entry.peer == peer],
    }
    names: Counter[str] = Counter(result.test for result in results)
    found += [f"{name}: {count} tests have this name" for name, count in names.items() if count > 1]
    for outcome, entries in lists.items():
        hits: Counter[str] = Counter()
        for result in results:
            named = [entry for entry in entries if re.fullmatch(entry.tests, result.test)]
            hits.update(entry.tests for entry in named)
            if result.outcome == outcome and not named:
                found.append(f"{result.test}: {outcome}, and is not on the list. {result.why}")
            if result.outcome != outcome and named:
                found.append(f"{result.test}: on the list ({named[0].about}: {outcome}), but: {result.outcome}")
            if len(named) > 1:
                found.append(f"{result.test}: on the list twice ({named[0].tests} and {named[1].tests})")
        found += [
            f"{entry.tests}: names {hits[entry.tests]} tests, and says {entry.count}"
            for entry in entries
            if hits[entry.tests] != entry.count
        ]
    counts = Counter(result.outcome for result in results)
    measured = (counts["agree"], counts["differ"], counts["not ours"])
    if measured != COUNTS[peer]:
        found.append(f"{peer}: agree, differ, not ours: {measured}, the list says {COUNTS[peer]}")
    return found


# ---------------------------------------------------------------------------------------------------------------------
# The page

NAMES = {"optax": "optax", "keras": "Keras", "torch": "PyTorch"}

HEAD = """# Where jaxloss differs, and why

Other libraries have tests of the same losses. They are run against jaxloss, from the packages as they are installed,
and each test that does not pass is here with its reason: either the other library is wrong (their bug), or the contract
of [README.md](README.md) decided otherwise (contract). The list is strict: a test that differs for no reason of the
list, or that agrees although it is on the list, fails our own suite. This page is printed from that list
(`tests/peers/differences.py`), and a test compares the two.

| library | its tests | agree | differ | not ours |
|---|---|---|---|---|
"""

ABOUT = {
    "optax": """Its unit tests of `optax.losses`, with our losses in the places of its functions. A test that finds NaN
equal to NaN compares nothing: it counts as different.""",
}


def page() -> str:
    """DIFFERENCES.md. `python -m peers.differences > ../DIFFERENCES.md` writes it."""
    peers = [peer for peer in PEERS if peer in COUNTS]
    text = HEAD
    for peer in peers:
        agree, differ, other = COUNTS[peer]
        text += f"| {NAMES[peer]} {VERSIONS[peer]} | {agree + differ + other} | {agree} | {differ} | {other} |\n"
    for peer in peers:
        text += f"\n## {NAMES[peer]}\n\n{ABOUT[peer]}\n\n| what | tests | kind | reason |\n|---|---|---|---|\n"
        for entry in DIFFERENCES:
            if entry.peer == peer:
                text += f"| {entry.about} | {entry.count} | {entry.kind} | {entry.reason} |\n"
        others = [f"{entry.about} ({entry.count})" for entry in NOT_OURS if entry.peer == peer]
        text += f"\nNot ours: {', '.join(others)}.\n"
    return text


if __name__ == "__main__":
    print(page(), end="")
