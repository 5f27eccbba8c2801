"""Charts: empty axes without a window, and the curves of a run."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOG_4 = math.log(4.0)


def chart(
    rows: int = 1, columns: int = 1, *, size: tuple[float, float], **grid: Any
) -> tuple["Figure", Any]:
    """An empty matplotlib figure and its axes, without a window or global state.

    Args:
      rows, columns: of axes. With more than one, the axes are an array, as from `subplots`.
      size: width and height in inches.
      **grid: further arguments of `Figure.subplots`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **grid)


def curves(records: Sequence[dict[str, float]], file: Path) -> None:
    """The figures of a run over its steps: V with its optimum, both losses, both accuracies."""
    figure, (value, losses, accuracies) = chart(3, size=(7, 7), sharex=True)
    steps = [record["step"] for record in records]

    def draw(axes: object, names: Sequence[str]) -> None:
        for name in names:
            axes.plot(steps, [r[name] for r in records], label=name.replace("_", " "), lw=1)  # type: ignore[attr-defined]

    draw(value, ["value"])
    value.axhline(-LOG_4, color="black", ls="--", lw=1, label="optimum, -log 4")
    value.set_ylabel("V(D, G), nats")
    draw(losses, ["discriminator_loss", "generator_loss"])
    losses.set_ylabel("loss")
    draw(accuracies, ["real_accuracy", "fake_accuracy"])
    accuracies.axhline(0.5, color="black", ls="--", lw=1, label="cannot tell")
    accuracies.set_ylabel("accuracy of D")
    accuracies.set_xlabel("updates of G")
    for axes in (value, losses, accuracies):
        axes.legend(loc="best", fontsize=8)
        axes.grid(alpha=0.3)
    figure.savefig(file, dpi=110)
