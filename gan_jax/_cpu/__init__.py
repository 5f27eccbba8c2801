"""Faster forms of the operations that XLA compiles badly for a CPU.

Only `nn`, `random` and `optimizers` use these forms, and only on a CPU. The results of these forms
equal those of the usual forms up to rounding.
"""

from contextlib import AbstractContextManager
from typing import Any

import jax

FORMS = ("convolutions", "dense", "keys", "adam")

_ENABLED = jax.make_user_context(FORMS)  # a change makes JAX trace functions again


def only(*forms: str) -> AbstractContextManager[Any]:
    """Returns a context in which only the named forms are used. Without names, no form is used.

    A function uses the forms that are enabled when JAX traces it.

    Raises:
      ValueError: a name is not in `FORMS`.
    """
    if unknown := set(forms) - set(FORMS):
        raise ValueError(f"forms must be among {FORMS}, got {sorted(unknown)}")
    context: AbstractContextManager[Any] = _ENABLED(forms)
    return context


def uses(form: str) -> bool:
    """Returns whether this form, one of `FORMS`, is enabled."""
    return form in _ENABLED.value
