"""The machine room: one loop for every training, its hooks, checkpoints, folder, data and pictures.

`train` runs any step `(state, batch) -> (state, metrics)`, such as that of an `Algorithm`, in a
folder of its own from which it resumes exactly.
"""

from gan_jax.run.checkpoint import CheckpointError, Checkpoints
from gan_jax.run.folder import RunFolder
from gan_jax.run.hooks import Look, NonFinite
from gan_jax.run.loop import Hook, Interrupted, Work, make_chunk
from gan_jax.run.session import train

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "Hook",
    "Interrupted",
    "Look",
    "NonFinite",
    "RunFolder",
    "Work",
    "make_chunk",
    "train",
]
