"""Figures: they are pictures with something on them, equal each time, and their labels cover nothing."""

import io

import numpy as np
import pytest
from comparisons import MODELS, TASKS, made_up_comparison
from matplotlib.image import imread

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.report.labels import PointLabel, place_labels
from hierrouter_jax.report.learning_curve import Curve, curve_of_metrics, learning_curve_figure, running_mean
from hierrouter_jax.report.quality_cost import quality_cost_figure
from hierrouter_jax.report.route_mix import ALL_TASKS, OTHER, route_mix_figure, shown_routes
from hierrouter_jax.report.themes import DARK, LIGHT, THEMES, make_axes, png_bytes

CURVE = Curve(
    name="run", updates=(1, 2, 3, 4, 5), sampled=(0.1, 0.2, 0.3, 0.25, 0.3), validated_at=(5,), validated=(0.4,)
)


def draw(kind, theme):
    if kind == "quality_cost":
        return quality_cost_figure(made_up_comparison(), theme=theme)
    if kind == "route_mix":
        return route_mix_figure(made_up_comparison(), theme=theme)
    return learning_curve_figure([CURVE], references={"oracle, test": 0.6}, theme=theme)


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
@pytest.mark.parametrize("kind", ["quality_cost", "route_mix", "learning_curve"])
def test_a_figure_is_a_png_with_content_on_the_themes_background(kind, theme):
    png = png_bytes(draw(kind, theme))
    pixels = imread(io.BytesIO(png))
    background = [int(theme.background[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    np.testing.assert_allclose(pixels[0, 0, :3], background, atol=0.01)
    assert min(pixels.shape[:2]) > 400
    inked = np.abs(pixels[..., :3] - np.array(background)).max(axis=2) > 0.1
    assert 0.01 < inked.mean() < 0.8
    colours = {tuple(colour) for colour in (pixels[inked][:, :3] * 15).astype(int)}
    assert len(colours) > 10


@pytest.mark.parametrize("kind", ["quality_cost", "route_mix", "learning_curve"])
def test_equal_data_gives_equal_bytes(kind):
    assert png_bytes(draw(kind, LIGHT)) == png_bytes(draw(kind, LIGHT))
    assert png_bytes(draw(kind, LIGHT)) != png_bytes(draw(kind, DARK))


def boxes_of(figure):
    renderer = figure.canvas.get_renderer()
    return {text.get_text(): text.get_window_extent(renderer) for text in figure.axes[0].texts}


@pytest.mark.parametrize("seed", range(3))
def test_labels_of_quality_against_cost_overlap_neither_each_other_nor_the_edge(seed):
    figure = quality_cost_figure(made_up_comparison(seed))
    boxes = boxes_of(figure)
    assert set(boxes) == {
        "router",
        MODELS[0],
        MODELS[1],
        f"{MODELS[2]} = best single",
        "random",
        "kNN",
        "cascade",
        "oracle",
    }
    frame = figure.axes[0].get_window_extent()
    for name, box in boxes.items():
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1, name
        assert frame.y0 <= box.y0 < box.y1 <= frame.y1, name
        assert not any(box.overlaps(other) for other_name, other in boxes.items() if other_name != name), name


def test_twenty_labels_in_one_corner_still_find_free_places():
    _, axes = make_axes(LIGHT, width_in=7.0, height_in=5.0)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    places = np.random.default_rng(0).uniform(0.3, 0.6, size=(20, 2))
    labels = [PointLabel(x=float(x), y=float(y), text=f"system {k}", colour="k") for k, (x, y) in enumerate(places)]
    taken = place_labels(axes, labels, axes.transData.transform(places))
    assert len(taken) == 20
    assert not any(taken[i].overlaps(taken[j]) for i in range(20) for j in range(i))


def test_the_front_skips_the_oracle_and_what_is_dominated():
    axes = quality_cost_figure(made_up_comparison()).axes[0]
    (front,) = [line for line in axes.lines if line.get_linestyle() == "--" and len(line.get_xdata()) > 1]
    corners = list(zip(front.get_xdata(), front.get_ydata(), strict=True))
    systems = made_up_comparison().systems
    ends = [(systems[name].cost, 100 * systems[name].quality) for name in (f"single/{MODELS[0]}", "router")]
    assert corners[0] == pytest.approx(ends[0])
    assert corners[-1] == pytest.approx(ends[1])
    assert (systems["oracle"].cost, 100 * systems["oracle"].quality) not in corners


def test_bars_of_the_route_mix_fill_each_row_to_100_percent():
    comparison = made_up_comparison()
    axes = route_mix_figure(comparison).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [*TASKS, ALL_TASKS]
    for row in range(len(TASKS) + 1):
        ends = [bar.get_x() + bar.get_width() for bar in axes.patches if round(bar.get_y() + 0.36) == row]
        assert max(ends) == pytest.approx(100)
    first = shown_routes(comparison.systems["router"].routes)[0]
    widths = [bar.get_width() for bar in axes.patches if round(bar.get_y() + 0.36) == 0]
    assert widths[0] == pytest.approx(100 * comparison.systems["router"].tasks["mmlu"].routes[first])


def test_rare_routes_are_gathered():
    shares = {f"route {k}": (12 - k) / 78 for k in range(12)}
    assert shown_routes(shares) == [*(f"route {k}" for k in range(7)), OTHER]
    assert shown_routes({"b": 0.5, "a": 0.5}) == ["a", "b"]


def test_a_missing_system_is_named():
    with pytest.raises(DataError, match="'router'"):
        route_mix_figure(made_up_comparison(names=["random", "oracle"]))


def test_running_mean_equals_a_loop():
    values = np.random.default_rng(0).random(13)
    expected = [np.mean(values[max(0, end - 4) : end]) for end in range(1, 14)]
    np.testing.assert_allclose(running_mean(values, window=5 - 1), expected, rtol=1e-12)


def test_a_curve_reads_metrics_and_refuses_a_run_without_any():
    rows = [{"update": 1.0, "utility": 0.1}, {"update": 2.0, "utility": 0.2, "validation/utility": 0.3}]
    curve = curve_of_metrics("run", rows)
    assert (curve.updates, curve.sampled, curve.validated_at, curve.validated) == ((1, 2), (0.1, 0.2), (2,), (0.3,))
    with pytest.raises(DataError, match="no finished update"):
        curve_of_metrics("run", [])
