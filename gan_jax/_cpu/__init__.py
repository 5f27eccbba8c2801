"""Faster forms of what XLA compiles badly for a CPU. A GPU or a TPU never gets them.

Only `nn`, `random` and `optimizers` ask for these forms. The results are those of the usual forms
to rounding.
"""

from contextlib import AbstractContextManager
from typing import Any

import jax

FORMS = ("convolutions", "dense", "keys", "adam")

_ENABLED = jax.make_user_context(FORMS)  # a part of the keys of JAX's caches


def only(*forms: str) -> AbstractContextManager[Any]:
    """Returns a context in which only the named forms are used; with no names, none is.

    A function uses what is enabled when JAX traces it.
    """
    if unknown := set(forms) - set(FORMS):
        raise ValueError(f"forms must be among {FORMS}, got {sorted(unknown)}")
    context: AbstractContextManager[Any] = _ENABLED(forms)
    return context


def uses(form: str) -> bool:
    """Returns whether a form of `FORMS` is enabled."""
    return form in _ENABLED.value
