"""Sessions that check gan_jax: `nox --list` names them, and `nox -s newest-3.13` runs one.

Each session installs what it needs with pip, in a virtual environment of its own. A Python that is
not there is skipped with a warning.
"""

import shutil
from pathlib import Path

import nox

PYTHONS = ["3.11", "3.12", "3.13"]
SUBSET = [
    "tests/test_imports.py",
    "tests/test_readme.py",
    "tests/package",
    "tests/core/test_adapters.py",
    "tests/core/test_games.py",
    "tests/core/test_parallel.py",
    "tests/core/test_train_steps.py",
    "tests/core/test_unrolled.py",
    "tests/run/test_evaluate.py",
    "tests/run/test_run_train.py",
    "tests/experiments/test_sample.py",
]
"""The tests that run on every Python: they train, resume, sample, evaluate and call each step."""

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["lint", "types", "tests"]


@nox.session(python=PYTHONS[0])
def tests(session: nox.Session) -> None:
    """Runs the default tests, or those given after `--`."""
    session.install("-e", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session(python=PYTHONS[0])
def slow(session: nox.Session) -> None:
    """Runs the tests that take minutes each."""
    session.install("-e", ".[test]")
    session.run("pytest", "-m", "slow", *session.posargs)


@nox.session(python=PYTHONS)
def newest(session: nox.Session) -> None:
    """Runs the subset with the newest packages that exist for a Python."""
    session.install("--upgrade", "--upgrade-strategy", "eager", "-e", ".[test]")
    session.run("pytest", *(session.posargs or SUBSET))


@nox.session(python=PYTHONS[0])
def minimum(session: nox.Session) -> None:
    """Runs the subset with the oldest JAX, Flax, Optax and chex that `pyproject.toml` admits."""
    oldest = nox.project.load_toml("pyproject.toml")["project"]["dependencies"]
    constraints = Path(session.create_tmp(), "constraints.txt")
    constraints.write_text("\n".join(oldest).replace(">=", "=="))
    session.install("-e", ".[test]", "--constraint", str(constraints))
    session.run("pytest", *(session.posargs or SUBSET))


@nox.session
def docs(session: nox.Session) -> None:
    """Builds the documentation site into `docs/_build/html`."""
    session.install("-e", ".[docs]")
    session.run("sphinx-build", "-W", "-b", "html", "docs", "docs/_build/html")


@nox.session
def lint(session: nox.Session) -> None:
    """Checks style and format."""
    session.install("ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(python=PYTHONS[0])
def types(session: nox.Session) -> None:
    """Checks the types."""
    session.install("-e", ".[test]")
    session.run("mypy")


@nox.session
def build(session: nox.Session) -> None:
    """Builds the sdist, and the wheel from the sdist, into `dist`."""
    session.install("build", "twine")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build")
    session.run("twine", "check", "--strict", *map(str, Path("dist").iterdir()))


@nox.session(python=PYTHONS, requires=["build"])
def package(session: nox.Session) -> None:
    """Installs the wheel without extras, and trains a GAN with it outside the checkout."""
    (wheel,) = Path("dist").glob("*.whl")
    session.install(str(wheel))
    script = Path("tests", "package", "core_alone.py").resolve()
    session.chdir(session.create_tmp())
    session.run("python", "-W", "error", str(script))
