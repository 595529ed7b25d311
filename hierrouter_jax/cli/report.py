"""`hierrouter report`: evaluated runs become one self-contained page, and pictures and a markdown table where asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from hierrouter_jax.cli.output import print_lines, write_json
from hierrouter_jax.core.atomic_files import atomic_write, write_text_atomically
from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.evaluate.evaluate_run import RESULTS_NAME
from hierrouter_jax.evaluate.results import load_comparison
from hierrouter_jax.report.learning_curve import curve_of_metrics
from hierrouter_jax.report.page import report_page
from hierrouter_jax.report.run_figures import RunReport, figures_of_run, overview
from hierrouter_jax.report.tables import markdown_table, system_table
from hierrouter_jax.report.themes import LIGHT, png_bytes
from hierrouter_jax.train.metrics_log import read_metrics

PAGE_NAME = "report.html"


@dataclass(frozen=True, kw_only=True)
class Command:
    """Options of `report`."""

    run_dirs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories that were evaluated (each has results.json), or results files of baselines alone."""
    out: Path | None = None
    """The page; by default report.html in the first run directory."""
    figures: Path | None = None
    """A folder to write the pictures to as PNG files besides."""
    markdown: Path | None = None
    """A file to write the table of all systems to as markdown, as README files show it."""
    json: Path | None = None
    """Write there, as JSON, what was written."""


def run(command: Command) -> None:
    """Make the page, and say where it lies."""
    if not command.run_dirs:
        raise ConfigError("A report needs at least one run directory; give it as an argument.")
    out = _default_page(command.run_dirs[0]) if command.out is None else command.out
    runs = [read_run(path) for path in command.run_dirs]
    pictures = write_report(out, runs, figures_dir=command.figures)
    print_lines([f"report: {out}", *(f"figure: {picture}" for picture in pictures)])
    if command.markdown is not None:
        write_text_atomically(command.markdown, markdown_table(system_table(overview(runs))))
        print_lines([f"table: {command.markdown}"])
    outcome = {
        "page": str(out),
        "runs": [run_report.name for run_report in runs],
        "figures": [str(picture) for picture in pictures],
        "markdown": None if command.markdown is None else str(command.markdown),
    }
    write_json(command.json, outcome)


def read_run(path: Path) -> RunReport:
    """Return what the report says of a run directory, or of a results file."""
    if path.is_file():
        return RunReport(name=path.stem, comparison=load_comparison(path))
    metrics = read_metrics(path)
    return RunReport(
        name=path.name or str(path),
        comparison=load_comparison(path / RESULTS_NAME),
        curve=curve_of_metrics(path.name, metrics) if metrics else None,
    )


def write_report(out: Path, runs: list[RunReport], *, figures_dir: Path | None = None) -> list[Path]:
    """Write the page, and each run's figures where a folder is given; return the figures' paths."""
    write_text_atomically(out, report_page(runs))
    if figures_dir is None:
        return []
    paths = []
    for run_report in runs:
        for figure in figures_of_run(run_report):
            name = f"{figure.kind}.png" if len(runs) == 1 else f"{run_report.name}_{figure.kind}.png"
            with atomic_write(figures_dir / name) as file:
                file.write(png_bytes(figure.draw(LIGHT)))
            paths.append(figures_dir / name)
    return paths


def _default_page(path: Path) -> Path:
    return (path.parent if path.is_file() else path) / PAGE_NAME
