"""The docstring of each public function names its errors, the shape of an array and its source."""

import ast
import builtins
import functools
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from test_reference import DESCRIBED, remarks

from gan_jax import losses
from gan_jax.types import AdversarialLoss

ROOT = Path(__file__).parents[2]

FROM_PAPERS = {"augment", "losses", "metrics", "models", "optimizers", "penalties", "terms"}
"""Rooms whose functions implement published methods."""

EXCEPTIONS = {
    ("ValueError", "gan_jax.data.synthetic.feed"): "`for_step` raises it for microbatches only",
    ("source", "gan_jax.optimizers.check_decays"): "it checks arguments",
    ("source", "gan_jax.metrics.extractors.made_for"): "it looks up a name",
    ("source", "gan_jax.metrics.extractors.takes"): "it compares shapes",
}
"""Remarks that the docstring of a function may lack, with the reason."""


class Entry(NamedTuple):
    """A public function, or a public method of a public class.

    Attributes:
      module, name: the module that defines it, and its name there, such as "Stacks.sample".
      node: its syntax tree.
      text: its docstring. For a method, the docstring of the class comes after it.
    """

    module: str
    name: str
    node: ast.FunctionDef
    text: str


def file(module: str) -> Path:
    return Path(importlib.import_module(module).__file__)


@functools.cache
def defined(module: str) -> dict[str, ast.FunctionDef]:
    """Returns the functions and methods that a module defines, by name."""
    found = {}
    for node in ast.parse(file(module).read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.ClassDef):
            methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
            found |= {f"{node.name}.{method.name}": method for method in methods}
    return found


def public_functions() -> Iterator[Entry]:
    """Yields each function and method of the reference once."""
    for value in {id(value): value for value in DESCRIBED.values()}.values():
        module, text = value.__module__, inspect.getdoc(value) or ""
        if not module.startswith("gan_jax"):
            continue
        for name, node in defined(module).items():
            owner, _, method = name.rpartition(".")
            if name == value.__name__:
                yield Entry(module, name, node, text)
            elif owner == value.__name__ and re.match(r"[a-z]|__init__|__call__", method):
                yield Entry(module, name, node, f"{ast.get_docstring(node) or ''}\n\n{text}")


FUNCTIONS = sorted(public_functions())


KNOWN: dict[tuple[str, str], set[str]] = {}
"""The errors of each function, by module and name."""


def raised_by(module: str, name: str) -> set[str]:
    """Returns the names of the errors that a function of this package raises.

    The function may raise them itself, in a function that it defines, or in a function of this
    package that it calls. Errors that it catches do not count.
    """
    if (module, name) not in KNOWN:
        KNOWN[module, name] = set()  # ends the search in a function that calls itself
        KNOWN[module, name] = raised(module, name, defined(module)[name])
    return KNOWN[module, name]


def raised(module: str, name: str, node: ast.AST) -> set[str]:
    """Returns the errors of a part of the function with this name."""

    def within(nodes: Iterable[ast.AST]) -> set[str]:
        return set().union(*(raised(module, name, part) for part in nodes))

    if isinstance(node, ast.Try):
        caught = " ".join(ast.unparse(h.type) if h.type else "Exception" for h in node.handlers)
        outside = within([*node.handlers, *node.orelse, *node.finalbody])
        inside = set() if re.search(r"\bException\b", caught) else within(node.body)
        return outside | (inside - set(re.findall(r"\w+", caught)))
    found = within(ast.iter_child_nodes(node))
    if isinstance(node, ast.Raise) and node.exc:
        found |= _name_of(module, node.exc)
    elif isinstance(node, ast.Call):
        found |= _of_call(module, name, ast.unparse(node.func))
    elif isinstance(node, ast.FunctionDef):
        for decorator in node.decorator_list:
            found |= _of_call(module, name, ast.unparse(decorator))
    return found


def _of_call(module: str, name: str, called: str) -> set[str]:
    """Returns the errors of a call of `called` in the function with this name."""
    if called.startswith("chex.assert_"):
        return {"AssertionError"}
    called = re.sub(r"^self\.", f"{name.partition('.')[0]}.", called)
    try:
        function = functools.reduce(getattr, called.split("."), importlib.import_module(module))
    except AttributeError:  # not a name of the module, or the result of a call
        return set()
    home = getattr(function, "__module__", None) or ""
    if not inspect.isfunction(function) or not home.startswith("gan_jax"):
        return set()
    known = function.__qualname__ in defined(home)
    return raised_by(home, function.__qualname__) if known else set()


def _name_of(module: str, error: ast.expr) -> set[str]:
    """Returns the name of the error in `raise error`, or nothing if it is a variable."""
    name = ast.unparse(error.func if isinstance(error, ast.Call) else error)
    value = getattr(importlib.import_module(module), name, getattr(builtins, name, None))
    if inspect.isfunction(value):  # a function that returns the error
        name, value = value.__annotations__["return"].__name__, value.__annotations__["return"]
    return {name} if inspect.isclass(value) else set()


def has_error(text: str, error: str) -> bool:
    """Whether a section "Raises:", or a first sentence "Raises ...", names an error."""
    first, section = (
        re.match(r"Raises .*", text),
        re.search(r"^Raises:\n((?:[ \n].*)?\n)*", text + "\n", re.MULTILINE),
    )
    return any(found and re.search(rf"\b{error}\b", found[0]) for found in (first, section))


def handles_arrays(node: ast.FunctionDef) -> bool:
    """Whether the result or a parameter is an array. A key does not count."""
    given = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    hints = [a.annotation for a in given if a.arg != "key" and a.annotation]
    words = " ".join(
        ast.unparse(hint) for hint in [*hints, *([node.returns] if node.returns else [])]
    )
    return bool(re.search(r"\b(Array|ArrayLike|ndarray|NDArray)\b", words))


