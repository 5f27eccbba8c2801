"""Pictures of samples in the plane: an animation with D's level sets, and panels side by side."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from gan_jax.run.plots.charts import chart, save_chart
from gan_jax.run.plots.images import animate

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class View(NamedTuple):
    """One moment in the training of a GAN whose samples x are points in the plane.

    Attributes:
      title: the title of the picture.
      made: [N, 2] samples of G.
      judged: [M, M] values of D(x) in [0, 1] on a square lattice over the picture, with M at least
        2. A row of the array has one value of y. None: D is not shown.
    """

    title: str
    made: np.ndarray
    judged: np.ndarray | None = None


def training(views: Sequence[View], real: np.ndarray, gif: Path, *, reach: float) -> None:
    """Writes an animation with one frame for each view.

    Args:
      views: the frames in order, at least one.
      real: [R, 2] samples of the data.
      gif: the file to write.
      reach: a number above 0. Both axes go from -reach to reach.
    """
    pictures = []
    for view in views:
        figure, axes = chart(size=(5.6, 5.2))
        if view.judged is not None:
            lattice = np.linspace(-reach, reach, len(view.judged))
            levels = axes.contourf(
                *(lattice, lattice, view.judged), np.linspace(0, 1, 11), cmap="RdBu", alpha=0.5
            )
            figure.colorbar(levels, ax=axes, label="D(x): 1 real, 0 fake", shrink=0.85)
        _scatter(axes, view, real, reach, size=5.0)
        axes.legend(loc="upper right", fontsize=8, markerscale=3)
        figure.canvas.draw()
        pixels = np.asarray(figure.canvas.buffer_rgba())  # type: ignore[attr-defined]
        pictures.append(Image.fromarray(pixels).convert("RGB"))
    animate(pictures, gif)


def side_by_side(views: Sequence[View], real: np.ndarray, file: Path, *, reach: float) -> None:
    """Draws a panel for each view, at most five in a row, without D.

    Args:
      views, real, reach: as for `training`.
      file: the PNG to write.
    """
    columns = min(5, len(views))
    rows = math.ceil(len(views) / columns)
    figure, panels = chart(
        rows, columns, size=(2.8 * columns, 3.0 * rows), squeeze=False, sharex=True, sharey=True
    )
    for axes in panels.flat[len(views) :]:
        axes.set_axis_off()
    for axes, view in zip(panels.flat, views, strict=False):
        _scatter(axes, view, real, reach, size=2.0)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=2, frameon=False, markerscale=4
    )
    save_chart(figure, file)


def _scatter(axes: "Axes", view: View, real: np.ndarray, reach: float, *, size: float) -> None:
    for x, share, style in (
        (view.made, 1.0, {"color": "tab:orange", "label": "G's samples"}),
        (real, 0.5, {"color": "black", "alpha": 0.5, "label": "data"}),
    ):
        axes.scatter(x[:, 0], x[:, 1], s=share * size, lw=0, **style)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axes.set_title(view.title, fontsize=9)
