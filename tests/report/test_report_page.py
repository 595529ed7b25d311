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
from hierrouter_jax.report.tables import html_table, markdown_table, rich_table, system_table, task_table

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
    for text in ("41.0 [34.0, 48.0]", "0.62 [0.56, 0.68]", "34.8", "+2.1 [-1.3, +5.0]", "kNN", *MODELS, *TASKS):
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


def test_the_compact_tables_fit_80_columns_whole():
    console = rich.console.Console(file=io.StringIO(), width=80)
    comparison = made_up_comparison()
    console.print(rich_table(system_table(comparison, is_compact=True)))
    console.print(rich_table(task_table(comparison, is_compact=True)))
    text = console.file.getvalue()
    assert "…" not in text
    for name in (*comparison.model_names, "41.0 [34.0, 48.0]", "+2.1 [-1.3, +5.0]", "commonsenseqa"):
        assert name in text


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
    table = task_table(dataclasses.replace(comparison, systems=systems))
    column = table.header.index("mbpp")
    assert [row[column] for row in table.rows] == ["62.0 @ 0.50" if row[0] == "oracle" else "" for row in table.rows]
    assert "<td></td>" in html_table(table)
