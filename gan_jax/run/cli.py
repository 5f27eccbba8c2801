"""The command line that all commands share."""

import argparse
import dataclasses
import difflib
import errno
import gc
import io
import json
import math
import os
import signal
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
)

from gan_jax.errors import UserError
from gan_jax.run import memory
from gan_jax.run.checkpoint import CheckpointError
from gan_jax.run.files import check_writable
from gan_jax.run.folder import Record, RunFolder
from gan_jax.run.loop import Interrupted

_OF_THE_DISK = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),  # no room
    *(errno.EACCES, errno.EPERM, errno.EROFS),  # no rights
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),  # unusable paths
    *(errno.EIO, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ETIMEDOUT),  # a disk that fails
    *(errno.EMFILE, errno.ENFILE),  # too many files open
}
"""Error numbers of the operating system for errors that the user can fix. ENOENT is not among them,
because the user's paths are checked earlier. A missing file is therefore a bug of this program."""

_NO_BACKEND = "Unable to initialize backend"
"""The first words of JAX's error for an unknown or busy device. It has no class of its own."""

_RECIPES = """--recipe NAME changes the defaults of the flags to those of {}{}.
--recipe NAME --help shows the defaults, and --recipe NAME --print writes all settings."""

_PATHS = ConstructorRegistry()
"""Makes every flag of type `Path` parse its text with `_path`."""

Config = TypeVar("Config")


def run(
    main: Callable[[Config], Any],
    config: type[Config],
    description: str,
    *,
    prog: str | None = None,
    args: Sequence[str] | None = None,
    recipes: Mapping[str, Config] | None = None,
    recipe: str | None = None,
) -> None:
    """Parses the flags and runs `main`. For errors that the user can fix, no traceback is printed.

    Args:
      main: the command.
      config: the settings of the command, a dataclass. Each field becomes a flag.
      description: the text above the flags in `--help`.
      prog: the command as the user types it, for messages. None: the command that started this
        process.
      args: the flags. None: the flags of this process.
      recipes: settings by name. The flag --recipe NAME makes them the defaults of the other flags,
        and --print prints the settings instead of running the command.
      recipe: the name of the recipe without --recipe. None: the defaults of the dataclass.
    """
    _make_streams_usable()
    try:
        try:
            _run(main, config, description, prog or _program(), args, recipes or {}, recipe)
        finally:
            sys.stdout.flush()  # Python's own flush at exit would print a traceback
    except BrokenPipeError:  # the reader of stdout is gone, as after `| head -1`
        _drop_output()
        sys.exit(128 + signal.SIGPIPE)


def _run(
    main: Callable[[Config], Any],
    config: type[Config],
    description: str,
    prog: str,
    args: Sequence[str] | None,
    recipes: Mapping[str, Config],
    recipe: str | None,
) -> None:
    _check_current_folder()
    gc.freeze()  # imported modules are not searched for garbage: the start takes 0.2 s less
    keep_compilations()
    memory.return_large_buffers()
    options: dict[str, Any] = {"prog": prog, "description": description, "registry": _PATHS}
    only_print = False
    if recipes:
        chooser = argparse.ArgumentParser(prog=prog, add_help=False, allow_abbrev=False)
        chooser.add_argument("--recipe", metavar="NAME", default=recipe)
        chooser.add_argument("--print", action="store_true")
        named = ", ".join(recipes), f" (if missing: {recipe})" if recipe else ""
        options["description"] = f"{description.rstrip()}\n\n{_RECIPES.format(*named)}"
        chosen, args = chooser.parse_known_args(args)
        only_print = chosen.print
        if chosen.recipe is not None:
            if chosen.recipe not in recipes:
                chooser.error(f"--recipe {none_of(chosen.recipe, recipes)}")
            options["default"] = recipes[chosen.recipe]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        settings = tyro.cli(config, args=args, **options)
    if only_print:
        print(json.dumps(dataclasses.asdict(settings), indent=2, default=str))
        return
    try:
        main(settings)
    except (UserError, CheckpointError) as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        sys.exit(f"error: {error}. Files saved before are intact.")
    except RuntimeError as error:
        if not str(error).startswith(_NO_BACKEND):
            raise
        sys.exit(f"error: {error}")  # JAX names the device and the remedy
    except Interrupted as stop:
        print(f"stopped by {stop}, saved. The same command resumes.", file=sys.stderr)
        sys.exit(128 + stop.signum)
    except KeyboardInterrupt:  # where `gan_jax_command.end_on_signals` was not called
        print("stopped", file=sys.stderr)
        sys.exit(130)


