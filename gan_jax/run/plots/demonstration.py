"""Pictures of a one-dimensional GAN, in the style of Goodfellow et al. 2014, figure 1."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gan_jax.run.plots.charts import LOG_4, chart, save_chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Moment(NamedTuple):
    """One moment in the training of a GAN whose samples x and latents z are single numbers.

    Attributes:
      title: the title of the panel.
      x: [N] increasing numbers.
      p_data, p_g: [N] densities at x. p_g may be infinite where G turns back.
      discriminator, optimal: [N] values of the trained D(x) and of D*(x), in [0, 1].
      z, made: [K] latents and G(z).
    """

    title: str
    x: np.ndarray
    p_data: np.ndarray
    p_g: np.ndarray
    discriminator: np.ndarray
    optimal: np.ndarray
    z: np.ndarray
    made: np.ndarray


def moments(rows: Sequence[Sequence[Moment]], file: Path, *, limits: tuple[float, float]) -> None:
    """Draws a panel for each moment of training.

    The upper part of a panel shows the densities, D(x) and D*(x). The lower part shows arrows from
    z to G(z).

    Args:
      rows: the rows of panels from top to bottom. All rows have the same number of panels, at least
        one.
      file: the PNG to write.
      limits: the ends of the axis, which is the same for x and z. Values outside are cut off.
    """
    columns = len(rows[0])
    figure, axes = chart(
        2 * len(rows),
        columns,
        size=(max(6.4, 3.8 * columns), 0.6 + 4.2 * len(rows)),
        squeeze=False,
        sharex=True,
        height_ratios=[3, 1] * len(rows),
    )
    for i, row in enumerate(rows):
        for j, moment in enumerate(row):
            upper, lower = axes[2 * i : 2 * i + 2, j]
            _densities(upper, moment)
            _arrows(lower, moment, limits)
            upper.set_xlim(*limits)
            upper.tick_params(labelbottom=False)
            lower.tick_params(labelbottom=True)
            if j == 0:
                upper.set_ylabel("density (per unit of x);  D, a probability", fontsize=8)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=min(4, 2 * columns),
        fontsize=9,
    )
    save_chart(figure, file, dpi=90)


def _densities(axes: "Axes", moment: Moment) -> None:
    axes.axhline(0.5, color="0.8", lw=0.8)
    axes.plot(moment.x, moment.p_data, "k:", lw=2, label="data, p")
    axes.plot(moment.x, moment.p_g, color="tab:green", lw=2, label="G's samples, q (exact)")
    axes.plot(
        *(moment.x, moment.optimal), color="tab:orange", lw=1.5, label="best D*(x) = p / (p + q)"
    )
    axes.plot(moment.x, moment.discriminator, "--", color="tab:blue", lw=2, label="D(x) as trained")
    axes.set_ylim(0, 1.15)
    axes.set_title(moment.title, fontsize=9)


def _arrows(axes: "Axes", moment: Moment, limits: tuple[float, float]) -> None:
    """Draws arrows from z on the lower line to x on the upper line, as in the paper's figure."""
    axes.hlines([0, 1], *limits, color="black", lw=0.8)
    axes.quiver(
        *(moment.z, np.zeros_like(moment.z), moment.made - moment.z, np.ones_like(moment.z)),
        angles="xy",
        scale_units="xy",
        scale=1,
        width=0.003,
        color="0.3",
    )
    axes.set_ylim(-0.15, 1.15)
    axes.set_yticks([0, 1], ["z", "x"])
    axes.set_xlabel("z below, x = G(z) above", fontsize=8)


def convergence(
    runs: Mapping[str, tuple[np.ndarray, Mapping[str, np.ndarray]]], file: Path
) -> None:
    """Draws JSD and V over the updates of G. Thin lines are seeds, and thick lines are medians.

    Args:
      runs: a dictionary from names in the legend to pairs. A pair consists of an array [F] that
        counts G's updates, and a dictionary with the arrays `jsd` and `value` [F, seeds] in nats.
      file: the PNG to write.
    """
    figure, (divergence, value) = chart(2, size=(7.5, 7), sharex=True)
    for i, (name, (updates, metrics)) in enumerate(runs.items()):
        for axes, key in ((divergence, "jsd"), (value, "value")):
            axes.plot(updates, metrics[key], color=f"C{i}", alpha=0.25, lw=0.8)
            axes.plot(updates, np.median(metrics[key], 1), color=f"C{i}", lw=2, label=name)
    divergence.set_yscale("log")
    divergence.axhline(LOG_4 / 2, color="black", ls="--", lw=1, label="largest possible, log 2")
    divergence.set_ylabel("JSD(p, q), exact, nats")
    divergence.set_title("G: its density q becomes the data's (thin: seeds, thick: median)")
    value.axhline(-LOG_4, color="black", ls="--", lw=1, label="optimum, −log 4")
    value.set_ylim(-2.1, 0.05)
    value.set_ylabel("V(D, G), exact, nats")
    value.set_title("D: can tell at first (V above −log 4), cannot at the end")
    value.set_xscale("symlog", linthresh=10)  # a logarithmic axis could not show update 0
    value.set_xlim(left=0)
    value.set_xlabel("updates of G")
    for axes in (divergence, value):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    save_chart(figure, file)
