"""Colours and axes that every figure shares, for light and dark pages.

Hues are Okabe and Ito's, told apart by readers of every colour vision (Color Universal Design, 2008); a hue never
carries meaning alone: markers, hatches or words repeat it. Figures are made with matplotlib's object interface, so
nothing global is set. Contrast is that of WCAG 2.1: (lighter + 0.05) / (darker + 0.05) of relative luminances.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

DPI = 160
PAD_IN = 0.08  # between what is drawn and the picture's edge
MIN_CONTRAST = 4.5  # of words on the page (WCAG 2.1, level AA)


@dataclass(frozen=True, kw_only=True)
class Theme:
    """A page's background and the colours that can be read on it. `hues` go to the models in the pool's order."""

    background: str
    text: str
    muted: str
    grid: str
    router: str
    oracle: str
    hues: tuple[str, ...]


LIGHT = Theme(
    background="#ffffff",
    text="#1c1c1c",
    muted="#6a6a6a",
    grid="#e2e2e2",
    router="#d55e00",
    oracle="#1c1c1c",
    hues=("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#b8a600", "#7f5539", "#6a4c93", "#8a8a8a"),
)
DARK = Theme(
    background="#16181c",
    text="#e8e8e8",
    muted="#a5a5a5",
    grid="#34373d",
    router="#ff8a3d",
    oracle="#e8e8e8",
    hues=("#56b4e9", "#e69f00", "#2fc79a", "#e39ac6", "#8fa8ff", "#f0e442", "#c69c6d", "#b39ddb", "#bdbdbd"),
)


def make_axes(theme: Theme, *, width_in: float, height_in: float) -> tuple[Figure, Axes]:
    """Return an empty figure of one pair of axes in the theme's colours, sizes in inches."""
    layout = ConstrainedLayoutEngine(w_pad=PAD_IN, h_pad=PAD_IN)
    figure = Figure(figsize=(width_in, height_in), dpi=DPI, facecolor=theme.background, layout=layout)
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


def set_words(axes: Axes, theme: Theme, *, title: str, x_label: str, y_label: str, note: str = "") -> None:
    """Write the title, flush left, a note on how to read the picture, flush right, and the names of the axes."""
    axes.set_title(title, loc="left", color=theme.text, fontsize=11, fontweight="bold", pad=10)
    axes.set_title(note, loc="right", color=theme.muted, fontsize=8, pad=10)
    axes.set_xlabel(x_label, color=theme.text, fontsize=9.5)
    axes.set_ylabel(y_label, color=theme.text, fontsize=9.5)


def readable(colour: str, theme: Theme) -> str:
    """Return the colour for words: mixed with the text's colour until it stands out from the page by `MIN_CONTRAST`.

    A hue that is well seen as a mark (orange on white) can be too pale for letters.
    """
    hue, ink = np.array(to_rgb(colour)), np.array(to_rgb(theme.text))
    for share in np.linspace(0, 1, 21):
        mixed = to_hex(tuple((1 - share) * hue + share * ink))
        if contrast(mixed, theme.background) >= MIN_CONTRAST:
            return mixed
    return theme.text


def contrast(colour: str, other: str) -> float:
    """Return the contrast of two colours, from 1 (equal) to 21 (black on white)."""
    darker, lighter = sorted((_luminance(colour), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def png_bytes(figure: Figure) -> bytes:
    """Return the figure as a PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _luminance(colour: str) -> float:
    channels = np.array(to_rgb(colour))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
