"""The arguments that an adapter makes and calls a module with, chosen by their names."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from gan_jax.types import PyTree

_MODES = {
    **dict.fromkeys(("train", "training", "is_training"), True),
    **dict.fromkeys(("deterministic", "use_running_average", "inference"), False),
}
"""Names of the mode argument of a module, each with its value in training."""

Accepted = Callable[..., dict[str, Any]]
"""`(labels, *, train, **others) -> arguments`: those of them that the module names."""


def accepted_by(
    kind: type, label: str | None, adapter: str, others: tuple[str, ...] = ()
) -> Accepted:
    """A function that chooses the arguments for a module's `__call__`, all but its input.

    Args:
      kind: the module's class.
      label: the name of the argument that takes the labels. None: labels are ignored.
      adapter: the call of the adapter without its options, such as "from_linen(module", for
        messages.
      others: names that the adapter gives too, where the module has them.

    Raises:
      ValueError: `label` is not the default and names no argument of the module; (when arguments
        are chosen) there are labels, and the module has no argument `label`, but another that may
        be meant for them.
    """
    called = f"{kind.__name__}.__call__"
    _, _, *further = inspect.signature(kind.__call__).parameters.values()
    names = [a.name for a in further if a.kind in (a.POSITIONAL_OR_KEYWORD, a.KEYWORD_ONLY)]
    known = (*_MODES, *others)
    shown = [str(a.replace(annotation=a.empty)) for a in further if a.name not in known]
    if label not in (None, "label", *names):
        raise ValueError(
            f"label must be the name of an argument of {called}, got {label!r}: besides its input "
            f"and the mode it has {', '.join(shown) or 'none'}"
        )

    def accepted(labels: PyTree | None, *, train: bool, **offered: Any) -> dict[str, Any]:
        offered |= {name: train == in_training for name, in_training in _MODES.items()}
        given = {name: value for name, value in offered.items() if name in names}
        if labels is None or label is None:
            return given
        if label in names:
            return {**given, label: labels}
        if shown:
            raise ValueError(
                f"the batch has labels, but {called} has no argument 'label', and nothing is given "
                f"to {', '.join(shown)}: name the argument that takes the labels, "
                f"{adapter}, label=...), or ignore labels, {adapter}, label=None)"
            )
        return given

    return accepted


def made_by(make: Callable[..., Any], **offered: Any) -> Any:
    """`make` called with those of the arguments that it names.

    The first of them is always given: by position if `make` has another name for it.
    """
    names = _names(make)
    first, *_ = offered
    given = {name: value for name, value in offered.items() if name in names}
    return make(**given) if first in given else make(offered[first], **given)


def _names(make: Callable[..., Any]) -> list[str]:
    """The names of the arguments of a function or a class, without those that are bound."""
    if isinstance(make, partial):
        return [name for name in _names(make.func) if name not in make.keywords]
    # The signature of a class may be its metaclass's, (*args, **kwargs).
    function = make.__init__ if inspect.isclass(make) else make
    return list(inspect.signature(function).parameters)
