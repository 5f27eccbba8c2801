"""The command `gan-jax`.

This module is outside the package `gan_jax`, because the import of the package takes seconds.
Before that import, the module makes signals end the command with a message, and it answers `gan-jax
--help`.
"""

import importlib
import os
import signal
import sys
from contextlib import suppress

COMMANDS = {
    "train": "train a GAN on images, or resume a run",
    "sample": "draw images from a trained run",
    "evaluate": "score the samples of a run, or other images",
}
"""The modules of `gan_jax.run.commands`, each with a summary for `gan-jax --help`."""

_WITHOUT_SAVES = ("sample", "evaluate")
"""Commands that write their results at the end, so they cannot resume."""


def main() -> None:
    """Runs the command named by the first argument. The other arguments are the command's flags."""
    end_on_signals()
    import argparse  # imported here, because signals come first
    from importlib.metadata import version

    parser = argparse.ArgumentParser(
        prog="gan-jax",
        description="Trains generative adversarial networks on images.",
        epilog="gan-jax COMMAND --help lists the flags of a command.",
    )
    parser.add_argument("--version", action="version", version=f"gan-jax {version('gan-jax')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="name")
    for name, summary in COMMANDS.items():
        commands.add_parser(name, help=summary)
    name = parser.parse_args(sys.argv[1:2]).name
    if name is None:
        parser.print_help()
        return
    try:
        command = importlib.import_module(f"gan_jax.run.commands.{name}")
        cli = importlib.import_module("gan_jax.run.cli")
    except ModuleNotFoundError as error:
        if not error.name or error.name.split(".")[0] == "gan_jax":
            raise
        sys.exit(f"error: {error.name} is not installed: pip install 'gan-jax[experiments]'")
    settings = {"prog": f"gan-jax {name}", "args": sys.argv[2:]}
    if name == "train":
        settings["recipes"] = importlib.import_module("gan_jax.run.commands.recipes").RECIPES
    cli.run(command.main, command.Config, command.__doc__ or "", **settings)


def end_on_signals() -> None:
    """Makes SIGINT and SIGTERM end this process with a message and the exit status 130 or 143.

    During training `gan_jax.run.loop.run` handles the first signal: it saves the state and then
    ends.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # shells ignore it in background jobs
            signal.signal(number, _end)


def _end(signum: int, _: object) -> None:
    """Ends the process at once, as SIGKILL would, but with a message.

    An exception is not reliable here: imports, callbacks from C and thread joins may swallow it,
    replace it or print a traceback. Saved files survive even SIGKILL.
    """
    with suppress(Exception):  # stdout may be closed, or being flushed already
        sys.stdout.flush()
    new_line = "\n" if os.isatty(2) else ""  # below a progress bar
    stopped, remedy = "", "resumes a training from its last save, and begins any other work again"
    program = os.path.splitext(os.path.basename(sys.argv[0]))[0]  # of `python -m experiments.NAME`
    for name in _WITHOUT_SAVES:
        if name in (program, *sys.argv[1:2]):
            stopped, remedy = f"{name} was ", "begins again from the start"
    message = (
        f"{new_line}{stopped}stopped by {signal.Signals(signum).name}: saved files are intact. The "
        f"same command {remedy}\n"
    )
    if sys.stderr is not None:  # otherwise descriptor 2 may be another file
        with suppress(OSError):
            os.write(2, message.encode())
    os._exit(128 + signum)
