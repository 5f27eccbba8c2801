"""Training runs: the training loop, hooks, checkpoints, run folders, data sets and plots.

`train` runs any step `(state, batch) -> (state, metrics)`, such as the step of an `Algorithm`. It
keeps the run in a folder and can resume it exactly.
"""

try:
    from gan_jax.run.checkpoint import CheckpointError, Checkpoints
    from gan_jax.run.folder import RunFolder
    from gan_jax.run.hooks import Look
    from gan_jax.run.loop import Hook, Interrupted, NonFinite, Work, make_chunk
    from gan_jax.run.session import train
except ModuleNotFoundError as error:
    if not error.name or error.name.split(".")[0] == "gan_jax":
        raise
    raise ModuleNotFoundError(
        f"gan_jax.run needs {error.name}: pip install 'gan-jax[experiments]'", name=error.name
    ) from None

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
