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
        "subcategory": "hand-prop",
        "image": "hand.png",
        "skin_variations": {"1F3FB": {"image": "hand-light.png"}},
    },
    {"category": "People & Body", "subcategory": "person-role", "image": "cook.png"},
    {"category": "Component", "image": "swatch.png"},
    {"category": "Flags", "image": "missing.png"},
]


def png(colour: tuple[int, int, int, int]) -> bytes:
    data = io.BytesIO()
    Image.new("RGBA", (4, 4), colour).save(data, "png")
    return data.getvalue()


def archive(path, listed, images):
    files = {"package/emoji.json": json.dumps(listed).encode()}
    files |= {f"package/img/google/{name}.png": data for name, data in images.items()}
    with tarfile.open(path, "w:gz") as made:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def package(tmp_path):
    images = {
        f"64/{name}": png((200, 0, 0, 255)) for name in ("hand", "hand-light", "cook", "swatch")
    }
    images |= {"64/cup": png((0, 0, 0, 0)), "32/cup": png((0, 0, 0, 255))}
    return archive(tmp_path / "package.tgz", LISTED, images)


def test_a_folder_for_each_kind(package, tmp_path):
    out = tmp_path / "out"
    found = emoji.main(emoji.Config(package, out))
    assert found == {"food_and_drink": 1, "hands": 2, "people_and_body": 1}
    written = {str(path.relative_to(out)) for path in out.rglob("*.png")}
    people = {"hands/hand.png", "hands/hand-light.png", "people_and_body/cook.png"}
    assert written == {"food_and_drink/cup.png", *people}
    image = Image.open(out / "food_and_drink/cup.png")
    assert image.mode == "RGB"
    np.testing.assert_array_equal(image, 255)  # what is transparent becomes white


def test_an_image_is_not_written_again(package, tmp_path):
    path = tmp_path / "food_and_drink/cup.png"
    path.parent.mkdir()
    path.write_bytes(b"mine")
    emoji.main(emoji.Config(package, tmp_path))
    assert path.read_bytes() == b"mine"


def test_a_folder_with_other_images_is_refused(package, tmp_path):
    path = tmp_path / "out" / "people" / "hand.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"--out .* 1 other images, such as people.hand.png: use"):
        emoji.main(emoji.Config(package, tmp_path / "out"))
    assert [*(tmp_path / "out").rglob("*.png")] == [path]


@pytest.mark.parametrize("damage", ["other", "cut", "no images", "no list", "broken image"])
def test_another_file_or_a_damaged_one(damage, package, tmp_path):
    data = package.read_bytes()
    if damage == "other":
        package.write_bytes(b"text")
    elif damage == "cut":
        package.write_bytes(data[: len(data) // 2])
    elif damage == "no images":
        archive(package, LISTED, {})
    elif damage == "no list":
        archive(package, {"a": 1}, {"64/cup": png((0, 0, 0, 0))})
    else:
        archive(package, LISTED, {"64/cup": png((0, 0, 0, 0))[:40]})
    with pytest.raises(UserError, match=r"--package .*package.tgz .*npm pack"):
        emoji.main(emoji.Config(package, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_no_image_leaves_the_folder(tmp_path):
    listed = [{"category": "../../Away", "image": "cup.png"}]
    path = archive(tmp_path / "package.tgz", listed, {"64/cup": png((0, 0, 0, 0))})
    emoji.main(emoji.Config(path, tmp_path / "a" / "b"))
    assert [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.png")] == [
        "a/b/away/cup.png"
    ]