def shapes(text: str) -> list[str]:
    """Returns the shapes in a docstring, such as [B, H, W, C], [num], [...], [2] and [] (a scalar).

    One of the axes is a capital letter, `num` or "...", so [0, 1], [low, high], `x[B]` and E[T] are
    no shapes.
    """
    inside = re.findall(r"(?<![\w\"'\])])\[([^\[\]]*)\]", text)
    axis = re.compile(r"\b[A-Z]\b|\.\.\.|\bnum\b")
    interval = re.compile(r"-|\d+, ")
    return [s for s in inside if not s or s.isdigit() or (axis.search(s) and not interval.match(s))]


SOURCE = re.compile(
    r"(?!The\b|In\b|Since\b)\b[A-Z][\w-]+( et al\.| (and|&) [A-Z][\w-]+)?,? \(?(19|20)\d\d\b"
)
"""Authors and year, as in "Mescheder et al. 2018", "Lim and Ye 2017" and "Korpelevich 1976"."""


def has_source(text: str) -> bool:
    return bool(SOURCE.search(re.sub(r"\s+", " ", text)))


def room(entry: Entry) -> str:
    return entry.module.split(".")[1]


@functools.cache
def lacks(entry: Entry) -> dict[str, str]:
    """Returns what to add to a docstring."""
    found = {
        error: f"a section `Raises:` must name {error} and its cause"
        for error in raised(entry.module, entry.name, entry.node)
        if not has_error(entry.text, error)
    }
    if handles_arrays(entry.node) and not shapes(entry.text):
        found["shape"] = "state the shape of an array, such as [B, H, W, C], or [] for a scalar"
    around = entry.text + (importlib.import_module(entry.module).__doc__ or "")
    if room(entry) in FROM_PAPERS and not has_source(around):
        found["source"] = "cite the paper here or in the module's docstring: Author et al. YEAR"
    return found


@pytest.mark.parametrize("of", sorted({room(entry) for entry in FUNCTIONS}))
def test_a_docstring_is_complete(of):
    missing = [
        f"{file(entry.module).relative_to(ROOT)}:{entry.node.lineno} {entry.name}: {remedy}"
        for entry in FUNCTIONS
        if room(entry) == of
        for what, remedy in lacks(entry).items()
        if (what, f"{entry.module}.{entry.name}") not in EXCEPTIONS
    ]
    assert not missing, "\n".join(missing)


def test_each_exception_is_needed():
    found = {(what, f"{e.module}.{e.name}") for e in FUNCTIONS for what in lacks(e)}
    assert EXCEPTIONS.keys() <= found


def test_each_loss_has_a_source():
    said = remarks(losses.__name__)
    plain = [name for name, value in vars(losses).items() if isinstance(value, AdversarialLoss)]
    assert len(plain) == 6
    assert not [name for name in plain if not has_source(said[name])]


def test_the_functions_are_found():
    names = {f"{entry.module}.{entry.name}" for entry in FUNCTIONS}
    assert len(names) > 200
    assert names >= {
        "gan_jax.losses.top_k",
        "gan_jax.data.stacked.Stacks.sample",
        "gan_jax.run.checkpoint.Checkpoints.restore",
    }


EXAMPLE = '''
def loss(x: Array) -> Array:
    """Returns something{said}."""
    {body}
'''


def example(body: str = "return x", said: str = "") -> Entry:
    (node,) = ast.parse(EXAMPLE.format(body=body, said=said)).body
    return Entry("gan_jax.losses", "loss", node, ast.get_docstring(node))


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("raise ValueError(x)", "ValueError"),
        ("return lambda: check_logits(x, x)", "AssertionError"),  # in a module that losses imports
        ("return _Checked.__call__(x)", "AssertionError"),
        ("return smoothed(x)", "ValueError"),
    ],
)
def test_an_error_without_an_entry_is_found(body, error):
    said = " [B] (Lim and Ye 2017)"
    assert lacks(example(body, said)).keys() == {error}
    assert not lacks(example(body, f"{said}.\n\n    Raises:\n      {error}: x is bad"))
    assert lacks(example(body, f"{said}.\n\n    {error}\n\n    Raises:\n      TypeError: x is bad"))


def test_an_error_that_is_caught_is_none():
    caught = "try:\n        return smoothed(x)\n    except {}:\n        return None"
    said = " [B] (Lim and Ye 2017)"
    assert not lacks(example(caught.format("(ValueError, TypeError)"), said))
    assert not lacks(example(caught.format("Exception"), said))
    assert lacks(example(caught.format("TypeError"), said)).keys() == {"ValueError"}


def test_a_shape_or_a_source_that_is_missing_is_found():
    assert lacks(example()).keys() == {"shape", "source"}
    assert lacks(example(said=" for x [B, ...]")).keys() == {"source"}
    assert lacks(example(said=" (Metz\n    et al. 2017)")).keys() == {"shape"}


def test_shapes_are_told_from_intervals_and_indices():
    assert shapes("x [B, H / 2, ceil(W / 2), C] -> [num], [...], [2] or [], in [0, N) or so") == [
        "B, H / 2, ceil(W / 2), C",
        "num",
        "...",
        "2",
        "",
    ]
    assert not shapes("in [0, 1], [low, high], [1, N], [-M, M]; x[B], E[T], f(x)[N], m['a'][B]")


@pytest.mark.parametrize("text", ["(Szekely and Rizzo 2013)", "Lopez-Paz & Oquab (2017)"])
def test_a_source_is_recognised(text):
    assert has_source(text)


@pytest.mark.parametrize("text", ["The 2014 paper", "In 2014", "with 2014 images", "Step 20145"])
def test_a_number_is_no_source(text):
    assert not has_source(text)
