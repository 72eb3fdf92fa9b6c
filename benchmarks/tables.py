"""Tables, and the numbers in them."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown that is readable as text, too."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(x.ljust(w) for x, w in zip(line, widths, strict=True)) + " |" for line in lines)


def shown(x: float | None, form: str = ".2f") -> str:
    return "-" if x is None else format(x, form)


def spread(x: tuple[float, float, float] | None) -> str:
    return "-" if x is None else f"{x[0]:.2f} ({x[1]:.2f}..{x[2]:.2f})"


def megabytes(x: int | None) -> str:
    return "-" if x is None else f"{x / 1e6:.0f}" if x >= 1e7 or x < 5e4 else f"{x / 1e6:.1f}"
