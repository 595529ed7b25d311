"""Figures: they are pictures with something on them, equal each time, and their labels cover nothing."""

import dataclasses
import io
import itertools

import numpy as np
import pytest
from comparisons import MODELS, TASKS, made_up_comparison
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.image import imread
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.evaluate.routes import ROUTE_ARROW
from hierrouter_jax.report.labels import PointLabel, place_labels
from hierrouter_jax.report.learning_curve import Curve, curve_of_metrics, learning_curve_figure, running_mean, spread
from hierrouter_jax.report.quality_cost import quality_cost_figure
from hierrouter_jax.report.quality_fronts import quality_fronts_figure
from hierrouter_jax.report.route_mix import ALL_TASKS, BAR_HEIGHT, OTHER, route_mix_figure, shown_routes
from hierrouter_jax.report.themes import DARK, LIGHT, contrast, make_axes, png_bytes, readable

SAMPLED, VALIDATED = "sampled routes, train", "greedy routes, validation"
CURVE = Curve(
    name="run", updates=(1, 2, 3, 4, 5), sampled=(0.1, 0.2, 0.3, 0.25, 0.3), validated_at=(5,), validated=(0.4,)
)


def fronts():
    """Comparisons of three cost weights: the dearer, the better."""
    found = {}
    for index, weight in enumerate((0.5, 0.0, 0.1)):
        made = made_up_comparison(index)
        moved = {
            name: dataclasses.replace(one, cost=one.cost * (1 + index / 7), quality=one.quality + index / 50)
            for name, one in made.systems.items()
        }
        found[weight] = dataclasses.replace(made, cost_weight=weight, systems=moved)
    return found


def draw(kind, theme):
    if kind == "quality_cost":
        return quality_cost_figure(made_up_comparison(), theme=theme)
    if kind == "route_mix":
        return route_mix_figure(made_up_comparison(), theme=theme)
    if kind == "fronts":
        return quality_fronts_figure(fronts(), ["router", "knn", "oracle"], theme=theme)
    return learning_curve_figure([CURVE], references={"oracle, test": 0.6}, theme=theme)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("kind", ["quality_cost", "route_mix", "learning_curve", "fronts"])
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


@pytest.mark.parametrize("kind", ["quality_cost", "route_mix", "learning_curve", "fronts"])
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
        f"{MODELS[2]}\n= best single",
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
        bars = [bar for bar in axes.patches if abs(bar.get_y() + bar.get_height() / 2 - row) < 0.5]
        assert max(bar.get_x() + bar.get_width() for bar in bars) == pytest.approx(100)
        assert sum(bar.get_width() * bar.get_height() for bar in bars) == pytest.approx(100 * BAR_HEIGHT)
    first = shown_routes(comparison.systems["router"].routes)[0]
    assert axes.patches[0].get_width() == pytest.approx(100 * comparison.systems["router"].tasks["mmlu"].routes[first])


def with_routes(routes):
    """A comparison of a router that takes the routes in every task."""
    comparison = made_up_comparison(names=["router"])
    router = comparison.systems["router"]
    tasks = {name: dataclasses.replace(task, routes=routes) for name, task in router.tasks.items()}
    return dataclasses.replace(comparison, systems={"router": dataclasses.replace(router, routes=routes, tasks=tasks)})


def test_a_route_has_a_band_a_hop_from_the_top_in_the_bars_and_in_the_legend():
    a, b, c = MODELS
    routes = {f"{a}{ROUTE_ARROW}{b}{ROUTE_ARROW}c": 0.4, f"{b}{ROUTE_ARROW}{a}": 0.35, c: 0.25}
    hue_of = dict(zip(MODELS, LIGHT.hues, strict=False)) | {"c": LIGHT.muted}  # "c" is no model of the pool
    expected = [hue_of[model] for route in routes for model in route.split(ROUTE_ARROW)]
    figure = route_mix_figure(with_routes(routes))
    axes = figure.axes[0]
    first_row = axes.patches[: len(expected)]
    assert [to_hex(band.get_facecolor()) for band in first_row] == expected
    tops = [axes.transData.transform((0, band.get_y()))[1] for band in first_row]
    assert tops[0] > tops[1] > tops[2]
    assert tops[3] > tops[4]
    assert tops[0] == tops[3] == tops[5]
    (legend,) = figure.legends
    swatches = legend.findobj(Rectangle, include_self=False)
    drawn = [patch for patch in swatches if patch is not legend.get_frame()]
    assert [to_hex(patch.get_facecolor()) for patch in drawn] == expected
    assert drawn[0].get_y() > drawn[1].get_y() > drawn[2].get_y()
    assert [text.get_text() for text in legend.get_texts()] == list(routes)


def test_a_route_and_its_reverse_look_different():
    a, b, _ = MODELS
    there, back = (with_routes({ROUTE_ARROW.join(models): 1.0}) for models in ((a, b), (b, a)))
    pixels = [imread(io.BytesIO(png_bytes(route_mix_figure(made)))) for made in (there, back)]
    assert np.mean(np.abs(pixels[0] - pixels[1]).max(axis=2) > 0.2) > 0.2


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_words_in_any_hue_can_be_read(theme):
    for colour in (*theme.hues, theme.router, theme.oracle, theme.muted):
        assert contrast(readable(colour, theme), theme.background) >= 4.5
    assert readable(theme.text, theme) == theme.text


