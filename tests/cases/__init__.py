"""What is known of the losses, a file for each family: ROWS, LAWS and LIMITS.

ROWS: one row for each configuration of a loss: its inputs, and its formula once more, in NumPy and float64. Such an
oracle is written from the paper, never from the library: plain formulas with axes, no jax. It takes the arrays of the
loss as float64 (labels as integers), with any batch axes in front, and returns one loss for each unit. The checks of
contract.py do the rest; `Row` says what can be added.

LAWS: which laws a loss obeys, on which domain, and why not the others: a `Subject` of laws.py.

LIMITS: which other loss it becomes, at which options or inputs: a `Limit` of laws.py. A family may have none.

A new loss needs a row and a subject in its family's file.
"""

from cases import (
    boxes,
    classification,
    counts,
    divergence,
    focal,
    likelihood,
    linear,
    margin,
    metric,
    preference,
    ranking,
    regression,
    relative,
    robust,
    segmentation,
    sequence,
)
from cases.row import CLASSES, Row

FAMILIES = (
    classification,
    focal,
    margin,
    divergence,
    regression,
    robust,
    relative,
    likelihood,
    counts,
    sequence,
    linear,
    boxes,
    segmentation,
    preference,
    ranking,
    metric,
)
ROWS = tuple(row for family in FAMILIES for row in family.ROWS)
SUBJECTS = tuple(subject for family in FAMILIES for subject in family.LAWS)
LIMITS = tuple(limit for family in FAMILIES for limit in family.LIMITS)

__all__ = ["CLASSES", "FAMILIES", "LIMITS", "ROWS", "SUBJECTS", "Row"]
