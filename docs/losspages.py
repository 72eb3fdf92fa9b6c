"""The pages that are made of the library: one for each loss and each other public name, the gallery, the tables.

What a page says comes from the signature, the docstring, `jaxloss._names` and `cards`. A public name that lacks any of
it stops the build.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import inspect
import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import curves
from cards import CARDS, TASKS
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

import jaxloss
from jaxloss import LOSSES, contract, mining
from jaxloss._contract import types
from jaxloss._names import NAMES

HERE = Path(__file__).parent
SECTIONS = ("Args", "Returns", "Raises", "Example", "Source")
# All that is public and no loss, with the module that it is taken from.
OTHERS = {name: jaxloss for name in jaxloss.__all__ if name not in LOSSES and name != "LOSSES"}
OTHERS = dict(sorted((OTHERS | dict.fromkeys(mining.__all__, mining)).items(), key=lambda entry: entry[0].lower()))

# ---------------------------------------------------------------------------------------------------------------------
# Docstrings


def sections(thing: Any) -> dict[str, str]:
    """A docstring by its sections; what stands before them is "", what follows the last of them as well."""
    parts: dict[str, list[str]] = {"": []}
    current = ""
    for line in (inspect.getdoc(thing) or "").splitlines():
        name, colon, rest = line.partition(":")
        if colon and name in SECTIONS:
            current, line = name, rest.strip()
        elif line and not line.startswith(" ") and current not in ("", "Source"):
            current = ""
        parts.setdefault(current, []).append(line)
    return {name: inspect.cleandoc("\n".join(lines)).strip() for name, lines in parts.items()}


def linked(text: str, here: str = "") -> str:
    """Names of losses in backticks lead to their pages."""

    def link(match: re.Match[str]) -> str:
        name = match[1]
        if name == here:
            return match[0]
        folder = "losses" if name in LOSSES else "reference" if name in OTHERS else ""
        return f"[`{name}`](/{folder}/{name}.md)" if folder else match[0]

    # A literal block of reStructuredText, as `help` shows it, is indented and follows two colons.
    text = re.sub(r"::\n\n((?:    .*\n?|\n)+)", lambda m: f":\n\n```python\n{inspect.cleandoc(m[1])}\n```\n", text)
    return re.sub(r"(?<!\[)`([a-z_0-9]+)`", link, text)


def items(text: str) -> Iterator[tuple[str, str]]:
    """The entries of Args or Raises: a name and what is said of it."""
    for entry in re.split(r"\n(?=\S)", text):
        name, _, said = entry.partition(":")
        yield name.strip(), " ".join(said.split())


def shown(loss: Callable[..., Any]) -> str:
    """The signature without types, which the page gives beside each argument."""
    parameters = inspect.signature(loss).parameters.values()
    signature = inspect.Signature([p.replace(annotation=p.empty) for p in parameters])
    return str(signature)


def arguments(thing: Callable[..., Any], text: str) -> str:
    lines = []
    parameters = inspect.signature(thing).parameters
    for name, said in items(text):
        known = parameters.get(name)
        kind = str(known.annotation).strip("'\"") if known and known.annotation is not known.empty else ""
        # An array is what an input is anyhow.
        kind = "" if kind == "ArrayLike" else kind.replace(" | Array", " or array").replace(" | None", "")
        kind = kind.replace("ArrayLike", "array")
        default = "" if known is None or known.default in (known.empty, None) else f", default `{known.default!r}`"
        if re.fullmatch(r"\w+", name):
            name = f"`{name}`"
        lines.append(f"{name}{f' ({kind}{default})' if kind else ''}\n: {linked(said)}\n")
    return "\n".join(lines)


def elsewhere(name: str) -> str:
    rows = [
        (library, f"`{theirs}`", f"`{name}(y_true, y_pred{', ' + options if options else ''})`")
        for library, table in NAMES.items()
        for theirs, (ours, options) in table.items()
        if ours == name
    ]
    return markdown(["library", "its name", "here"], rows) if rows else ""


def formula(name: str) -> str:
    return CARDS[name].formula


# ---------------------------------------------------------------------------------------------------------------------
# Pages


def loss_page(name: str) -> str:
    loss, card, said = LOSSES[name], CARDS[name], sections(LOSSES[name])
    family = loss.__module__.rpartition(".")[2]
    summary, _, more = said[""].partition("\n\n")
    title = summary.partition(":")[0].rstrip(".")
    parts = [
        f"# {name}",
        f"*{family}: {title}*",
        f"$$\n{formula(name)}\n$$",
        f"Use it when {linked(card.use, name)}.",
        f"```{{py:function}} jaxloss.{name}{shown(loss)}\n```",
        linked(summary, name),
        linked(more, name),
        f"![{name}: value and gradient](/_made/{name}.svg)",
        "## Arguments",
        arguments(loss, said["Args"]),
        "## Returns",
        linked(said["Returns"], name),
        "## Errors",
        linked(said["Raises"].replace("\n", " ")),
        "## Example",
        f"```pycon\n{said['Example']}\n```",
    ]
    if table := elsewhere(name):
        parts += [
            "## In other libraries",
            table,
            "Arguments there come in another order: see [](/guides/coming-from.md).",
        ]
    parts += [
        "## Source",
        linked(said["Source"], name),
        f"<details><summary>The code, from <code>jaxloss/{family}.py</code></summary>\n",
        f"```python\n{inspect.getsource(inspect.unwrap(loss))}```",
        "</details>",
        "## See also",
        "\n".join(f"- [`{other}`](/losses/{other}.md): {linked(CARDS[other].use, other)}" for other in card.see),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def other_page(name: str) -> str:
    thing = getattr(OTHERS[name], name)
    said = sections(thing)
    kind = "exception" if isinstance(thing, type) and issubclass(thing, Exception) else "function"
    kind = "class" if isinstance(thing, type) and kind == "function" else kind
    parts = [
        f"# {name}",
        f"```{{py:{kind}}} {OTHERS[name].__name__}.{name}{shown(thing) if kind == 'function' else ''}\n```",
    ]
    parts.append(linked(said.pop(""), name))
    for section, text in said.items():
        if section == "Args":
            text = arguments(thing, text)
        elif section == "Example":
            text = f"```pycon\n{text}\n```"
        else:
            text = linked(text, name)
        parts.append(f"## {'Errors' if section == 'Raises' else section}\n\n{text}")
    return "\n\n".join(parts) + "\n"


def contract_page() -> str:
    pieces, inputs, options, aliases = [], [], [], described(types)
    for name in contract.__all__:
        thing = getattr(contract, name)
        if isinstance(thing, contract.Holds):
            inputs.append((f"`{name}`", thing.kind, thing.core, thing.domain.text.format(last="K-1")))
        elif isinstance(thing, contract.Domain):
            options.append((f"`{name}`", thing.text))
        else:
            own = isinstance(thing, type) or inspect.isfunction(thing)
            doc = ((inspect.getdoc(thing) if own else aliases[name]) or "").partition("\n\n")[0]
            pieces.append((f"`{name}`", linked(" ".join(doc.split())).replace("|", r"\|")))
    return "\n\n".join(
        [
            "# jaxloss.contract",
            "What the losses are made of, for writing one's own: see [](/guides/own.md).",
            markdown(["name", "what it is"], pieces),
            "## What an input holds",
            "Each is a `Holds`; the axes are those of one example.",
            markdown(["name", "kind", "axes", "an entry is"], inputs),
            re.sub(r"(?m)^(\w+):", r"- `\1`:", aliases["Kind"].partition("\n\n")[2]),
            "## What an option may be",
            "Each is a `Domain`; `Holds(domain=...)` makes one of an input.",
            markdown(["name", "an entry is"], options),
        ]
    )


def described(module: ModuleType) -> dict[str, str]:
    """What the strings after the assignments of a module say of its names."""
    body = ast.parse(inspect.getsource(module)).body
    return {
        line.target.id: after.value.value
        for line, after in itertools.pairwise(body)
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str)
    }


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def families() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, loss in LOSSES.items():
        found.setdefault(loss.__module__.rpartition(".")[2], []).append(name)
    return found


def gallery() -> str:
    def buttons(group: str, choices: dict[str, str]) -> str:
        made = "".join(
            f'<button type="button" data-{group}="{key}" aria-pressed="false">{escape(text)}</button>'
            for key, text in choices.items()
        )
        return f'<div class="filter" role="group" aria-label="{group}"><span>{group}</span>{made}</div>'

    cards = []
    for family, names in families().items():
        for name in sorted(names):
            card = CARDS[name]
            use = re.sub(r"`(\w+)`", r"<code>\1</code>", escape(card.use))
            cards.append(
                f'<a class="card" href="losses/{name}.html" data-family="{family}" data-task="{" ".join(card.tasks)}">'
                f'<h2>{name}</h2><img loading="lazy" src="_static/{name}.svg" alt="value and gradient of {name}">'
                f'<p class="math notranslate nohighlight">\\({escape(card.formula)}\\)</p><p>when {use}</p></a>'
            )
    return "\n\n".join(
        [
            "# Gallery",
            f"All {len(LOSSES)} losses. The pictures are drawn by the library while this site is built: on the left "
            "the value, on the right the gradient.",
            "```{raw} html",
            buttons("family", {name: name for name in families()})
            + buttons("task", TASKS)
            + '<p class="count" aria-live="polite"></p>'
            + f'<div class="cards">{"".join(cards)}</div><script src="_static/gallery.js"></script>',
            "```\n",
        ]
    )


def index_pages() -> dict[str, str]:
    toc = ["# Losses", "One page for each loss; the [gallery](/gallery.md) shows them all at once."]
    for family, names in families().items():
        module: ModuleType = __import__(f"jaxloss.{family}", fromlist=["_"])
        summary = (module.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
        toc += [f"## {family}", linked(summary)]
        toc.append("\n".join(["```{toctree}", ":maxdepth: 1", "", *sorted(names), "```"]))
    others = "\n".join(["```{toctree}", ":maxdepth: 1", "", *OTHERS, "contract", "```"])
    about = "# Reference\n\nAll that is public and no loss itself. `LOSSES` has every loss by its name.\n\n"
    return {"losses/index.md": "\n\n".join(toc) + "\n", "reference/index.md": about + others + "\n"}


# ---------------------------------------------------------------------------------------------------------------------
# Notebooks

NOTEBOOKS = HERE.parent / "notebooks"
# Which of its pictures stands for a notebook.
FRONT = {
    "01_losses": 6,
    "02_detection": 3,
    "03_ctc": 3,
    "04_language_model": 1,
    "05_embeddings": 1,
    "06_segmentation": 0,
    "07_devices": 1,
}


def not_run(notebook: Path) -> bool:
    """Whether some cell was changed since `dev.py notebooks` ran them all, in order."""
    cells = [cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    return [cell["execution_count"] for cell in cells] != list(range(1, len(cells) + 1))


def drawn(notebook: Path) -> list[tuple[str, bytes]]:
    """The pictures of a notebook: their formats and bytes."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", ())]
    return [
        (kind.removeprefix("image/"), base64.b64decode(data))
        for output in outputs
        for kind, data in output.items()
        if kind.startswith("image/")
    ]


