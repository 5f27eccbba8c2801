"""The page on the theory names functions, tests and experiments that are there."""

import ast
import importlib
import re
from pathlib import Path

import pytest

import gan_jax

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "theory.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.split("## What the sources print")[0].splitlines()
    if line.startswith("| ") and not line.startswith("| claim")
]


def ids(rows):
    return [row[0][:40] for row in rows]


def test_the_table_is_read():
    assert len(ROWS) >= 15
    assert all(len(row) == 5 for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=ids(ROWS))
def test_a_claims_functions_exist(row):
    names = re.findall(r"`([^`]+)`", row[2])
    assert names
    for name in names:
        module, _, function = name.rpartition(".")
        home = importlib.import_module(f"gan_jax.{module}") if module else gan_jax
        assert callable(getattr(home, function)) or hasattr(home, function), name


def names_in(file):
    """The names of the tests and of the classes of tests in a file."""
    tree = ast.parse((ROOT / "tests" / file).read_text())
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    return {node.name for node in nodes if node.name.lower().startswith("test")}


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+\.py[^`]*)`", PAGE))))
def test_the_tests_it_names_exist(name):
    file, _, test = name.partition("::")
    assert not test or test in names_in(file)


def test_every_claim_has_a_test():
    assert all(re.search(r"`test_\w+\.py", row[3]) for row in ROWS)


def test_its_figures_are_those_of_experiments():
    named = {name for row in ROWS for name in re.findall(r"`(\w+)`", row[4])}
    assert {"gaussian_1d", "optimal_discriminator", "vanishing_gradient", "dirac_gan"} <= named
    for name in named:
        source = (ROOT / "experiments" / f"{name}.py").read_text()
        for row in ROWS:
            if f"`{name}`" in row[4]:
                assert all(file in source for file in re.findall(r"\w+\.png", row[4]))


def test_its_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