def test_contrast_equals_published_values():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == contrast("#ffffff", "#777777") == pytest.approx(4.48, abs=0.005)
    assert contrast("#ff0000", "#ffffff") == pytest.approx(4.00, abs=0.005)
    assert contrast("#00ff00", "#ffffff") == pytest.approx(1.37, abs=0.005)
    assert contrast("#0000ff", "#ffffff") == pytest.approx(8.59, abs=0.005)


@pytest.mark.parametrize("kind", ["quality_cost", "route_mix", "learning_curve", "fronts"])
def test_titles_and_notes_are_apart_and_inside(kind):
    figure = draw(kind, LIGHT)
    figure.canvas.draw()
    axes, renderer = figure.axes[0], figure.canvas.get_renderer()
    extents = {text.get_text(): text.get_window_extent(renderer) for text in axes.findobj(Text)}
    words, beside = (extents[axes.get_title(side)] for side in ("left", "right"))
    assert axes.get_title("right")
    assert words.x1 + 10 < beside.x0 < beside.x1 <= figure.bbox.x1


def test_names_beside_the_learning_curve_cover_neither_each_other_nor_the_curve():
    references = {"router, test": 0.163, "best single, test": 0.146, "oracle, test": 0.32, "bound, test": 0.32}
    figure = learning_curve_figure([CURVE], references=references)
    figure.canvas.draw()
    axes, boxes = figure.axes[0], boxes_of(figure)
    assert set(boxes) == set(references)
    frame, renderer = axes.get_window_extent(), figure.canvas.get_renderer()
    for name, box in boxes.items():
        assert frame.x1 < box.x0 < box.x1 <= figure.bbox.x1, name
        assert not any(box.overlaps(other) for other_name, other in boxes.items() if other_name != name), name
        line = axes.transData.transform((0, 100 * references[name]))[1]
        assert abs((box.y0 + box.y1) / 2 - line) < 20, name
    (legend,) = figure.legends
    assert legend.get_window_extent(renderer).y1 < frame.y0


def test_the_learning_curve_is_in_percent():
    axes = learning_curve_figure([CURVE], references={"oracle, test": 0.6}).axes[0]
    drawn = [list(line.get_ydata()) for line in axes.lines]
    assert drawn[0] == pytest.approx([10, 20, 30, 25, 30])
    assert drawn[2] == pytest.approx([40])
    assert drawn[3] == pytest.approx([60, 60])


def test_curves_of_several_runs_are_told_apart_by_name():
    two = [CURVE, dataclasses.replace(CURVE, name="other")]
    labels = [text.get_text() for text in learning_curve_figure(two).legends[0].get_texts()]
    assert labels == [f"{name}: {what}" for name in ("run", "other") for what in (SAMPLED, VALIDATED)]
    assert [text.get_text() for text in learning_curve_figure([CURVE]).legends[0].get_texts()] == [SAMPLED, VALIDATED]


@given(st.lists(st.floats(0, 100), max_size=7))
def test_spread_places_keep_their_order_their_mean_and_the_gap(places):
    found = spread(sorted(places), gap=11.0)
    assert all(later - earlier >= 11.0 - 1e-9 for earlier, later in itertools.pairwise(found))
    assert sum(found) == pytest.approx(sum(places))


def test_places_far_apart_stay():
    assert spread([1.0, 20.0, 40.0, 41.0], gap=11.0) == pytest.approx([1.0, 20.0, 35.0, 46.0])


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


def test_fronts_pass_through_every_cost_weight_and_label_every_model():
    comparisons = fronts()
    figure = quality_fronts_figure(comparisons, ["router", "oracle"])
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    for name in ("router", "oracle"):
        points = sorted((one.systems[name].cost, 100 * one.systems[name].quality) for one in comparisons.values())
        np.testing.assert_allclose(lines[name].get_xydata(), points)
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert set(MODELS) <= texts
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not any(first.overlaps(second) for first, second in itertools.combinations(boxes, 2))


def test_a_system_is_drawn_through_the_comparisons_that_hold_it():
    comparisons = fronts()
    first = min(comparisons)
    without = {name: own for name, own in comparisons[first].systems.items() if name != "knn"}
    comparisons[first] = dataclasses.replace(comparisons[first], systems=without)
    figure = quality_fronts_figure(comparisons, ["router", "knn"])
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert len(lines["router"].get_xydata()) == len(comparisons)
    assert len(lines["kNN"].get_xydata()) == len(comparisons) - 1


def test_fronts_of_systems_that_are_not_there_are_refused():
    with pytest.raises(DataError, match="telepathy"):
        quality_fronts_figure(fronts(), ["router", "telepathy"])
    with pytest.raises(DataError, match="at least one cost weight"):
        quality_fronts_figure({}, ["router"])
