"""The folder of emoji."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from experiments import emoji
from gan_jax.errors import UserError

LISTED = [
    {"category": "Food & Drink", "image": "cup.png"},
    {
        "category": "People & Body",
        "image": "hand.png",
        "skin_variations": {"1F3FB": {"image": "hand-light.png"}},
    },
    {"category": "Component", "image": "swatch.png"},
    {"category": "Flags", "image": "missing.png"},
]


def png(colour: tuple[int, int, int, int]) -> bytes:
    data = io.BytesIO()
    Image.new("RGBA", (4, 4), colour).save(data, "png")
    return data.getvalue()


@pytest.fixture
def package(tmp_path):
    path = tmp_path / "package.tgz"
    files = {"package/emoji.json": json.dumps(LISTED).encode()}
    for name in ("cup", "hand", "hand-light", "swatch"):
        files[f"package/img/google/64/{name}.png"] = png((200, 0, 0, 255))
    files["package/img/google/32/cup.png"] = png((0, 0, 0, 255))
    files["package/img/google/64/cup.png"] = png((0, 0, 0, 0))
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_a_folder_for_each_kind(package, tmp_path):
    out = tmp_path / "out"
    found = emoji.main(emoji.Config(package, out))
    assert found == {"food_and_drink": 1, "people_and_body": 2}
    written = {str(path.relative_to(out)) for path in out.rglob("*.png")}
    hands = {"people_and_body/hand.png", "people_and_body/hand-light.png"}
    assert written == {"food_and_drink/cup.png", *hands}
    image = Image.open(out / "food_and_drink/cup.png")
    assert image.mode == "RGB"
    np.testing.assert_array_equal(image, 255)  # what is transparent becomes white


def test_an_image_is_not_written_again(package, tmp_path):
    path = tmp_path / "food_and_drink/cup.png"
    path.parent.mkdir()
    path.write_bytes(b"mine")
    emoji.main(emoji.Config(package, tmp_path))
    assert path.read_bytes() == b"mine"


def test_another_file(tmp_path):
    other = tmp_path / "other.tgz"
    other.write_bytes(b"text")
    with pytest.raises(UserError, match=r"--package .*other.tgz .*npm pack"):
        emoji.main(emoji.Config(other, tmp_path))
