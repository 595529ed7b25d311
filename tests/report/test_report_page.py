"""Tables and the page: the numbers asked for stand in them, everything is escaped, nothing is loaded from elsewhere."""

import dataclasses
import io
import re
from html.parser import HTMLParser

import pytest
import rich.console
from comparisons import MODELS, TASKS, made_up_comparison

from hierrouter_jax.core.errors import DataError
from hierrouter_jax.report.learning_curve import Curve
from hierrouter_jax.report.page import report_page
from hierrouter_jax.report.run_figures import RunReport, merged_comparison
from hierrouter_jax.report.tables import (
    html_table,
    is_router,
    markdown_table,
    rich_table,
    split_columns,
    system_table,
    task_cost_table,
    task_quality_table,
)

CURVE = Curve(name="w", updates=(1, 2, 3), sampled=(0.1, 0.2, 0.3))


class Page(HTMLParser):
    """Collects every address a browser would load, and the balance of tags."""

    VOID = {"meta", "img", "source", "br"}

    def __init__(self):
        super().__init__()
        self.addresses, self.open, self.counts = [], [], {}

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.addresses += [value for name, value in attrs if name in ("src", "srcset", "href", "data", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(html):
    page = Page()
    page.feed(html)
    assert page.open == []
    return page


@pytest.fixture(scope="module")
def page_html():
    return report_page([RunReport(name="w 0.1", comparison=made_up_comparison(), curve=CURVE)])


def test_the_page_is_self_contained_and_has_three_figures_in_two_themes(page_html):
    page = parsed(page_html)
    assert page.counts["img"] == page.counts["source"] == 3
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert "script" not in page.counts
    assert not re.search(r"url\(|@import|https?://", page_html)


def test_the_page_holds_the_numbers_of_the_table(page_html):
    for text in ("41.0 [34.0, 48.0]", "0.62 [0.56, 0.68]", "34.8", "+2.1 [-1.3, +5.0]", "knn", *MODELS, *TASKS):
        assert text in page_html


def test_names_are_escaped():
    comparison = made_up_comparison(names=["router", "oracle"])
    page = parsed(report_page([RunReport(name="<script>alert('x')</script> & co", comparison=comparison)]))
    assert "script" not in page.counts


def test_several_runs_share_an_overview_with_a_router_each():
    runs = [RunReport(name=f"w{k}", comparison=made_up_comparison(k), curve=CURVE) for k in range(2)]
    page = report_page(runs)
    assert parsed(page).counts["img"] == 2 + 3 * 2
    assert "router w0" in page
    assert "router w1" in page
    assert list(merged_comparison(runs).systems)[:2] == ["router w0", "router w1"]


def test_runs_on_other_queries_are_refused():
    other = dataclasses.replace(made_up_comparison(), num_queries=7)
    runs = [RunReport(name="a", comparison=made_up_comparison()), RunReport(name="b", comparison=other)]
    with pytest.raises(DataError, match="b has 7 test queries"):
        report_page(runs)


def test_no_run_is_refused():
    with pytest.raises(DataError, match="at least one run"):
        report_page([])


def test_the_page_shows_intervals_of_quality_and_cost_by_task_in_boxes_that_scroll(page_html):
    tables = re.findall(r'<div class="scroll" tabindex="0"><table>.*?</table></div>', page_html)
    assert len(tables) == page_html.count("<table>") == 3
    router = made_up_comparison().systems["router"]
    assert f"Quality, % [95%], by task (16 queries each)</caption><thead><tr><th>system</th><th>{TASKS[0]}" in tables[1]
    assert tables[1].count("<td>41.0 [31.0, 51.0]</td>") == len(router.tasks)
    assert tables[2].count("<td>0.62 [0.56, 0.68]</td>") == len(router.tasks)


def printed(table, *, width):
    """The lines that a terminal of that width shows."""
    console = rich.console.Console(file=io.StringIO(), width=width)
    console.print(rich_table(table))
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 100, 140])
@pytest.mark.parametrize("make_table", [system_table, task_quality_table, task_cost_table])
def test_a_terminal_of_any_width_shows_every_cell_whole_on_its_systems_line(make_table, width):
    table = make_table(made_up_comparison())
    lines = printed(table, width=width)
    assert max(map(len, lines)) <= width
    for name, *cells in table.rows:
        whole = " ".join(line for line in lines if line.startswith(f" {name} "))
        for cell in cells:
            assert whole.count(f" {cell}") >= cells.count(cell), (name, cell)
    assert all(any(f" {column}" in line for line in lines) for column in table.header)


