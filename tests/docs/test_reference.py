"""Every public name has an entry in the reference, and its docstring says what the entry needs."""

import ast
import importlib
import inspect
import itertools
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest

import gan_jax

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
ENTRIES = [
    (page.name, module, members.strip().split(", ") if members else None)
    for page in sorted(REFERENCE.glob("*.md"))
    for module, members in re.findall(
        r"^\.\. automodule:: (\S+)\n   :members:(.*)$", page.read_text(), re.MULTILINE
    )
]
"""Page, module and the members it names. None: all of the module's public names."""

INTERNAL = {"buffers", "contract", "trees"}
"""Modules whose functions are for the other modules of the package."""

TYPES_OF_SETTINGS = {"ModelName"}
"""Names that only the type hints of a command need."""


def remarks(module: str) -> dict[str, str]:
    """Returns the docstrings of a module's constants, by name."""
    body = ast.parse(Path(importlib.import_module(module).__file__).read_text()).body
    found = {}
    for node, below in itertools.pairwise(body):
        text = below.value if isinstance(below, ast.Expr) else None
        if isinstance(text, ast.Constant) and isinstance(text.value, str):
            if isinstance(node, ast.Assign):
                found[node.targets[0].id] = text.value
            elif isinstance(node, ast.AnnAssign):
                found[node.target.id] = text.value
    return found


def public(module: str) -> dict[str, object]:
    """The public names of a module: those of `__all__`, or what the module defines itself."""
    home = importlib.import_module(module)
    names = getattr(home, "__all__", None)
    if names is None:
        own = {name for name, value in vars(home).items() if _home(value) == module}
        names = {name for name in own | remarks(module).keys() if not name.startswith("_")}
    values = {name: getattr(home, name) for name in names}
    return {name: value for name, value in values.items() if not isinstance(value, ModuleType)}


def _home(value: object) -> object:
    return value.__module__ if inspect.isclass(value) or inspect.isfunction(value) else None


def entries() -> dict[tuple[str, str], object]:
    """The objects of the reference, by module and name, as autodoc finds them."""
    found = {}
    for _, module, members in ENTRIES:
        names = public(module)
        for name in names if members is None else members:
            found[module, name] = getattr(importlib.import_module(module), name)
    return found


ALL = entries()
DESCRIBED = {
    key: value
    for key, value in ALL.items()
    if inspect.isclass(value) or (callable(value) and inspect.getdoc(value) and _home(value))
}


def test_each_room_has_a_page():
    rooms = {m.name for m in pkgutil.iter_modules(gan_jax.__path__) if not m.name.startswith("_")}
    shown = {module.split(".")[1] for _, module, _ in ENTRIES}
    assert rooms - INTERNAL == shown - INTERNAL
    assert len(ALL) > 150


def test_each_page_is_in_the_table_of_contents():
    listed = re.search(r"{toctree}\n(.*?)```", (REFERENCE / "index.md").read_text(), re.DOTALL)[1]
    pages = {line.strip() for line in listed.splitlines() if line and not line.startswith(":")}
    assert pages == {page.stem for page in REFERENCE.glob("*.md")} - {"index"}


def exported() -> list[tuple[str, str]]:
    """Each public name of gan_jax and of its rooms that have an `__all__`."""
    modules = ["gan_jax"] + [
        f"gan_jax.{room.name}"
        for room in pkgutil.iter_modules(gan_jax.__path__)
        if room.ispkg and not room.name.startswith("_")
    ]
    return [(module, name) for module in modules for name in public(module)]


@pytest.mark.parametrize("module", sorted({module for module, _ in exported()}))
def test_a_public_name_has_an_entry(module):
    """An entry is one of its module, or of the module that defines it."""
    missing = [
        name
        for home, name in exported()
        if home == module
        and name not in TYPES_OF_SETTINGS
        and not any(
            value is getattr(importlib.import_module(module), name) and has_text(key)
            for key, value in ALL.items()
        )
    ]
    assert not missing, f"{module}: add these to a page of docs/reference: {missing}"


def has_text(key: tuple[str, str]) -> bool:
    """Whether autodoc shows the object. It leaves out objects without a docstring."""
    return key in DESCRIBED or bool(remarks(key[0]).get(key[1]))


def test_a_name_without_an_entry_is_found(monkeypatch):
    monkeypatch.delitem(ALL, ("gan_jax.penalties", "lazy"))
    with pytest.raises(AssertionError, match="lazy"):
        test_a_public_name_has_an_entry("gan_jax.penalties")


def flaws(key: tuple[str, str], value: object) -> list[str]:
    """Returns what is missing in the entry of a function or class."""
    module, _ = key
    text = inspect.getdoc(value) or ""
    found = [] if re.match(r"[A-Z`].*?[.:]($|\s)", text, re.DOTALL) else ["a first sentence"]
    around = text + "\n" + (importlib.import_module(module).__doc__ or "")
    missing = [n for n in parameters(value) if not re.search(rf"\b{n}\b", around)]
    return found + [f"the parameter {n}" for n in missing]


def parameters(value: object) -> list[str]:
    """The names of a function's parameters, or of the fields of a class."""
    if inspect.isclass(value):
        own = inspect.get_annotations(value)
        return [n for n in own if not n.startswith("_") and n not in ("name", "parent")]
    names = [n for n in inspect.signature(value).parameters if not n.startswith("_")]
    return names if len(names) > 1 else []  # the first sentence says what a single one is


@pytest.mark.parametrize("module", sorted({module for module, _ in DESCRIBED}))
def test_an_entry_describes_its_parameters(module):
    found = {
        f"{module}.{key[1]}": lack
        for key, value in DESCRIBED.items()
        if key[0] == module and (lack := flaws(key, value))
    }
    assert not found


def test_a_parameter_without_a_description_is_found():
    def scaled(array, factor):
        """Returns the array times something."""

    assert flaws(("gan_jax", "scaled"), scaled) == ["the parameter factor"]
    scaled.__doc__ = "of array and factor"
    assert flaws(("gan_jax", "scaled"), scaled) == ["a first sentence"]