# ---------------------------------------------------------------------------------------------------------------------
# The build


def complete() -> None:
    """Every public name has what its page needs, and every notebook was run."""
    faults = [f"docs/cards.py: no Card for {name}" for name in LOSSES if name not in CARDS]
    faults += [f"docs/cards.py: {name} is no loss" for name in CARDS if name not in LOSSES]
    for name, loss in LOSSES.items():
        lacking = [section for section in SECTIONS if not sections(loss).get(section)]
        faults += [f"{name}: its docstring has no {section}" for section in lacking]
    for name, card in CARDS.items():
        faults += [f"docs/cards.py: {name} sees {other}, which is no loss" for other in card.see if other not in LOSSES]
        faults += [f"docs/cards.py: {name} has the task {task}, see TASKS" for task in card.tasks if task not in TASKS]
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        faults += [f"{path.name} was not run: python3 dev.py notebooks {path.stem}"] if not_run(path) else []
        faults += [f"docs/losspages.py: FRONT has no {path.stem}"] if path.stem not in FRONT else []
    faults += [
        f"{module.__name__}.{name} has no docstring"
        for name, module in OTHERS.items()
        if not inspect.getdoc(getattr(module, name))
    ]
    if faults:
        raise ExtensionError("\n".join(["the site is incomplete:", *faults]))


