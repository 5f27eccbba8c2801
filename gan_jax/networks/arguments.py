"""Selection of the arguments with which an adapter builds and calls a module."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from gan_jax.types import PyTree

_MODES = {
    **dict.fromkeys(("train", "training", "is_training"), True),
    **dict.fromkeys(("deterministic", "use_running_average", "inference"), False),
}
"""The possible names of a module's mode argument, with their values in training."""

Accepted = Callable[..., dict[str, Any]]
"""`(labels, *, train, **others) -> arguments`, which returns the offered arguments that the module
accepts."""


def accepted_by(
    kind: type, label: str | None, adapter: str, others: tuple[str, ...] = ()
) -> Accepted:
    """Returns a function that keeps the offered arguments that a module's `__call__` accepts.

    The module's first argument, its input, is not among them.

    Args:
      kind: the module's class.
      label: the name of the argument for labels. With None, labels are ignored.
      adapter: the start of the adapter's call, such as "from_linen(module". Error messages show it.
      others: further argument names that the adapter offers.

    Raises:
      ValueError: `label` is not the default and is not an argument of the module. The returned
        function raises ValueError if it receives labels and the module has no argument `label`. A
        module without further arguments is an exception: it ignores labels.
    """
    called = f"{kind.__name__}.__call__"
    _, _, *further = inspect.signature(kind.__call__).parameters.values()
    names = [a.name for a in further if a.kind in (a.POSITIONAL_OR_KEYWORD, a.KEYWORD_ONLY)]
    known = (*_MODES, *others)
    shown = [str(a.replace(annotation=a.empty)) for a in further if a.name not in known]
    if label not in (None, "label", *names):
        raise ValueError(
            f"label must be the name of an argument of {called}, got {label!r}: apart from its "
            f"input and mode, the arguments are {', '.join(shown) or 'none'}"
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
                f"the batch has labels, but {called} has no argument 'label'. Its other "
                f"arguments are {', '.join(shown)}: name the argument that takes the labels, "
                f"{adapter}, label=...), or ignore labels, {adapter}, label=None)"
            )
        return given

    return accepted


def made_by(make: Callable[..., Any], **offered: Any) -> Any:
    """Returns the result of `make`, called with the offered arguments that it accepts.

    The first of the offered arguments is always passed. If `make` has another name for this
    argument, it is passed by position.
    """
    names = _names(make)
    first, *_ = offered
    given = {name: value for name, value in offered.items() if name in names}
    return make(**given) if first in given else make(offered[first], **given)


def _names(make: Callable[..., Any]) -> list[str]:
    """Returns the argument names of a function or class, without bound arguments."""
    if isinstance(make, partial):
        return [name for name in _names(make.func) if name not in make.keywords]
    # For a class, `inspect` may return the signature of the metaclass, (*args, **kwargs).
    function = make.__init__ if inspect.isclass(make) else make
    return list(inspect.signature(function).parameters)
