"""The documentation names functions, tests and experiments that are there."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = {
    page.relative_to(ROOT).as_posix(): page.read_text()
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if page.relative_to(ROOT).parts[1:2] not in (("_build",), ("notebooks",))
}
THEORY = PAGES["docs/theory.md"]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in THEORY.split("## Slips")[0].splitlines()
    if line.startswith("| ") and not line.startswith("| claim")
]


def ids(rows):
    return [row[0][:40] for row in rows]


def test_the_table_is_read():
    assert PAGES.keys() >= {"README.md", "docs/modes.md", "docs/theory.md"}
    assert len(ROWS) >= 15
    assert all(len(row) == 5 for row in ROWS)


def find(name):
    """The object with a dotted name below gan_jax. AttributeError or ImportError: there is none."""
    module, _, attribute = name.rpartition(".")
    home = importlib.import_module(f"gan_jax.{module}" if module else "gan_jax")
    return getattr(home, attribute)


@pytest.mark.parametrize("row", ROWS, ids=ids(ROWS))
def test_a_claims_functions_exist(row):
    """A function; or a pair of them, as a loss and a game are."""
    names = re.findall(r"`([^`]+)`", row[2])
    assert names
    for name in names:
        found = find(name)
        functions = found if isinstance(found, tuple) else (found,)
        assert functions, name
        assert all(map(callable, functions)), name


@pytest.mark.parametrize(
    ("name", "error"),
    [("theory.nothing", AttributeError), ("nowhere.value", ImportError), ("a", AttributeError)],
)
def test_a_name_that_is_not_there_is_found_out(name, error):
    with pytest.raises(error):
        find(name)


def names_in(file):
    """The names of the tests in a file, and of its classes that hold any."""
    (path,) = (ROOT / "tests").rglob(file) if "/" not in file else [ROOT / file]
    tree = ast.parse(path.read_text())
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    return {node.name for node in nodes if node.name.lower().startswith("test")}


def cited(page):
    """Tests a page cites: `test_file.py`, `tests/core/test_file.py`, `test_file.py::name`."""
    return sorted(set(re.findall(r"`((?:tests/(?:\w+/)?)?test_\w+\.py[^`]*)`", page)))


CITED = [(page, name) for page, text in PAGES.items() for name in cited(text)]


def test_the_pages_cite_tests():
    assert {page for page, _ in CITED} >= {"README.md", "docs/theory.md"}
    assert cited("`test_a.py::test_b`, `tests/core/test_c.py` and test_d.py") == [
        "test_a.py::test_b",
        "tests/core/test_c.py",
    ]


@pytest.mark.parametrize(("page", "name"), CITED)
def test_the_tests_a_page_cites_exist(page, name):
    """A file that is cited whole holds a test, too."""
    file, _, test = name.partition("::")
    assert names_in(file), f"{page} cites {name}, which holds no test"
    assert "::" not in name or test in names_in(file), f"{page} cites {name}"


def test_every_claim_has_a_test():
    assert all(re.search(r"`test_\w+\.py", row[3]) for row in ROWS)


def test_its_figures_are_those_of_experiments():
    named = {name for row in ROWS for name in re.findall(r"`(\w+)`", row[4])}
    assert {"gaussian_1d", "optimal_discriminator", "vanishing_gradient", "dirac_gan"} <= named
    pictures = set()
    for name in named:
        source = (ROOT / "experiments" / f"{name}.py").read_text()
        for row in ROWS:
            if f"`{name}`" in row[4]:
                files = re.findall(r"\w+\.png", row[4])
                pictures.update(files)
                assert all(file in source for file in files)
    assert {"bound.png", "demonstration.png", "curves.png", "trajectories.png"} <= pictures


def links(page):
    """The paths that a page links to, without addresses and places within a page."""
    prose = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)
    return [to for to in re.findall(r"\]\(([^)#]+)", prose) if not to.startswith("http")]


def test_the_links_are_found():
    assert "evaluation.md" in links("docs/index.md")
    assert "../models.md" in links("docs/guides/data.md")


@pytest.mark.parametrize("page", [page for page in PAGES if links(page)])
def test_a_pages_links_lead_somewhere(page):
    for link in links(page):
        assert ((ROOT / page).parent / link).exists(), link
