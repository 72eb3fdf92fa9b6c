"""What a checkout can do, from a bare Python 3.11 or newer with pip:

  python3 dev.py demo                        the demonstration
  python3 dev.py test                        the quick tests; arguments go to pytest: python3 dev.py test -k huber
  python3 dev.py check                       what to run before each commit: style, types, examples, wrong losses that
                                             the tests must catch, and one loss of each family
  python3 dev.py docs                        the site, in build/site: a page for each loss, guides, recipes
  python3 dev.py notebooks [NAME ...]        make notebooks/NAME.ipynb of NAME.py, run it, keep what it prints and draws
  python3 dev.py new NAME --family FAMILY    stubs of an elementwise loss, such as `new quartic --family regression`

The first use makes `.venv` beside this file (for the site `.venv-docs`) and installs jaxloss into it, editable.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = "Scripts/python.exe" if sys.platform == "win32" else "bin/python"
PYTHON = VENV / BIN


def install(extra: str, folder: Path = VENV) -> Path:
    """Install the project with this extra, unless that was done for this very checkout, pyproject.toml and Python."""
    python = folder / BIN
    there = f"{sys.version} {ROOT}".encode()
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + there).hexdigest()
    stamp = folder / f"installed-{extra}"
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"Installing jaxloss[{extra}] into {folder.name} (once) ...", file=sys.stderr, flush=True)
    if not python.exists():
        venv.create(folder, with_pip=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, "--editable", f"{ROOT}[{extra}]"], check=True)
    stamp.write_text(wanted)
    return python


def python(*arguments: str) -> int:
    return subprocess.run([str(PYTHON), "-m", *arguments], cwd=ROOT).returncode


def demo(arguments: list[str]) -> int:
    install("demo")
    return python("jaxloss", *arguments)


def test(arguments: list[str]) -> int:
    install("test")
    return python("pytest", *arguments)


def check(arguments: list[str]) -> int:
    install("check")
    # It uses one core, the tests all of them. Benchmarks and peers would need other libraries.
    typed = ["jaxloss", "tests/cases", *map(str, ROOT.glob("tests/*.py")), "dev.py"]
    types = subprocess.Popen([str(PYTHON), "-m", "pyright", *typed], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    failed = python("ruff", "check", ".") | python("ruff", "format", "--check", ".")
    files = ["jaxloss", *(f"tests/test_{name}.py" for name in ("contract", "contract_catches", "readme", "typing"))]
    failed |= python("pytest", "-m", "not slow and not nightly and not again", *files, *arguments)
    print(types.communicate()[0])
    return int(bool(failed or types.returncode))


def docs(arguments: list[str]) -> int:
    sphinx = [str(install("docs", ROOT / ".venv-docs")), "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet"]
    failed = subprocess.run([*sphinx, *arguments, "docs", "build/site"], cwd=ROOT).returncode
    if not failed:
        print("The site: build/site/index.html")
    return failed


def notebooks(arguments: list[str]) -> int:
    """What they print and draw is kept in git: GitHub shows it, and the site, which does not run them."""
    install("notebooks")
    for name in arguments or sorted(path.stem for path in ROOT.glob("notebooks/*.py")):
        made = f"notebooks/{name}.ipynb"
        failed = (
            python("jupytext", "--quiet", "--update", "--to", "ipynb", f"notebooks/{name}.py")
            or python("jupyter", "execute", "--inplace", "--timeout=600", made)
            or python("nbstripout", "--keep-output", "--keep-count", made)
        )
        if failed:
            return failed
    return 0


# ---------------------------------------------------------------------------------------------------------------------
# A new loss

IMPORTS = (
    "from typing import Unpack",
    "from jax import Array",
    "from jaxloss.contract import NUMBER, POSITIVE, ArrayLike, Units, loss, losses",
)
LOSS = '''

@loss
def {name}(y_true: ArrayLike, y_pred: ArrayLike, *, scale: float | Array = 1.0, **units: Unpack[Units]) -> Array:
    """TODO what it is called: `TODO the formula`.

    Args:
      y_true: (...) targets.
      y_pred: (...) predictions.
      scale: TODO, above 0.

    Returns:
      The mean over elements; with `reduction="none"` one loss per element, shape (...).

    Raises:
      ValueError: shapes that differ, a scale that is not positive.

    Example:
      >>> print({name}([0.0, 0.0], [1.0, 3.0]))  # TODO by hand
      TODO

    Source: TODO. Agrees with TODO.
    """

    def element(y: Array, p: Array, scale: float | Array) -> Array:
        raise NotImplementedError("TODO: the formula for one element")

    inputs = {{"y_true": (y_true, NUMBER), "y_pred": (y_pred, NUMBER)}}
    return losses(element, inputs, options={{"scale": (scale, POSITIVE)}}, elementwise=True, **units)
'''
TABLE_IMPORTS = ("from cases.common import LENGTH, REALS, RESIDUAL", "from cases.row import REAL")
ORACLE = """def {name}(y, p, scale=1.0):
    raise NotImplementedError("TODO: the formula in NumPy, from the paper and not from the library")


