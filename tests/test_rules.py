"""Nothing is silent: options, integers, domains and what clients give are taken as meant, or refused with the cure.

One function for each rule, for each of what it is tried on. `python -m tests.test_rules` prints the table: rule, tried,
passed.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import conftest  # noqa: F401
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ROWS, Row
from contract import close, refuses, run
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxloss as jl

RULES: dict[str, list[Any]] = {}


def rule(title: str, cases: Iterable[Any] = ((),)) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Enter a rule in the table, with what it is tried on: tuples of arguments, the first of which name the case."""

    def enter(test: Callable[..., None]) -> Callable[..., None]:
        for case in cases:
            case = case if isinstance(case, tuple) else (case,)
            name = "-".join(str(getattr(x, "id", x)) for x in case if isinstance(x, (str, Row))) or test.__name__
            RULES.setdefault(title, []).append(pytest.param(test, case, id=f"{title.split()[0]} {name}"))
        return test

    return enter


# ---------------------------------------------------------------------------------------------------------------------
# Options

# One value for each of three units, inside the domain of the option.
KNOBS = {
    "delta": [0.5, 1.0, 2.0],
    "beta": [0.3, 0.8, 2.0],
    "gamma": [0.5, 1.5, 3.0],
    "alpha": [0.2, 0.5, 0.9],
    "level": [0.1, 0.5, 0.9],
    "label_smoothing": [0.0, 0.2, 0.5],
    "pos_weight": [0.5, 1.0, 3.0],
    "z_loss": [0.0, 1e-2, 0.5],
    "epsilon": [-1.0, 0.5, 2.0],
    "power": [0.3, 0.7, 1.0],
    "weight": [0.2, 0.5, 0.9],
    "temperature": [0.5, 1.0, 3.0],
}
FAMILIES = ("regression", "classification", "focal", "divergence")


def of(*families: str) -> list[Row]:
    """One row of each loss of these families: from logits, where it takes them."""
    rows = [row for row in ROWS if jl.LOSSES[row.name].__module__.removeprefix("jaxloss.") in families]
    return list({row.name: row for row in sorted(rows, key=lambda row: row.options.get("from_logits", False))}.values())


ROW_OF = {row.name: row for row in of(*FAMILIES)}
PAIRS = [
    (row, key)
    for row in ROW_OF.values()
    for key in KNOBS
    if key in inspect.signature(jl.LOSSES[row.name]).parameters and (row.name, key) != ("categorical_focal", "alpha")
]


def by_unit(row: Row, arrays: Any, key: str, knob: np.ndarray) -> np.ndarray:
    """The oracle, of each unit with an option of its own."""
    knob = np.broadcast_to(knob, row.losses(arrays).shape)
    want = np.zeros(knob.shape)
    for i in np.ndindex(knob.shape):
        want[i] = row.losses(tuple(x[i] for x in arrays), **{key: knob[i]})
    return want


@rule("1 options match the units from the right", PAIRS)
def options(row: Row, key: str) -> None:
    """(K,) is one for each column, the shape of all units one for each; any other shape is refused."""
    loss, arrays = jl.LOSSES[row.name], row.make((2, 3))
    column = np.array(KNOBS[key], np.float32)
    each = np.stack([column, column[::-1]])
    fixed = {k: v for k, v in row.options.items() if k != key}

    def call(knob: Any, *arrays: Any, reduction: str = "none") -> Any:
        return loss(*arrays, **fixed, **{key: knob}, reduction=reduction)

    def total(*given: Any) -> Any:
        return call(*given, reduction="sum")

    def all_ways(column: Any, each: Any, arrays: Any) -> Any:
        by = tuple(range(len(arrays) + 1))
        by = tuple(i for i in by if i == 0 or i - 1 in row.differentiable)
        one = jax.vmap(jax.vmap(jax.value_and_grad(total, by)))(each, *arrays)  # of a single unit, with a number
        return {
            "list": call(KNOBS[key], *arrays),
            "column": call(column, *arrays),
            "swept": jax.vmap(lambda c: call(c, *arrays))(each),
            "each": (call(each, *arrays), jax.grad(total, by)(each, *arrays)),
            "one": one,
            "by column": jax.grad(total)(column, *arrays),
            "by rows": jnp.sum(jax.grad(total)(jnp.stack([column, column]), *arrays), 0),
        }

    got = run(all_ways, column, each, arrays)
    close(got["list"], by_unit(row, arrays, key, column), "a list")
    close(got["column"], by_unit(row, arrays, key, column), "(K,)")
    close(got["swept"], np.stack([by_unit(row, arrays, key, c) for c in each]), "vmap over (K,)")
    close(got["each"][0], by_unit(row, arrays, key, each), "all units")
    close(got["each"], got["one"], "value and gradients, against one unit at a time", rtol=2e-6)
    close(got["by column"], got["by rows"], "the gradient by (K,)", rtol=2e-6)
    for wrong, cure in (
        (column[:1], f"{key}[0]"),
        (column[:2], f"{key}[:, None]"),
        (each[:, :1], "broadcast_to"),
        (each[None], f"{key}[0]"),
        (each.T, f"{key}.T"),
    ):
        words = (f"{row.name}: {key} has shape {wrong.shape}", "the losses have shape (2, 3)", "(3,)", cure)
        refuses(ValueError, words, call, wrong, *arrays)
    with pytest.raises(ValueError, match=key):
        call(np.ones((1,), np.float32), *(x[0] for x in arrays))


@rule("1 options match the units from the right", [(row, AxisType.Explicit) for row in of("regression", "focal")[-2:]])
def options_over_devices(row: Row, kind: AxisType) -> None:
    """An option with an axis fits units that are spread over a mesh."""
    key = next(key for name, key in PAIRS if name.id == row.id)
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(kind, kind))
    arrays = row.make((2, 4))
    knob = np.linspace(0.3, 0.9, 4, dtype=np.float32)

    def both(knob: Any, *arrays: Any) -> Any:
        return jax.value_and_grad(lambda k, *a: jl.LOSSES[row.name](*a, **{**row.options, key: k}))(knob, *arrays)

    want = run(both, knob, *arrays)
    spread = [jax.device_put(x, NamedSharding(mesh, P("data", "model"))) for x in arrays]
    for at in (P(), P("model")):
        close(run(both, jax.device_put(knob, NamedSharding(mesh, at)), *spread), want, f"the option over {at}")


@rule("1 options match the units from the right")
def options_checked() -> None:
    """`checked` says which entry of an option is outside."""
    y, p = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    words = ("huber: delta must be at least 0: 1 of 3 is not, the first at index (1,), which is -1.",)
    refuses(jl.BadValueError, words, jl.checked(jl.huber), y, p, delta=np.array([0.5, -1, 2], np.float32))


# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("test", "case"), [case for cases in RULES.values() for case in cases])
def test_rules(test: Callable[..., None], case: tuple[Any, ...]):
    test(*case)


def main() -> int:
    print(f"{'rule':60} tried passed")
    good = True
    for title, cases in RULES.items():
        passed = 0
        for case in cases:
            test, arguments = case.values
            try:
                test(*arguments)
            except Exception as error:
                print(f"  {case.id}: {error}", file=sys.stderr)
            else:
                passed += 1
        good &= passed == len(cases)
        print(f"{title:60} {len(cases):5} {passed:6}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