def write(path: Path, text: str) -> None:
    """Write what is new only, so that Sphinx reads no page twice."""
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def pictures() -> None:
    """Draw again only after the library or the drawing has changed."""
    made = HERE / "_made"
    sources = [*sorted((HERE.parent / "jaxloss").rglob("*.py")), HERE / "cards.py", HERE / "curves.py"]
    wanted = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    stamp = made / "stamp"
    if not stamp.exists() or stamp.read_text() != wanted:
        curves.make(made)
        stamp.write_text(wanted)
    mathjax = made / "tex-svg.js"
    if not mathjax.exists():
        shutil.copy(str(resources.files("mathjax") / "static/mathjax/es5/tex-svg.js"), mathjax)


def make(app: Sphinx) -> None:
    complete()
    pictures()
    pages = {f"losses/{name}.md": loss_page(name) for name in LOSSES}
    pages |= {f"reference/{name}.md": other_page(name) for name in OTHERS}
    pages |= {"reference/contract.md": contract_page(), "gallery.md": gallery()}
    differences = (HERE.parent / "DIFFERENCES.md").read_text(encoding="utf-8")
    pages["guides/differences.md"] = differences.replace("[README.md](README.md)", "[all losses](contract.md)")
    pages |= index_pages()
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        pages[f"notebooks/{path.name}"] = path.read_text(encoding="utf-8")
        kind, picture = drawn(path)[FRONT[path.stem]]
        (HERE / "_made" / f"{path.stem}.{kind}").write_bytes(picture)
    for path in (path for made in ("losses/*.md", "reference/*.md", "notebooks/*.ipynb") for path in HERE.glob(made)):
        if str(path.relative_to(HERE)) not in pages:
            path.unlink()
    for path, text in pages.items():
        write(HERE / path, text)


