"""Names written beside points so that they cover neither each other nor what is drawn.

Each label in turn tries places around its point, near ones first, and takes the one that covers least. All sizes are
display pixels. The search is greedy and deterministic; it needs the axes' limits to be final.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

DISTANCES_PT = (9.0, 14.0, 22.0, 32.0, 44.0, 58.0)
NUM_ANGLES = 16
LEADER_FROM_PT = 20.0  # a label farther from its point than this gets a line to it


@dataclass(frozen=True, kw_only=True)
class PointLabel:
    """A text for the point (x, y), in data coordinates."""

    x: float
    y: float
    text: str
    colour: str
    is_bold: bool = False


def place_labels(axes: Axes, labels: Sequence[PointLabel], obstacles: Float[np.ndarray, "point xy"]) -> list[Bbox]:
    """Draw the labels and return the boxes they take; `obstacles` are points in pixels to keep free."""
    figure = axes.figure
    canvas = figure.canvas
    if not isinstance(canvas, FigureCanvasAgg):
        raise TypeError(f"labels are measured by the Agg canvas, but the figure has a {type(canvas).__name__}.")
    canvas.draw()
    pixels_per_pt = figure.dpi / 72
    frame = axes.get_window_extent().frozen()
    taken: list[Bbox] = []
    for label in labels:
        width, height = _size(axes, canvas, label)
        anchor = axes.transData.transform((label.x, label.y))
        best_cost, best_box, best_distance = math.inf, frame, 0.0
        for distance in DISTANCES_PT:
            for box in _candidate_boxes(anchor, width, height, distance * pixels_per_pt):
                cost = _cost(box, taken, obstacles, frame) + 0.05 * distance
                if cost < best_cost:
                    best_cost, best_box, best_distance = cost, box, distance
        taken.append(best_box)
        _draw(axes, label, best_box, has_leader=best_distance >= LEADER_FROM_PT)
    return taken


def segment_pixels(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], *, num_points: int = 24
) -> Float[np.ndarray, "point xy"]:
    """Return points along a straight line in data coordinates, as obstacles for `place_labels`."""
    ends = axes.transData.transform([start, end])
    return ends[0] + np.linspace(0, 1, num_points)[:, None] * (ends[1] - ends[0])


def _size(axes: Axes, canvas: FigureCanvasAgg, label: PointLabel) -> tuple[float, float]:
    text = axes.text(0, 0, label.text, fontsize=8.5, fontweight="bold" if label.is_bold else "normal")
    extent = text.get_window_extent(canvas.get_renderer())
    text.remove()
    return extent.width + 8, extent.height + 4


def _candidate_boxes(anchor: Float[np.ndarray, " xy"], width: float, height: float, distance: float) -> list[Bbox]:
    """Boxes whose nearest edge is `distance` from the anchor, to the right first, then all around."""
    boxes = []
    for step in range(NUM_ANGLES):
        angle = 2 * math.pi * step / NUM_ANGLES
        centre_x = anchor[0] + math.cos(angle) * (distance + width / 2)
        centre_y = anchor[1] + math.sin(angle) * (distance + height / 2)
        boxes.append(Bbox.from_bounds(centre_x - width / 2, centre_y - height / 2, width, height))
    return boxes


def _cost(box: Bbox, taken: Sequence[Bbox], obstacles: Float[np.ndarray, "point xy"], frame: Bbox) -> float:
    """Rate a place: leaving the frame and covering a label are worst, covering a point or line is bad."""
    outside = box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0 or box.y1 > frame.y1
    num_labels = sum(box.overlaps(other) for other in taken)
    inside_x = (obstacles[:, 0] > box.x0) & (obstacles[:, 0] < box.x1)
    inside_y = (obstacles[:, 1] > box.y0) & (obstacles[:, 1] < box.y1)
    return 1000.0 * outside + 1000.0 * num_labels + 5.0 * float(np.sum(inside_x & inside_y))


def _draw(axes: Axes, label: PointLabel, box: Bbox, *, has_leader: bool) -> None:
    centre_x, centre_y = axes.transData.inverted().transform(((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2))
    drawn = axes.annotate(
        label.text,
        xy=(label.x, label.y),
        xytext=(centre_x, centre_y),
        textcoords="data",
        ha="center",
        va="center",
        fontsize=8.5,
        fontweight="bold" if label.is_bold else "normal",
        color=label.colour,
        arrowprops={"arrowstyle": "-", "color": label.colour, "lw": 0.6, "shrinkB": 4} if has_leader else None,
        annotation_clip=False,
    )
    drawn.set_in_layout(False)  # else the layout moves after the label was placed
