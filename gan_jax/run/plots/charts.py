"""Matplotlib figures without a window, and the curves of a run."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gan_jax.run.files import whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOG_4 = math.log(4.0)


def chart(
    rows: int = 1, columns: int = 1, *, size: tuple[float, float], **grid: Any
) -> tuple["Figure", Any]:
    """Returns an empty matplotlib figure and its axes, without a window or global state.

    Args:
      rows, columns: the numbers of rows and columns of axes. Several axes are returned as an array,
        as `subplots` does.
      size: width and height in inches.
      **grid: further arguments of `Figure.subplots`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **grid)


def save_chart(figure: "Figure", file: Path, *, dpi: int = 110) -> None:
    """Writes a figure as a PNG file, completely or not at all."""
    with whole(file) as opened:
        figure.savefig(opened, format="png", dpi=dpi)


_SHORT = {
    "discriminator_loss": "D {:.3f}",
    "generator_loss": "G {:.3f}",
    "value": f"V {{:.3f}} (-log 4 = {-LOG_4:.3f})",
    "real_accuracy": "acc real {:.2f}",
    "fake_accuracy": "fake {:.2f}",
}


def in_short(record: dict[str, float]) -> str:
    """Returns one line with the main metrics of a GAN, without those that the record lacks."""
    return " ".join(form.format(record[name]) for name, form in _SHORT.items() if name in record)


def curves(records: Sequence[dict[str, float]], file: Path) -> None:
    """Draws V with its optimum, both losses and both accuracies over the steps of a run.

    Args:
      records: records with a `step`. A metric is drawn from the records that contain it.
      file: the PNG to write.
    """
    figure, (value, losses, accuracies) = chart(3, size=(7, 7), sharex=True)

    def draw(axes: Any, names: Sequence[str]) -> None:
        for name in names:
            points = [(record["step"], record[name]) for record in records if name in record]
            steps, values = zip(*points, strict=True) if points else ((), ())
            axes.plot(steps, values, label=name.replace("_", " "), lw=1)

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
    save_chart(figure, file)
