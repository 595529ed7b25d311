"""The pages show the tables that the experiments wrote, line for line."""

import fill_tables
import pytest

from hierrouter_jax.core.errors import DataError


def test_every_page_shows_its_tables_as_they_are():
    shown = {page.name: page.read_text() for page in fill_tables.pages() if fill_tables.MARK.search(page.read_text())}
    assert {"README.md", "RESULTS.md"} <= set(shown)
    for name, text in shown.items():
        assert fill_tables.filled(text, fill_tables.ROOT) == text, f"{name}: run experiments/fill_tables.py"


def test_a_table_takes_the_place_of_the_one_before(tmp_path):
    (tmp_path / "one.md").write_text("| a |\n| --- |\n| 2 |\n")
    page = "Before.\n\n<!-- table: one.md -->\n| a |\n| --- |\n| 1 |\n| 1 |\n\nAfter.\n"
    expected = "Before.\n\n<!-- table: one.md -->\n| a |\n| --- |\n| 2 |\n\nAfter.\n"
    assert fill_tables.filled(page, tmp_path) == expected
    assert fill_tables.filled(expected, tmp_path) == expected
    assert fill_tables.filled("Before.\n<!-- table: one.md -->\n", tmp_path).endswith("| 2 |\n")
    with pytest.raises(DataError, match=r"other\.md, which is not there"):
        fill_tables.filled("<!-- table: other.md -->\n", tmp_path)
