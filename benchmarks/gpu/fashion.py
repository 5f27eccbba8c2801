"""Trains Fashion-MNIST and measures the distance of samples after one, three and six minutes.

The recipe is the default of `gan-jax train` with constant learning rates, so that one training
serves all three rows. A row compares 10,000 samples, drawn with the moving average of G's weights,
with the 10,000 test images, on the features of the package's classifier of clothes. The training
time does not include compilation. The state is saved for each row, and an interrupted part
continues from the last one.
"""

import shutil
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np

from benchmarks.gpu.sheet import Row, Sheet
from gan_jax import sample
from gan_jax.data.pipeline import make_batches, on_bytes, quantize
from gan_jax.errors import UserError
from gan_jax.metrics.extractors import EXTRACTORS
from gan_jax.metrics.frechet import gaussian_distance, statistics
from gan_jax.run import datasets as data
from gan_jax.run.checkpoint import Checkpoints
from gan_jax.run.loop import Work, make_chunk
from gan_jax.run.scoring import reference

MINUTES = (1.0, 3.0, 6.0)

TEST = "t10k-images-idx3-ubyte.gz"
"""The test images, beside the training images."""

_CHUNK, _CALLS = 50, 20  # the host waits once in 20 chunks


def check(folder: Path) -> None:
    """Raises `UserError` unless the folder has the IDX files of Fashion-MNIST."""
    if not (folder / TEST).is_file():
        raise UserError(
            f"--data {folder} has no file {TEST}: give the folder with the four files of "
            "Fashion-MNIST, such as /usr/share/datasets/fashion-mnist"
        )


def run(sheet: Sheet, small: bool, folder: Path) -> None:
    """Adds a row for each of `MINUTES`."""
    from experiments import mnist

    extractor, count = EXTRACTORS["fashion"], 256 if small else 10_000
    sheet.facts(device=jax.devices()[0].device_kind, features=extractor.name)
    dataset = data.load(data.Config(source="idx", dir=folder))
    test = reference.read(str(folder / TEST), "--data").x[:count]
    target = statistics(extractor.features(test))
    width, batch_size = (8, 8) if small else (mnist.Config.width, mnist.Config.batch_size)
    config = mnist.Config(width=width, batch_size=batch_size, final_lr_share=1.0)
    gan, state, step = mnist.build(config)
    batches = make_batches(dataset, state.key, (_CHUNK, config.n_critic, config.batch_size))
    jitted = jax.jit(make_chunk(on_bytes(step), _CHUNK), donate_argnums=0)
    chunk = jitted.lower(state, Work(batches(0), np.int32(0))).compile()
    draw = jax.jit(lambda state, key: quantize(sample(gan, state, key, count)))
    done, seconds = 0, 0.0
    if sheet.rows:
        done, seconds = sheet.rows[-1]["steps"], sheet.rows[-1]["training s"]
        saved = Checkpoints(_saved(sheet, sheet.rows[-1]["name"]))
        restored = saved.restore(jax.eval_shape(lambda: state))
        saved.close()
        if restored is None:
            raise UserError(f"{sheet.folder / 'fashion'} is gone: give another --out")
        state = jax.device_put(restored[1], jax.devices()[0])

    def row(name: str, until: float) -> Row:
        nonlocal state, done, seconds
        begun, before = time.monotonic(), seconds
        while True:
            for _ in range(1 if small else _CALLS):
                given = Work(batches(done * config.n_critic * config.batch_size), np.int32(_CHUNK))
                state, _ = chunk(state, given)
                done += _CHUNK
            jax.block_until_ready(state)
            seconds = before + time.monotonic() - begun
            if seconds >= until or sheet.left <= 0:
                break
        if seconds < until:
            raise TimeoutError(f"{seconds:.0f} s were trained in the part's time")
        x = np.asarray(draw(state, jax.random.key(0)))
        distance = gaussian_distance(*statistics(extractor.features(x)), *target)
        shutil.rmtree(_saved(sheet, name), ignore_errors=True)  # of a row that was not finished
        saved = Checkpoints(_saved(sheet, name))
        saved.save(done, state)
        saved.close()
        return {
            "steps": done,
            "training s": round(seconds, 1),
            "Fréchet distance": distance,
            "images/s": done * config.batch_size / seconds,
        }

    share = 1 / 600 if small else 1.0
    for minutes in MINUTES:
        name = f"{minutes:g} min"
        sheet.attempt("Fashion-MNIST", name, partial(row, name, 60 * minutes * share))


def _saved(sheet: Sheet, name: str) -> Path:
    return sheet.folder / "fashion" / name.replace(" ", "_")
