"""Every promise of the contract, kept by every row: the cell that fails is named check-row."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest
from cases import FAMILIES, ROWS, Row
from contract import CHECKS, cells, same_family

import jaxloss


@pytest.mark.parametrize(
    ("check", "row"),
    [pytest.param(name, row, id=f"{name}-{row.id}", marks=marks) for name, row, marks in cells(ROWS)],
)
def test_contract(check: str, row: Row):
    CHECKS[check](row, row.judged(jaxloss.LOSSES[row.name]))


def test_nothing_is_forgotten():
    """A loss is a function in a family, its name in `__all__`, and a row: this says which of the three is missing."""
    rows = {row.name for row in ROWS}
    forgotten = [f"{name}: no row in tests/cases" for name in jaxloss.LOSSES if name not in rows]
    forgotten += [
        f"{name}: a row in tests/cases, but no such loss in jaxloss.LOSSES" for name in rows - set(jaxloss.LOSSES)
    ]
    forgotten += [
        f"{name}: in LOSSES, but not in jaxloss.__all__" for name in set(jaxloss.LOSSES) - set(jaxloss.__all__)
    ]
    for family in FAMILIES:
        name = family.__name__.replace("cases", "jaxloss")
        forgotten += [
            f"{row.id}: a row in {family.__name__}, but the loss is not in {name}"
            for row in family.ROWS
            if row.name in jaxloss.LOSSES and same_family(row) != name
        ]
    for _, module_name, _ in pkgutil.iter_modules(jaxloss.__path__):
        if module_name.startswith("_"):
            continue
        module = importlib.import_module(f"jaxloss.{module_name}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            public = function.__module__ == module.__name__ and not name.startswith("_")
            public = public and inspect.signature(function).return_annotation == "Array"  # a loss, and nothing besides
            if public and "reduction" in inspect.signature(function).parameters and name not in jaxloss.LOSSES:
                forgotten.append(f"{name}: a function in {module_name}.py, but not in its __all__ or not in LOSSES")
    assert not forgotten, "\n".join(forgotten)
    ids = [row.id for row in ROWS]
    assert len(ids) == len(set(ids)), "two rows have the same id"
