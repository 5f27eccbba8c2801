"""Matplotlib figures without a window, and the curves of a run."""

import math
from collections.abc import Mapping, Sequence
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
    "frechet_distance": "FD {:.3g}",
}


def in_short(record: dict[str, float]) -> str:
    """Returns one line with the main metrics of a GAN, without those that the record lacks."""
    return " ".join(form.format(record[name]) for name, form in _SHORT.items() if name in record)


_PANELS: Sequence[tuple[str, Sequence[str], dict[str, float]]] = (
    ("V(D, G), nats", ("value",), {"optimum, -log 4": -LOG_4}),
    ("loss", ("discriminator_loss", "generator_loss"), {}),
    ("accuracy of D", ("real_accuracy", "fake_accuracy"), {"cannot tell": 0.5}),
    ("Fréchet distance", ("frechet_distance",), {}),
    (
        "samples, relative to data",
        ("variety", "nearness", "rarest_class_share"),
        {"as the data": 1.0},
    ),
    (
        "D's order of two images",
        ("real_above_fake", "training_above_held_out"),
        {"cannot tell": 0.5},
    ),
)
"""The panels of `curves`: a label, names of metrics, and horizontal lines by name."""

_FEW = 20
"""Records that are drawn as points too. A single record has no line."""


def curves(
    records: Sequence[dict[str, float]], file: Path, *, marks: Mapping[int, str] | None = None
) -> None:
    """Draws the metrics of a GAN over the steps of a run: V, losses, accuracies and evaluations.

    Args:
      records: records with a `step`. A metric is drawn from the records that contain it. A panel
        without records is left out.
      file: the PNG to write.
      marks: names of events by their steps, drawn as vertical lines.
    """
    known = set[str]().union(*records)
    panels = [panel for panel in _PANELS if not known.isdisjoint(panel[1])] or _PANELS[:1]
    figure, rows = chart(len(panels), size=(7, 7 / 3 * len(panels)), sharex=True, squeeze=False)
    for axes, (label, names, lines) in zip(rows[:, 0], panels, strict=True):
        for name in names:
            points = [(record["step"], record[name]) for record in records if name in record]
            if points:
                steps, values = zip(*points, strict=True)
                marker = "o" if len(points) <= _FEW else None
                axes.plot(steps, values, label=name.replace("_", " "), lw=1, marker=marker, ms=3)
        for name, height in lines.items():
            axes.axhline(height, label=name, color="black", ls="--", lw=1)
        for step, name in (marks or {}).items():
            axes.axvline(step, color="tab:red", ls=":", lw=1, label=f"{name}, step {step}")
        axes.set_ylabel(label)
        axes.legend(loc="best", fontsize=8)
        axes.grid(alpha=0.3)
    rows[-1, 0].set_xlabel("updates of G")
    save_chart(figure, file)
