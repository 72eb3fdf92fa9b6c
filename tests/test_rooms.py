"""The house stays in order: what knows a compiler has its room, imports point down, names that cross are public."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from cases import ROWS, Row
from contract import same_family

import jaxloss

PACKAGE = Path(jaxloss.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# Each room, and what lies below it.
LAYERS = [
    "_platform",
    "_numerics",
    "_names",
    "_contract",
    "sharding",
    "_laws",
    "contract",
    "family",
    "__init__",
    "__main__",
]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def layer_of(module: str) -> str:
    parts = module.split(".")
    room = parts[1] if len(parts) > 1 else "__init__"
    return room if room in LAYERS else "family"


def imports(path: Path) -> Iterator[tuple[ast.ImportFrom, str]]:
    """All imports of a module of the package, with the module that each is of."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jaxloss":
            if node.module is not None and (PACKAGE.parent / node.module.replace(".", "/")).is_dir():
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                found = [name for name in names if any(module_of(file) == name for file in FILES)]
                yield from ((node, name) for name in found or [node.module])
            else:
                yield node, node.module or ""


def test_only_one_room_knows_compilers():
    words = re.compile(r"\bXLA\b|\bCPU\b|barrier|\bfus(?:e|es|ed|ing|ion)\b")
    found = [
        f"{path.relative_to(PACKAGE)}:{i}: {line.strip()}"
        for path in FILES
        if layer_of(module_of(path)) != "_platform"
        for i, line in enumerate(path.read_text().splitlines(), 1)
        if words.search(line)
    ]
    assert not found, "\n".join(found)


def test_imports_point_downwards():
    wrong = []
    for path in FILES:
        module = module_of(path)
        for node, target in imports(path):
            own, other = layer_of(module), layer_of(target)
            if LAYERS.index(other) > LAYERS.index(own) or (own == other == "family"):
                wrong.append(f"{module} (line {node.lineno}) imports {target}")
    assert not wrong, "\n".join(wrong)


def test_no_import_hides_in_a_function():
    wrong = [
        f"{module_of(path)}: line {node.lineno}"
        for path in FILES
        if path.name != "__main__.py"
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxloss")
    ]
    assert not wrong, "\n".join(wrong)


def test_names_that_cross_modules_have_no_underscore():
    wrong = [
        f"{module_of(path)} imports {alias.name} of {node.module}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxloss")
        for alias in node.names
        if alias.name.startswith("_") and alias.name not in ("_contract", "_numerics", "_platform", "_names")
    ]
    assert not wrong, "\n".join(wrong)


def test_the_contract_knows_no_loss_by_name():
    wrong = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {node.value!r}"
        for path in (PACKAGE / "_contract").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in jaxloss.LOSSES
    ]
    assert not wrong, "\n".join(wrong)


def test_all_means_what_python_means():
    """Every public function and class of a family is in its `__all__`, and nothing else."""
    for path in FILES:
        module = module_of(path)
        if layer_of(module) != "family":
            continue
        tree = ast.parse(path.read_text())
        public = {
            node.name
            for node in tree.body
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
        }
        listed = set(__import__(module, fromlist=["__all__"]).__all__)
        assert listed == public, f"{module}: {sorted(listed ^ public)}"


# One of each family.
ROWS_LOWERED = list({same_family(row): row for row in reversed(ROWS)}.values())


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("row", [pytest.param(row, id=row.id) for row in ROWS_LOWERED])
def test_what_one_compiler_needs_reaches_no_other(row: Row, platform: str):
    """Lowered for another platform than the CPU a loss stops its compiler at no array: only at single numbers.

    But on a TPU the four corners of boxes are taken `at_once`, and so are the hidden states of a chunk of linear_cce;
    and on a GPU it may be a number for each row (`apart`).
    """
    loss, arrays = row.judged(jaxloss.LOSSES[row.name]), row.make((8,))
    step = jax.value_and_grad(lambda *a: loss(*a, **row.options), row.differentiable)
    text = jax.jit(step).trace(*arrays).lower(lowering_platforms=(platform,)).as_text()
    rank = max(x.ndim for x in arrays)
    each_row = r"(?!8x[a-z])" if platform == "cuda" and rank > 1 else ""
    stops = re.findall(rf"optimization_barrier.*tensor<{each_row}\d.*", text)
    at_once = {"jaxloss.boxes": 4, "jaxloss.linear": 1}.get(loss.__module__, 0) if platform == "tpu" else 0
    assert bool(stops) == bool(at_once)
    assert all(stop.count("tensor<8x") == at_once for stop in stops)
    if platform == "cuda":  # several sums in one, of columns, take more shared memory than a GPU has
        assert not [line for line in text.splitlines() if "stablehlo.reduce(" in line and line.count("init:") > 2]
