"""The rules of the house, read from the source: who may import whom, and who knows what."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def name_of(path: Path, root: Path = ROOT / "gan_jax") -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


SOURCES = {name_of(path): path.read_text() for path in (ROOT / "gan_jax").rglob("*.py")}
EXPERIMENTS = {
    f"experiments.{name_of(path, ROOT / 'experiments')}": path.read_text()
    for path in (ROOT / "experiments").rglob("*.py")
}


def imports(source: str) -> set[str]:
    """All that a source imports, anywhere in it, by full name: `a.b` for `from a import b`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the floor they reach for"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def packages(source: str) -> set[str]:
    """The top-level packages a source imports."""
    return {name.split(".")[0] for name in imports(source)}


def modules_reached(source: str) -> set[str]:
    """The modules of gan_jax a source imports, by their names in `SOURCES`."""
    reached = set()
    for full in imports(source):
        package, _, name = full.partition(".")
        if package == "gan_jax":
            # What is not a module is a name in one.
            reached.add(name if name in SOURCES else name.rpartition(".")[0])
    return reached


def names(source: str) -> set[str]:
    """Every identifier in a source, not its strings and comments."""
    found = set().union(*(full.split(".") for full in imports(source)))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
    return found


def test_the_reader_of_imports_sees_them_all():
    source = """
import jax.sharding as s
from gan_jax import losses, from_linen
def f():
    from gan_jax.data import pipeline as other
    from gan_jax.nn.conv import conv
    import orbax.checkpoint
    return jax.pmap
"""
    assert modules_reached(source) == {"losses", "", "data.pipeline", "nn.conv"}
    assert packages(source) == {"jax", "gan_jax", "orbax"}
    assert {"sharding", "pmap", "orbax"} <= names(source)


def test_no_circle_of_imports():
    """Imports inside functions included."""
    above: dict[str, set[str]] = {name: modules_reached(SOURCES[name]) for name in SOURCES}
    while ground := {name for name, reached in above.items() if not reached & set(above)}:
        above = {name: reached for name, reached in above.items() if name not in ground}
    assert not above


def test_the_core_never_imports_run():
    users = {
        name
        for name, source in SOURCES.items()
        if any(module.split(".")[0] == "run" for module in modules_reached(source))
    }
    assert {name.split(".")[0] for name in users} == {"run"}


def test_few_rooms_reach_the_cpu_machinery():
    users = {
        name.split(".")[0]
        for name, source in SOURCES.items()
        if any(module.split(".")[0] == "_cpu" for module in modules_reached(source))
    }
    assert users - {"_cpu"} <= {"nn", "random", "optimizers"}


@pytest.mark.parametrize(
    ("package", "home"),
    [
        ("orbax", "run.checkpoint"),
        ("flax.nnx", "networks.nnx"),
        ("equinox", "networks.equinox"),
        ("tensorflow", None),
    ],
)
def test_a_package_has_one_home(package, home):
    users = {
        module
        for module, source in (SOURCES | EXPERIMENTS).items()
        if any(f"{name}.".startswith(f"{package}.") for name in imports(source))
    }
    assert users == ({home} if home else set())


def test_parallel_alone_names_pmap_and_meshes():
    words = {"pmap", "shard_map", "sharding", "Mesh", "make_mesh", "NamedSharding"}
    words |= {"PartitionSpec", "AxisType", "distributed", "process_index", "local_devices"}
    users = {
        module: names(source) & words
        for module, source in (SOURCES | EXPERIMENTS).items()
        if names(source) & words
    }
    assert {name.split(".")[0] for name in users} == {"parallel"}, users


def test_theory_reaches_neither_losses_nor_steps():
    """Not through others either: its word on the code that trains is an outsider's."""
    reached = {name for name in SOURCES if name.split(".")[0] == "theory"}
    while further := set().union(*(modules_reached(SOURCES[name]) for name in reached)) - reached:
        reached |= further
    assert reached >= {"theory", "theory.divergences", "theory.games"}
    assert {name.split(".")[0] for name in reached} == {"theory", "types"}


def test_the_core_needs_none_of_the_extras():
    """In an interpreter of its own: what the imports bring in, directly or not."""
    extras = ["orbax", "tqdm", "PIL", "matplotlib", "tensorflow_datasets", "tensorflow"]
    extras += ["mlxtend", "tensorboardX", "tyro", "array_record", "equinox", "flax.nnx"]
    code = (
        "import sys, gan_jax, gan_jax.models, gan_jax.parallel, gan_jax.penalties\n"
        f"print(*[name for name in {extras} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []


def test_some_rooms_are_imported_when_they_are_first_used():
    """In an interpreter of its own. The other rooms are parts of these imports."""
    code = """
import sys, gan_jax
rooms = ["data", "metrics", "models", "theory"]
assert not [name for name in rooms if f"gan_jax.{name}" in sys.modules]
assert gan_jax.models is sys.modules["gan_jax.models"]
assert gan_jax.data.synthetic.ring and gan_jax.theory.js_divergence
assert "gan_jax.metrics" not in sys.modules
from gan_jax import metrics
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
