"""Whatever the package imports, it declares: an environment made for the tests holds more than one made to run it."""

import ast
import configparser
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OURS = {"hierrouter_jax"}


def normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def imported_modules():
    for path in (ROOT / "hierrouter_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                yield node.module.split(".")[0]


def declared_distributions():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"].split("\n")
    return {normalised(re.match(r"[\w.-]+", line)[0]) for line in lines if line}


def test_every_import_is_declared():
    owners = packages_distributions()
    modules = set(imported_modules()) - set(sys.stdlib_module_names) - OURS
    assert {"jax", "flax", "jinja2", "orbax"} <= modules
    # A name shared by several distributions, as a namespace is, may be had from any of them.
    undeclared = {
        module: owners.get(module, ["not installed"])
        for module in modules
        if not {normalised(owner) for owner in owners.get(module, [])} & declared_distributions()
    }
    assert undeclared == {}


def test_every_declared_distribution_has_its_line_in_the_readme():
    readme = (ROOT / "README.md").read_text()
    table = readme[readme.index("## Dependencies") :]
    rows = " ".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| "))
    named = {normalised(name) for name in re.findall(r"[\w.-]+", rows)}
    assert sorted(declared_distributions() - named) == []
