"""Pictures and the explorer's numbers, computed by jaxloss while the site is built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from cards import CARDS, Curve
from matplotlib.figure import Figure

import jaxloss as jl

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
POINTS = 121
STEPS = 25

mpl.rcParams |= {
    "font.size": 9,
    "svg.hashsalt": "jaxloss",  # the same picture is the same file
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "axes.prop_cycle": mpl.cycler(color=OKABE_ITO),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "legend.handlelength": 1.2,
}

Tables = dict[str, dict[str, Any]]


def tabulate(curve: Curve) -> dict[str, Any]:
    """Value and gradient over x, for the values that are drawn and then for a sweep of the option."""
    x = jnp.linspace(curve.low, curve.high, POINTS)
    if not curve.option:
        return {"x": x, "drawn": [None], "lines": [jax.vmap(jax.value_and_grad(curve.of))(x)], "swept": []}
    swept = np.linspace(curve.values[0], curve.values[-1], STEPS)
    options = jnp.asarray([*curve.values, *swept], jnp.float32)
    at = jax.vmap(jax.value_and_grad(curve.of), in_axes=(0, None))
    values, slopes = jax.jit(jax.vmap(at, in_axes=(None, 0)))(x, options)
    lines = list(zip(np.asarray(values), np.asarray(slopes), strict=True))
    return {"x": x, "drawn": list(curve.values), "lines": lines, "swept": swept}


def draw(curve: Curve, table: dict[str, Any], path: Path) -> None:
    figure = Figure(figsize=(6.6, 2.7), layout="constrained")
    for axes, which, title in zip(figure.subplots(1, 2), (0, 1), ("loss", "gradient"), strict=True):
        for value, line in zip(table["drawn"], table["lines"], strict=False):
            label = None if value is None else f"{curve.option}={value:.3g}"
            axes.plot(table["x"], np.where(np.isfinite(line[which]), line[which], np.nan), label=label, linewidth=1.8)
        axes.set_title(title, loc="left", fontsize=9, fontweight="bold")
        if curve.option and which == 0:
            axes.legend(fontsize=8)
    figure.supxlabel(curve.label, fontsize=9)
    figure.savefig(path, metadata={"Date": None})


def shortened(numbers: Any) -> list[float | None]:
    """Four digits are enough to draw with; JSON has no infinity."""
    return [float(f"{v:.4g}") if np.isfinite(v) else None for v in np.asarray(numbers, float).ravel()]


# ---------------------------------------------------------------------------------------------------------------------
# Boxes

GRID = 41
REACH = 3.0  # the centre of the box moves so far from that of the target, which is 2 wide
SIZES = ((2.0, 2.0), (1.0, 1.0), (3.0, 1.2))


def box_tables() -> dict[str, Any]:
    """Loss and its descent direction for a box anywhere on a grid, for each loss of boxes and each size."""
    target = jnp.asarray([-1.0, -1.0, 1.0, 1.0])
    offsets = jnp.linspace(-REACH, REACH, GRID)
    centres = jnp.stack(jnp.meshgrid(offsets, offsets), -1).reshape(-1, 2)
    names = [name for name, loss in jl.LOSSES.items() if loss.__module__ == "jaxloss.boxes"]
    losses: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        fixed = {"iou_loss_mean": 0.6} if name in ("wiou_v2", "wiou_v3") else {}

        def of(centre: Any, size: Any, name: str = name, fixed: dict[str, float] = fixed) -> Any:
            return jl.LOSSES[name](target, jnp.concatenate([centre - size / 2, centre + size / 2]), **fixed)

        at = jax.jit(jax.vmap(jax.value_and_grad(of), in_axes=(0, None)))
        for size in SIZES:
            values, slopes = at(centres, jnp.asarray(size))
            losses.setdefault(name, []).append({"loss": shortened(values), "gradient": shortened(slopes)})
    return {"grid": GRID, "reach": REACH, "sizes": SIZES, "losses": losses}


# ---------------------------------------------------------------------------------------------------------------------
# The pictures of the tutorial, which lie beside it so that GitHub shows them


def tutorial(folder: Path) -> None:
    """-log p; the three losses of regression; smooth L1 beside the other two."""
    p = jnp.linspace(0.01, 1, 200)
    figure = Figure(figsize=(4.2, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.plot(p, jax.vmap(lambda p: jl.nll(0, jnp.log(p)[None]))(p), linewidth=2)
    axes.set(xlabel="probability of the right class", ylabel="-log p")
    figure.savefig(folder / "tutorial-log.svg", metadata={"Date": None})

    e = jnp.linspace(-3, 3, 241)
    for name, shown in {"tutorial-three": ("mae", "mse", "huber"), "tutorial-smooth": ("huber", "mae", "mse")}.items():
        figure = Figure(figsize=(6.6, 2.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        for loss in shown:
            values, slopes = jax.vmap(jax.value_and_grad(lambda e, loss=loss: jl.LOSSES[loss](0.0, e)))(e)
            color = OKABE_ITO[("mae", "mse", "huber").index(loss)]
            style = {"color": color, "linewidth": 3 if name == "tutorial-smooth" and loss == "huber" else 1.5}
            left.plot(e, values, label="smooth L1" if loss == "huber" else loss, **style)
            right.plot(e, slopes, **style)
        left.set(xlabel="f(x) - y", ylabel="loss", ylim=(0, 4))
        right.set(xlabel="f(x) - y", ylabel="gradient", ylim=(-4, 4))
        left.legend()
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


def make(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    explored = {}
    for name, card in CARDS.items():
        table = tabulate(card.curve)
        draw(card.curve, table, folder / f"{name}.svg")
        lines = table["lines"][len(table["drawn"]) :] or table["lines"]
        explored[name] = {
            "label": card.curve.label,
            "option": card.curve.option,
            "x": [card.curve.low, card.curve.high],
            "swept": shortened(table["swept"]),
            "loss": [shortened(line[0]) for line in lines],
            "gradient": [shortened(line[1]) for line in lines],
        }
    tutorial(folder.parent / "guides")
    data = json.dumps({"curves": explored, "boxes": box_tables()}, separators=(",", ":"))
    (folder / "explorer-data.js").write_text(f"const JAXLOSS = {data};\n", encoding="utf-8")
