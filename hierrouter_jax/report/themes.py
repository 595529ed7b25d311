"""Colours and axes that every figure shares, for light and dark pages.

Hues are Okabe and Ito's, told apart by readers of every colour vision (Color Universal Design, 2008); a hue never
carries meaning alone: markers, hatches or words repeat it. Figures are made with matplotlib's object interface, so
nothing global is set.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DPI = 160


@dataclass(frozen=True, kw_only=True)
class Theme:
    """A page's background and the colours that can be read on it. `hues` go to the models in the pool's order."""

    name: str
    background: str
    text: str
    muted: str
    grid: str
    router: str
    oracle: str
    hues: tuple[str, ...]


LIGHT = Theme(
    name="light",
    background="#ffffff",
    text="#1c1c1c",
    muted="#6a6a6a",
    grid="#e2e2e2",
    router="#d55e00",
    oracle="#1c1c1c",
    hues=("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#b8a600", "#7f5539", "#6a4c93", "#8a8a8a"),
)
DARK = Theme(
    name="dark",
    background="#16181c",
    text="#e8e8e8",
    muted="#a5a5a5",
    grid="#34373d",
    router="#ff8a3d",
    oracle="#e8e8e8",
    hues=("#56b4e9", "#e69f00", "#2fc79a", "#e39ac6", "#8fa8ff", "#f0e442", "#c69c6d", "#b39ddb", "#bdbdbd"),
)
THEMES = (LIGHT, DARK)


def make_axes(theme: Theme, *, width_in: float, height_in: float) -> tuple[Figure, Axes]:
    """Return an empty figure of one pair of axes in the theme's colours, sizes in inches."""
    figure = Figure(figsize=(width_in, height_in), dpi=DPI, facecolor=theme.background, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_facecolor(theme.background)
    axes.grid(color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.muted, length=0, labelsize=9)
    for name, spine in axes.spines.items():
        spine.set_color(theme.grid)
        spine.set_visible(name in ("left", "bottom"))
    return figure, axes


def set_words(axes: Axes, theme: Theme, *, title: str, x_label: str, y_label: str) -> None:
    """Write the title, flush left, and the names of the axes."""
    axes.set_title(title, loc="left", color=theme.text, fontsize=11, fontweight="bold", pad=10)
    axes.set_xlabel(x_label, color=theme.text, fontsize=9.5)
    axes.set_ylabel(y_label, color=theme.text, fontsize=9.5)


def png_bytes(figure: Figure) -> bytes:
    """Return the figure as a PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
