"""The command `gan-jax`.

This module stands outside the package and imports the standard library alone, because importing
JAX takes seconds: a signal ends these seconds in a message too, and `gan-jax --help` need not wait.
"""

import importlib
import os
import signal
import sys
from contextlib import suppress

COMMANDS = {
    "train": "train a GAN on images; the same command resumes",
    "sample": "draw images from a trained run",
}
"""Summaries of the modules of `gan_jax.run.commands`, each of which has a function `command`."""


def main() -> None:
    """Runs the command that the first argument names, with the other arguments as its flags."""
    end_on_signals()
    import argparse  # these two take a while, so that signals come first
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
        module = importlib.import_module(f"gan_jax.run.commands.{name}")
    except ModuleNotFoundError as error:
        if not error.name or error.name.split(".")[0] == "gan_jax":
            raise
        sys.exit(f"error: {error.name} is not installed: pip install 'gan-jax[experiments]'")
    module.command(prog=f"gan-jax {name}", args=sys.argv[2:])


def end_on_signals() -> None:
    """Makes SIGINT and SIGTERM end this process with a message and the exit status 130 or 143.

    During training `gan_jax.run.loop.run` handles the first signal instead: it saves, then ends.
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
    message = (
        f"{new_line}stopped by {signal.Signals(signum).name}: saved files are intact, and the same "
        "command resumes or begins again\n"
    )
    if sys.stderr is not None:  # else descriptor 2 may be another file
        with suppress(OSError):
            os.write(2, message.encode())
    os._exit(128 + signum)