def test_at_100_columns_all_systems_stand_in_one_table_with_both_intervals():
    lines = printed(system_table(made_up_comparison()), width=100)
    assert sum(line.startswith(" router ") for line in lines) == 1
    assert any("41.0 [34.0, 48.0] 0.62 [0.56, 0.68]" in line for line in lines)


def test_split_tables_hold_all_columns_once_in_order_in_the_fewest_parts():
    table = task_quality_table(made_up_comparison())
    names = max(len(row[0]) for row in table.rows)
    for width in range(40, 160):
        parts = split_columns(table, width=width)
        assert [name for part in parts for name in part.header[1:]] == list(table.header[1:])
        assert [part.title for part in parts] == [table.title] + [""] * (len(parts) - 1)
        assert {part.header[0] for part in parts} == {"system"}
        assert all(part.emphasised == table.emphasised for part in parts)
        assert {tuple(row[0] for row in part.rows) for part in parts} == {tuple(row[0] for row in table.rows)}
        widest = -(-(len(table.header) - 1) // len(parts))
        assert names + 1 + widest * 18 + 1 <= width or len(parts) == len(table.header) - 1  # 17 characters a cell
        if len(parts) > 1:
            fewer = -(-(len(table.header) - 1) // (len(parts) - 1))
            assert names + 1 + fewer * 18 + 1 > width


def test_a_name_in_square_brackets_is_no_markup():
    table = dataclasses.replace(system_table(made_up_comparison()), header=("[bold]s", *["[red]"] * 6), title="[b]t")
    text = "\n".join(printed(table, width=100))
    assert all(mark in text for mark in ("[bold]s", "[red]", "[b]t"))


def test_unequal_tasks_say_how_many_queries_each_has():
    comparison = made_up_comparison(names=["router"])
    router = comparison.systems["router"]
    tasks = {
        name: dataclasses.replace(router.tasks[name], num_queries=size) for name, size in (("mmlu", 7), ("mbpp", 5))
    }
    alone = dataclasses.replace(comparison, systems={"router": dataclasses.replace(router, tasks=tasks)})
    assert task_cost_table(alone).title == "Cost [95%], by task (queries: mmlu 7, mbpp 5)"


def test_every_runs_router_is_marked_and_nothing_else():
    runs = [RunReport(name=f"w{k}", comparison=made_up_comparison(k)) for k in range(2)]
    assert system_table(merged_comparison(runs)).emphasised == {0, 1}
    assert not is_router("routerless")


def test_markdown_has_one_row_a_system_and_escapes_bars():
    table = system_table(made_up_comparison())
    lines = markdown_table(table).splitlines()
    assert len(lines) == 2 + len(table.rows)
    assert all(line.count("|") == len(table.header) + 1 for line in lines)
    assert lines[2].startswith("| **router** | **41.0 [34.0, 48.0]** |")
    odd = dataclasses.replace(table, rows=(("a|b", *table.rows[0][1:]),))
    assert "a\\|b" in markdown_table(odd)


def test_a_task_that_a_system_lacks_is_an_empty_cell():
    comparison = made_up_comparison(names=["router", "oracle"])
    router = comparison.systems["router"]
    kept = {name: task for name, task in router.tasks.items() if name != "mbpp"}
    systems = comparison.systems | {"router": dataclasses.replace(router, tasks=kept)}
    table = task_quality_table(dataclasses.replace(comparison, systems=systems))
    column = table.header.index("mbpp")
    assert [row[column] for row in table.rows] == ["", "62.0 [52.0, 72.0]"]
    assert "<td></td>" in html_table(table)
