"""The commands, `python -m experiments.NAME`.

A command that SIGINT or SIGTERM reaches ends with a message and the code 130 or 143, at any
moment. `gan_jax.training.run` takes the first signal itself, to save before it ends.
"""

import os
import signal
import sys
from contextlib import suppress


def _stop(signum: int, _: object) -> None:
    """Ends the process at once, as SIGKILL would, but with a message.

    An exception could not do that: imports, callbacks from C and joins of threads may swallow it,
    turn it into another one or print a traceback. What is saved survives SIGKILL.
    """
    with suppress(Exception):  # stdout may be closed, or in the middle of this very call
        sys.stdout.flush()
    new_line = "\n" if os.isatty(2) else ""  # below a progress bar
    message = f"{new_line}stopped by {signal.Signals(signum).name}: what was saved is as it was\n"
    with suppress(OSError):
        os.write(2, message.encode())
    os._exit(128 + signum)


if sys.argv[:1] == ["-m"]:  # Python is locating a command: from here on imports take seconds
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # a shell ignores SIGINT in its jobs
            signal.signal(number, _stop)
