"""The metadata in `pyproject.toml`, `noxfile.py`, `CITATION.cff` and the workflow agree."""

import ast
import re
import sys
import tomllib
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import gan_jax
import noxfile

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
PROVIDERS = packages_distributions()
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())


def requirements(extra: str | None) -> set[str]:
    """The packages that the core or an extra declares, with those of the extras it contains."""
    lines = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    found = set()
    for requirement in map(Requirement, lines):
        if requirement.name == "gan-jax":
            found |= set().union(*map(requirements, requirement.extras))
        else:
            found.add(canonicalize_name(requirement.name))
    return found


def imported(*folders: str) -> dict[str, Path]:
    """The packages imported anywhere in these folders and files, each with a file that does."""
    found = {}
    for folder in folders:
        path = ROOT / folder
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [node.module]
                else:
                    continue
                found |= {name.split(".")[0]: file for name in names}
    return found


def undeclared(names: dict[str, Path], declared: set[str]) -> dict[str, Path]:
    """Those of the imported packages that no declared distribution provides."""
    own = {path.stem for path in (*ROOT.iterdir(), *(ROOT / "tests").rglob("*.py"))}
    return {
        name: file
        for name, file in names.items()
        if name not in sys.stdlib_module_names | own
        and not {canonicalize_name(provider) for provider in PROVIDERS.get(name, [name])} & declared
    }


CORE = requirements(None) | {"jaxlib", "numpy", "scipy"}  # JAX brings the last three
OPTIONAL = {"equinox", "tensorflow", "torch"}  # what needs them says so, or is skipped
NOTEBOOKS = {"ipython", "nbformat"}  # brought by ipykernel and nbclient


def test_the_core_imports_what_it_declares():
    files = [
        str(path.relative_to(ROOT)) for path in (ROOT / "gan_jax").glob("*") if path.name != "run"
    ]
    assert undeclared(imported(*files), CORE | OPTIONAL) == {}


def test_the_extra_experiments_covers_what_commands_and_experiments_import():
    names = imported("gan_jax/run", "experiments", "gan_jax_command.py")
    assert undeclared(names, CORE | OPTIONAL | requirements("experiments")) == {}
    assert "scikit-learn" in requirements("experiments")  # `--clusters`


def test_the_extra_test_covers_what_tests_and_examples_import():
    names = imported("tests", "examples", "noxfile.py")
    assert undeclared(names, CORE | OPTIONAL | NOTEBOOKS | requirements("test")) == {}


def test_an_undeclared_import_is_seen():
    assert undeclared({"tyro": ROOT, "os": ROOT, "jax": ROOT}, CORE) == {"tyro": ROOT}


def test_the_pythons_are_the_same_everywhere():
    pattern = r"Programming Language :: Python :: (3\.\d+)"
    classified = [m[1] for m in map(re.compile(pattern).fullmatch, PROJECT["classifiers"]) if m]
    assert classified == noxfile.PYTHONS
    admitted = SpecifierSet(PROJECT["requires-python"])
    minors = [f"3.{minor}" for minor in range(20) if f"3.{minor}" in admitted]
    assert minors[0] == noxfile.PYTHONS[0]
    assert set(noxfile.PYTHONS) <= set(minors)
    oldest = noxfile.PYTHONS[0]
    assert PYPROJECT["tool"]["mypy"]["python_version"] == oldest
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    (setup,) = [
        step["with"]["python-version"]
        for step in workflow["jobs"]["check"]["steps"]
        if "setup-python" in step.get("uses", "")
    ]
    assert sorted(setup.split()) == noxfile.PYTHONS


@pytest.mark.parametrize("file", [".ci/run", ".github/workflows/ci.yml"])
def test_the_sessions_that_are_called_exist(file):
    called = [
        session
        for line in re.findall(r"\bnox (?:.* )?-s (.+)", (ROOT / file).read_text())
        for session in line.split()
    ]
    assert called
    for session in called:
        name, _, python = session.partition("-")
        pythons = vars(noxfile)[name].python
        assert not python or (isinstance(pythons, list) and python in pythons), session


def test_the_subset_exists():
    assert [path for path in noxfile.SUBSET if not (ROOT / path.split("::")[0]).exists()] == []


def test_the_versions_agree():
    assert PROJECT["version"] == gan_jax.__version__ == CITATION["version"]
    assert CITATION["license"] == PROJECT["license"]


def test_types_are_shipped():
    assert (ROOT / "gan_jax" / "py.typed").is_file()
    assert "py.typed" in PYPROJECT["tool"]["setuptools"]["package-data"]["gan_jax"]
    assert "Typing :: Typed" in PROJECT["classifiers"]


def test_every_public_name_is_there_and_listed():
    for name in gan_jax.__all__:
        assert getattr(gan_jax, name) is not None, name
    assert set(gan_jax.__all__) <= set(dir(gan_jax))
    with pytest.raises(AttributeError, match="module 'gan_jax' has no attribute 'modles'"):
        gan_jax.modles  # noqa: B018
    with pytest.raises(ImportError):
        import_module("gan_jax.modles")