"""
ROW = """
    Row(
        "{name}",
        lambda rng, batch: (rng.normal(size=batch), rng.normal(size=batch)),
        {name},
        {{"scale": 0.4}},
        hard=REAL,
        ties=([0.0, 2.5], [0.0, 2.5]),  # where the derivative is 0
        refused=({{"scale": -1.0}}, {{"scale": float("nan")}}),
    ),
"""
LAWS = """
    Subject("{name}", REALS, RESIDUAL, LENGTH, {{"scale": 0.4}}),  # TODO which hold, and why not the others
"""


STEPS = """Written: stubs in {files}.
1. All that says TODO: the loss in jaxloss/{family}.py, and its formula once more, with its laws, in
   tests/cases/{family}.py.
2. python3 dev.py test -k {name}
3. python3 dev.py check, which also says what is missing elsewhere, with a draft: the row of the README.
"""


def new(arguments: list[str]) -> int:
    cases = ROOT / "tests" / "cases"
    families = sorted(path.stem for path in cases.glob("[a-z]*.py") if (ROOT / "jaxloss" / path.name).exists())
    parser = argparse.ArgumentParser(prog="dev.py new", description="Write the stubs of an elementwise loss.")
    parser.add_argument("name", help="of the loss, such as log_cosh")
    parser.add_argument("--family", required=True, choices=families)
    given = parser.parse_args(arguments)
    name, family = given.name, given.family
    if not name.isidentifier() or name != name.lower():
        parser.error(f"{name} is no name of a loss: small letters, digits and underscores, such as log_cosh")
    files = [ROOT / "jaxloss" / "__init__.py", ROOT / "jaxloss" / f"{family}.py", cases / f"{family}.py"]
    package, module, rows = (path.read_text(encoding="utf-8") for path in files)
    if name in ast.literal_eval(_assigned(package, "__all__").value):
        parser.error(f"there is a jaxloss.{name} already")

    module = _imports(_listed(module, name), *IMPORTS) + LOSS.format(name=name)
    package = _imports(_listed(package, name), f"from jaxloss.{family} import {name}")
    rows = _entered(_entered(rows, "LAWS", LAWS.format(name=name)), "ROWS", ROW.format(name=name))
    lines = rows.splitlines(keepends=True)
    lines.insert(_assigned(rows, "ROWS").lineno - 1, ORACLE.format(name=name))
    rows = _imports("".join(lines), *TABLE_IMPORTS)

    install("check")
    for path, text in zip(files, (package, module, rows), strict=True):
        path.write_text(text, encoding="utf-8")
    shown = [str(path.relative_to(ROOT)) for path in files]
    python("ruff", "check", "--quiet", "--fix", "--select", "I,RUF022", *shown)
    python("ruff", "format", "--quiet", *shown)
    print(STEPS.format(name=name, family=family, files=", ".join(shown)))
    return 0


def _assigned(source: str, name: str) -> ast.Assign:
    """The statement of a module that assigns this name."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return node
    raise ValueError(f"no {name} = ...")


def _entered(source: str, table: str, entry: str) -> str:
    """The module with one more entry in one of its tables."""
    end = _assigned(source, table).end_lineno
    assert end is not None
    lines = source.splitlines(keepends=True)
    lines.insert(end - 1, entry)
    return "".join(lines)


def _listed(source: str, name: str) -> str:
    """The module with one more name in its `__all__`."""
    node = _assigned(source, "__all__")
    names = [*ast.literal_eval(node.value), name]
    lines = source.splitlines(keepends=True)
    lines[node.lineno - 1 : node.end_lineno] = [f"__all__ = {names!r}\n"]
    return "".join(lines)


def _imports(source: str, *imports: str) -> str:
    """The module with more imports, where the first stands: ruff puts them in order, and each name once."""
    first = next(node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom))
    lines = source.splitlines(keepends=True)
    future = isinstance(first, ast.ImportFrom) and first.module == "__future__"
    lines[first.lineno - 1 + future : first.lineno - 1 + future] = [f"{line}\n" for line in imports]
    return "".join(lines)


COMMANDS = {"demo": demo, "test": test, "check": check, "docs": docs, "notebooks": notebooks, "new": new}


def main(arguments: list[str]) -> int:
    if sys.version_info < (3, 11):  # noqa: UP036  somebody may start this file with any Python
        print(f"jaxloss needs Python 3.11 or newer, this is {sys.version.split()[0]}.", file=sys.stderr)
        return 2
    if not arguments or arguments[0] not in COMMANDS:
        print(__doc__, file=sys.stderr)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    return COMMANDS[arguments[0]](arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
