"""The commands, `python -m experiments.NAME`.

SIGINT and SIGTERM end a command at any moment, with a message and the exit status 130 or 143.
During training `gan_jax.run.loop.run` handles the first signal instead: it saves, then ends.
"""

import os
import signal
import sys
from contextlib import suppress


def _stop(signum: int, _: object) -> None:
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


if sys.argv[:1] == ["-m"]:  # `python -m` is locating a command: its imports take seconds
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # shells ignore it in background jobs
            signal.signal(number, _stop)
