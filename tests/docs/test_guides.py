"""The code, the commands and the links of the documentation site."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

import gan_jax_command
from gan_jax.run import cli
from gan_jax.run.commands.recipes import RECIPES

ROOT = Path(__file__).parents[2]
PAGES = {
    page.relative_to(ROOT / "docs").as_posix(): page.read_text()
    for page in sorted((ROOT / "docs").rglob("*.md"))
    if page.relative_to(ROOT / "docs").parts[0] not in ("_build", "notebooks")
}
GUIDES = [name for name in PAGES if name.startswith("guides/")]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)


CODE = {page: "".join(blocks(page, "python")) for page in PAGES if blocks(page, "python")}


def test_the_code_is_found():
    assert CODE.keys() >= {"index.md", "guides/data.md", "guides/networks.md"}


@pytest.mark.parametrize("page", CODE)
def test_the_code_of_a_page_uses_names_that_exist(page):
    """Every import of the code, and every attribute that it reads from an imported module."""
    tree, names = ast.parse(CODE[page]), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            exec(ast.unparse(node), names)
    read = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    modules = [ast.unparse(node) for node in read if ast.unparse(node).split(".")[0] in names]
    assert modules
    for name in modules:
        eval(name, names)


@pytest.mark.slow
@pytest.mark.parametrize("page", CODE)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch, quick_compile):
    """The blocks of a page run in order, as one program."""
    monkeypatch.chdir(tmp_path)
    exec(CODE[page].replace("length=3000", "length=10"), {"__name__": page})


def commands():
    """Each command line of the pages, without comments and with `\\` joined."""
    lines = set()
    for page in PAGES:
        for block in blocks(page, "sh"):
            joined = re.sub(r"\s*#.*", "", block).replace("\\\n", " ")
            lines |= {line for line in map(str.strip, joined.splitlines()) if line}
    return sorted(lines)


PARSED = [line for line in commands() if re.match(r"gan-jax|python -m experiments\.", line)]
OTHER = r"(pip install|npm pack) |python -m benchmarks\."


def test_each_command_line_is_known():
    assert len(PARSED) > 15
    assert [line for line in commands() if line not in PARSED and not re.match(OTHER, line)] == []


def parse(line):
    """Returns the settings from a command line, parsed with the parser of its command."""
    first, *words = shlex.split(line)
    settings, options = [], {}
    if first == "gan-jax":
        name, *words = words
        assert name in gan_jax_command.COMMANDS
        module = importlib.import_module(f"gan_jax.run.commands.{name}")
        options = {"recipes": RECIPES} if name == "train" else {}
    else:
        module = importlib.import_module(words[1])
        words = words[2:]
    cli.run(settings.append, module.Config, "", prog=first, args=words, **options)
    return settings[0]


@pytest.mark.parametrize("line", PARSED)
def test_a_command_line_is_parsed(line, monkeypatch):
    monkeypatch.setattr(cli, "keep_compilations", lambda: None)
    monkeypatch.setattr(cli.memory, "return_large_buffers", lambda: None)
    monkeypatch.setattr(cli.gc, "freeze", lambda: None)
    assert parse(line) is not None


def test_a_wrong_flag_is_found(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        parse("gan-jax sample --run runs/mnist --lable 7")


@pytest.mark.parametrize("page", GUIDES)
def test_a_guide_says_what_the_reader_will_have(page):
    title, _, first = PAGES[page].split("\n")[:3]
    assert title.startswith("# ")
    assert first.startswith("At the end of this page, ")
    assert f"\n{page.removesuffix('.md')}\n" in PAGES["index.md"]


INLINE = [
    (page, flag)
    for page in GUIDES
    for flag in sorted(set(re.findall(r"`(--[a-z][a-z0-9.-]*)[ `]", PAGES[page])))
]


@pytest.mark.parametrize("page", sorted({page for page, _ in INLINE}))
def test_the_flags_in_the_text_are_those_of_a_command(page):
    import dataclasses

    from gan_jax.run import datasets
    from gan_jax.run.commands import evaluate, sample, train

    fields = [
        (prefix, field.name)
        for prefix, config in (
            ("", train.Config),
            ("", sample.Config),
            ("", evaluate.Config),
            ("data.", datasets.Config),
        )
        for field in dataclasses.fields(config)
    ]
    known = {f"--{prefix}{name.replace('_', '-')}" for prefix, name in fields}
    known |= {"--no-ema", "--recipe", "--version"}
    assert {flag for at, flag in INLINE if at == page} <= known


@pytest.mark.slow
def test_the_site_has_an_entry_for_each_public_name(tmp_path):
    """The build has no warnings, and its inventory has the names of the reference."""
    application = pytest.importorskip("sphinx.application")
    inventory = pytest.importorskip("sphinx.util.inventory")
    from test_reference import ALL, has_text

    source = str(ROOT / "docs")
    app = application.Sphinx(
        source,
        source,
        str(tmp_path / "html"),
        str(tmp_path / "doctrees"),
        "html",
        confoverrides={"nb_execution_mode": "off"},
        warningiserror=True,
    )
    app.build()
    assert app.statuscode == 0
    with (tmp_path / "html" / "objects.inv").open("rb") as file:
        entries = inventory.InventoryFile.load(file, "", lambda *parts: "/".join(parts))
    found = {name for kind in entries.values() for name in kind}
    expected = {".".join(key) for key in ALL if has_text(key)}
    assert len(expected) > 150
    assert expected <= found
