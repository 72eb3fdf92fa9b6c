"""The README tells the truth: its code runs and prints what it says, its table of losses is that of the library."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest
from contract import CHECKS
from test_rules import RULES

import jaxloss

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "DIFFERENCES.md")
SHARED = ("axis", "weights", "where", "reduction")


def blocks(language: str, document: str = "README.md") -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def promised(code: str) -> list[str]:
    """What a block says that it prints, line by line."""
    return re.findall(r"^ *print\(.*\)  # (.*)$", code, re.MULTILINE)


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: f"block{blocks('python').index(code)}")
def test_code_prints_what_it_says(code: str, capsys: pytest.CaptureFixture[str]):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as a reader has them
        exec(compile(code, "README.md", "exec"), {})
    assert promised(code) == capsys.readouterr().out.splitlines()


@pytest.mark.slow
def test_blocks_need_no_more_than_the_install_line(tmp_path: Path):
    """In an empty venv with what the line installs."""
    venv.create(tmp_path, with_pip=True)
    python = tmp_path / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    (line,) = (line for line in blocks("bash")[0].splitlines() if line.startswith("pip install"))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run([python, "-m", *shlex.split(line, comments=True)], cwd=ROOT, env=clean, check=True)
    for code in blocks("python"):
        said = subprocess.run([python, "-c", code], cwd=tmp_path, env=clean, check=True, capture_output=True, text=True)
        assert said.stdout.splitlines() == promised(code)


# ---------------------------------------------------------------------------------------------------------------------
# The contract

# By topic, the checks of contract.py, and the rules of test_rules.py by number, that hold the losses to it.
KEPT_BY: dict[str, tuple[str | int, ...]] = {
    "order": ("signature", "lists", "integers", "dtypes"),
    "units": ("value", "documentation"),
    "shapes": ("shapes", "from_the_left", "value"),
    "`where`": ("mask", "nothing_left", "masks_and_weights_refused"),
    "`weights`": ("weights", "zero_weight", "from_the_left", 5),
    "`reduction`": ("reductions", "nothing_left", 7, 15),
    "dtype": ("precision", "integers", 4),
    "options": ("traced_options", "one_trace", "options_refused", 1, 3),
    "transformations": (
        *("transformations", "one_example", "gradient", "inside_scan"),
        *("automatic_sharding", "explicit_sharding", "inside_shard_map", 11),
    ),
    "numerics": ("hard_inputs", "hard_bfloat16", "hard_float64", "hard_mixtures", "ties"),
    "outside the domain": ("outside_domain", "labels_outside", "nan_is_loud", "dtypes", "options_refused", 5, 9),
}


def test_each_line_of_the_contract_is_kept_by_a_test():
    lines = README.partition("\n## The contract\n")[2].partition("\n## ")[0].splitlines()
    topics = [line.split("|")[1].strip() for line in lines if line.startswith("| ")][1:]
    assert topics == list(KEPT_BY)
    rules = {int(title.split()[0]) for title in RULES}
    unknown = {kept for checks in KEPT_BY.values() for kept in checks} - set(CHECKS) - rules
    assert not unknown


# ---------------------------------------------------------------------------------------------------------------------
# The table of losses

Row = tuple[str, str, str]  # family, loss, own options


def table() -> dict[str, Row]:
    """The rows of the README by name of the loss."""
    rows: dict[str, Row] = {}
    section = README.partition("\n## The losses\n")[2].partition("\n## ")[0]
    for part in section.split("\n### ")[1:]:
        family, _, lines = part.partition("\n")
        for line in lines.splitlines():
            if not line.startswith("| `"):
                continue
            call, definition, options, unit = (cell.strip() for cell in line.strip("|").split("|"))
            assert definition, f"{call}: no definition"
            assert unit, f"{call}: no unit"
            name = call.strip("`").partition("(")[0]
            assert name not in rows, f"{name}: two rows"
            rows[name] = (family, call, options)
    return rows


def row_of(name: str, loss: Callable[..., Any]) -> Row:
    """What the row of a loss must say."""
    parameters = inspect.signature(loss).parameters.values()
    arrays = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
    own = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in SHARED]
    call = f"`{name}`" if arrays == ["y_true", "y_pred"] else f"`{name}({', '.join(arrays)})`"
    return loss.__module__.removeprefix("jaxloss."), call, " ".join(f"`{option(p)}`" for p in own)


def option(parameter: inspect.Parameter) -> str:
    default = parameter.default
    if default is parameter.empty:
        return parameter.name
    return f"{parameter.name}={default:g}" if isinstance(default, float) else f"{parameter.name}={default!r}"


def draft(name: str, loss: Callable[..., Any]) -> str:
    """A row to begin with, from the signature and the docstring."""
    family, call, options = row_of(name, loss)
    text = inspect.getdoc(loss) or ""
    definition = text.partition("\n")[0].partition(": ")[2].rstrip(".")
    unit = re.search(r"one loss (?:per|an?) (\w+)", text)
    return f"### {family}\n| {call} | {definition} | {options} | {unit[1] if unit else ''} |"


def test_the_table_is_complete():
    missing = [draft(name, loss) for name, loss in jaxloss.LOSSES.items() if name not in table()]
    assert not missing, "README.md lacks\n" + "\n".join(missing)


def test_the_table_has_nothing_else():
    assert set(table()) <= set(jaxloss.LOSSES)


@pytest.mark.parametrize("name", table())
def test_the_row_has_the_family_and_the_options(name: str):
    assert table()[name] == row_of(name, jaxloss.LOSSES[name])


# ---------------------------------------------------------------------------------------------------------------------
# Commands and links


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    monkeypatch.syspath_prepend(str(ROOT))
    import dev

    return set(dev.COMMANDS)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_exist(document: str, commands: set[str]):
    text = (ROOT / document).read_text(encoding="utf-8")
    assert set(re.findall(r"python3 dev\.py (\w+)", text)) <= commands
    lines = "".join(blocks("bash", document)).splitlines()
    unknown = [
        line
        for line in lines
        if not re.match(r"python3 dev\.py \w|pip install |python -m |\.ci/run|ruff |pyright", line)
    ]
    assert not unknown
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    for wanted in re.findall(r"\[([\w,]+)\]\"", "".join(blocks("bash", document))):
        assert set(wanted.split(",")) <= extras


# What GitHub shows of the documentation; other pages are made for the site.
PAGES = [
    str(path.relative_to(ROOT)) for folder in ("guides", "recipes", "zh") for path in ROOT.glob(f"docs/{folder}/*.md")
]


@pytest.mark.parametrize("document", [*DOCUMENTS, *sorted(set(PAGES) - {"docs/guides/differences.md"})])
def test_links_lead_somewhere(document: str):
    path = ROOT / document
    links = re.findall(r"\]\((?!https?://)([^)]+)", path.read_text(encoding="utf-8"))
    for link in links:
        there, _, heading = link.partition("#")
        target = path.parent / there if there else path
        assert target.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings], link
