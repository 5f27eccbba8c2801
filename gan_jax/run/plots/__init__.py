"""Pictures of samples, and charts of metrics over steps."""

from gan_jax.run.plots.charts import LOG_4, chart, curves, in_short, save_chart
from gan_jax.run.plots.demonstration import Moment, convergence, moments
from gan_jax.run.plots.images import grid, history, save_image

__all__ = [
    "LOG_4",
    "Moment",
    "chart",
    "convergence",
    "curves",
    "grid",
    "history",
    "in_short",
    "moments",
    "save_chart",
    "save_image",
]
