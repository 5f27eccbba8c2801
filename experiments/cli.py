"""The command line that every experiment shares."""

import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import tyro

from gan_jax.errors import UserError

Config = TypeVar("Config")


def run(main: Callable[[Config], Any], config: type[Config], description: str) -> None:
    """Reads the flags and runs `main`; what a user can mend ends in a message, not a traceback."""
    from gan_jax.checkpoint import CheckpointError
    from gan_jax.training import Interrupted

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        settings = tyro.cli(config, description=description)
    try:
        main(settings)
    except (UserError, CheckpointError) as error:
        sys.exit(f"error: {error}")
    except Interrupted as stop:
        print(f"stopped by {stop}, saved. The same command resumes.", file=sys.stderr)
        sys.exit(128 + stop.signum)
    except KeyboardInterrupt:  # before training began, or for the second time
        print("stopped", file=sys.stderr)
        sys.exit(130)