# What GitHub shows in the repository is a page of its own here.
ELSEWHERE = {
    "](../../README.md#the-losses)": "](/gallery.md)",
    "](../../DIFFERENCES.md)": "](/guides/differences.md)",
    "](../../notebooks/": "](/notebooks/",
    "`jaxloss.contract`": "[`jaxloss.contract`](/reference/contract.md)",
}


def as_of_the_site(app: Sphinx, page: str, source: list[str]) -> None:
    """A page that GitHub shows, too: here names lead to their pages, and an index has a table of contents."""
    if page.partition("/")[0] not in ("guides", "recipes", "zh") or page == "guides/differences":
        return
    lines, code = source[0].splitlines(), False
    for i, line in enumerate(lines):
        code ^= line.startswith("```")
        if not code and not line.startswith(("#", "```")):
            for here, there in ELSEWHERE.items():
                line = line.replace(here, there)
            lines[i] = linked(line)
    text = "\n".join(lines) + "\n"
    if page.endswith("/index"):
        pages = re.findall(r"^- \[[^]]*\]\(([\w/-]+)\.md\)", text, re.MULTILINE)
        text += "\n".join(["", "```{toctree}", ":hidden:", "", *pages, "```", ""])
    source[0] = text


def setup(app: Sphinx) -> dict[str, bool]:
    (HERE / "_made").mkdir(exist_ok=True)  # Sphinx looks for it before anything is made
    app.connect("builder-inited", make)
    app.connect("source-read", as_of_the_site)
    app.set_html_assets_policy("always")  # MathJax on the gallery, whose formulas are plain HTML
    return {"parallel_read_safe": True, "parallel_write_safe": True}
