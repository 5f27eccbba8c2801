"""Experiments. In a checkout, `python -m experiments.NAME` runs one of them."""

import sys

from gan_jax_command import end_on_signals

if sys.argv[:1] == ["-m"]:  # `python -m` is locating a command, and imports take seconds
    end_on_signals()
