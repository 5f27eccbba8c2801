"""The pictures of a whole run, whatever stopped it on the way."""

import numpy as np
import pytest
from PIL import Image

from gan_jax.data.types import Dataset
from gan_jax.run import plots, session
from gan_jax.run.folder import RunFolder

X = np.zeros((2, 4, 4, 1), np.uint8)


@pytest.mark.parametrize(("last", "frames"), [(300, 4), (350, 5)])
def test_where_a_session_stopped_is_no_frame(last, frames, tmp_path, monkeypatch):
    """Steps 0, 100, 200, 300 and the last are; 150, where it was stopped, is not."""
    monkeypatch.setattr(plots, "curves", lambda records, file: None)
    folder = RunFolder(tmp_path / "run", {})
    with folder.visit():
        folder.samples.mkdir()
        for step in {0, 100, 150, 200, 300, last}:
            picture = Image.fromarray(np.full((8, 8), step % 256, np.uint8))
            plots.save_image(picture, folder.samples / f"{step:07d}.png")
        plots.save_image(picture, folder.samples / "mine.png")
        session._finish(folder, Dataset(X, None, "x", "idx", X[:0]), last, 100, lambda line: None)
    with Image.open(folder.path / "samples.gif") as gif:
        assert gif.n_frames == frames