def _check_current_folder() -> None:
    """Ends the process with a message if the current folder was deleted.

    No relative path could then be read.
    """
    try:
        os.getcwd()
    except FileNotFoundError:
        sys.exit("error: the current folder was deleted: change to another one with `cd`")


def _program() -> str:
    """Returns the command line that started this process, without its flags."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name}" if spec else os.path.basename(sys.argv[0])


class _Stderr(io.FileIO):
    """The standard error. If its reader exits, messages are dropped and the work goes on."""

    def write(self, text: Any) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            return len(text)


def _make_streams_usable() -> None:
    """Replaces closed stdout and stderr (`>&-`), and makes stdout accept text of any alphabet.

    Messages to a stderr without a reader are dropped.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # tests and notebooks replace stdout
        sys.stdout.reconfigure(errors="backslashreplace")
    if isinstance(sys.stderr, io.TextIOWrapper) and sys.stderr is sys.__stderr__:
        sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(_Stderr(2, "wb", closefd=False)),
            encoding=sys.stderr.encoding,
            errors=sys.stderr.errors,
            line_buffering=True,
        )


def _drop_output() -> None:
    """Points a broken stdout to the null device, so that flushing it at exit does not fail."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@_PATHS.primitive_rule
def _read_path(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
    if info.type is not Path:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: _path(words[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda path: [str(path)],
    )


def _path(text: str) -> Path:
    """Returns the absolute path that a flag's text names.

    `~` is the home folder, and `./~` is a file with the name `~`.

    Libraries may read a relative path such as `gs:x` or `s3:x` as an address. An absolute path
    prevents that.
    """
    if not text:
        raise ValueError("the path is empty")
    if text != text.encode(errors="ignore").decode():  # Orbax cannot save there
        raise ValueError(f"the path is not text in UTF-8: {text!r}")
    return Path(os.path.expanduser(text)).absolute()


def keep_compilations() -> None:
    """Makes JAX keep compiled programs in the user's cache folder, so that each is compiled once.

    JAX's own environment variables have precedence. JAX_COMPILATION_CACHE_DIR names another folder.
    If this variable is empty, no programs are kept. Programs that compile faster than
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS are not kept. Nothing is kept for a user who has
    neither XDG_CACHE_HOME nor a home folder.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and (caches := user_caches()) is not None:
        jax.config.update("jax_compilation_cache_dir", str(caches / "gan_jax"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def user_caches() -> Path | None:
    """Returns the folder of the user's caches. None: there is no XDG_CACHE_HOME and no home."""
    caches = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(caches) if os.path.isabs(caches) else None  # "~" stays if there is no home folder


def flag(name: str) -> str:
    """Returns the flag of a field: --num-steps for `num_steps`."""
    return "--" + name.replace("_", "-")


def none_of(name: str, choices: Collection[str]) -> str:
    """Returns a message that a name is none of the choices. It may suggest the nearest choice."""
    near = difflib.get_close_matches(name, choices, n=1)
    guess = f": did you mean {near[0]}?" if near else ""
    return f"{name} is none of {', '.join(choices)}{guess}"


def check_names(config: Any, field: str, choices: Collection[str]) -> None:
    """Raises `UserError` if a field names something that is not among the choices."""
    for name in getattr(config, field):
        if name not in choices:
            raise UserError(f"{flag(field)} {none_of(name, choices)}")


def check_at_least(config: Any, **least: float) -> None:
    """Raises `UserError` if a field is not finite or is below its least value in `least`.

    A field that is None is passed over, here and in the next checks.
    """
    for name, value in _given(config, least):
        if not least[name] <= value < math.inf:
            raise UserError(f"{flag(name)} must be at least {least[name]}, got {value}")


def check_above_zero(config: Any, *names: str) -> None:
    """Raises `UserError` unless each field named is finite and above 0."""
    for name, value in _given(config, names):
        if not 0 < value < math.inf:
            raise UserError(f"{flag(name)} must be above 0, got {value}")


def check_below_one(config: Any, *names: str) -> None:
    """Raises `UserError` unless each field named is in [0, 1)."""
    for name, value in _given(config, names):
        if not 0 <= value < 1:
            raise UserError(f"{flag(name)} must be in [0, 1), got {value}")


def check_share(config: Any, *names: str) -> None:
    """Raises `UserError` unless each field named is in [0, 1]."""
    for name, value in _given(config, names):
        if not 0 <= value <= 1:
            raise UserError(f"{flag(name)} must be in [0, 1], got {value}")


def _given(config: Any, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Yields the name and the value of each field that is not None."""
    for name in names:
        if (value := getattr(config, name)) is not None:
            yield name, value


def check_seed(config: Any) -> None:
    """Raises `UserError` unless the field `seed` is in [0, 2**32)."""
    check_at_least(config, seed=0)
    if config.seed >= 2**32:
        raise UserError(f"--seed must be below 2**32, got {config.seed}")


def check_folder(name: str, folder: Path) -> None:
    """Raises `UserError` unless the folder of a flag can be written to. It need not exist yet."""
    try:
        check_writable(folder)
    except UserError as error:
        raise UserError(f"{flag(name)}: {error}") from None


def check_workdir(config: Any) -> None:
    """Raises `UserError` if a new run cannot be saved in `config.workdir`."""
    if (config.workdir / "config.json").exists():
        return  # a complete run may be read only
    check_folder("workdir", config.workdir)


def open_run(
    name: str, config: Any, *, free: frozenset[str] = frozenset({"workdir"}), **more: Record
) -> RunFolder:
    """Returns the folder `config.workdir` of a run.

    Args:
      name: the experiment's name, which `config.json` records.
      config: the experiment's settings, a dataclass with a `workdir`.
      free: the settings that may change when a run is resumed.
      more: other values that affect the result, such as the digest of the data.

    Raises:
      UserError: the folder holds files that do not belong to a run, or a run with other settings,
        or it cannot be written to.
    """
    settings = {"experiment": name, "config": dataclasses.asdict(config), **more}
    named = frozenset(f"config.{name}" for name in free)
    defaults = {
        f"config.{field.name}": field.default
        for field in dataclasses.fields(config)
        if field.default is not dataclasses.MISSING
    }
    try:
        folder = RunFolder(config.workdir, settings, named, defaults)
    except UserError as error:
        raise UserError(f"--workdir: {error}") from None
    check_workdir(config)
    return folder


def record(name: str, config: Any, work: Callable[[RunFolder], Record]) -> Record:
    """Runs an experiment in `config.workdir` and returns its summary.

    If the folder has a summary, the experiment is not run again. If the folder holds a run with
    other settings, `UserError` is raised.

    Args:
      name: the experiment's name, which `config.json` records.
      config: the experiment's settings, a dataclass with a `workdir`.
      work: a function that trains, saves pictures in the folder and returns the entries of the
        summary.
    """
    folder = open_run(name, config)
    if done := folder.summary():
        print(f"{folder.path} is complete: look at its pictures, or choose another --workdir")
        return done
    summary = folder.once(lambda: work(folder))
    print(f"done: look at the pictures in {folder.path}, and at summary.json for the results")
    return summary
