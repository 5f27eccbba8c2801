"""Makes a folder of labelled colour images: Google's emoji, with a subfolder for each kind.

The images come from the npm package emoji-datasource-google (Cal Henderson, MIT licence; the images
have the Apache licence). `npm pack emoji-datasource-google` downloads its archive. The experiment
writes 12 subfolders to --out, with more than 3,700 images of 64 pixels on a white background. Then
`python -m experiments.images --data.dir emoji` trains on them. Existing images are not written
again.
"""

import dataclasses
import json
import re
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gan_jax.errors import UserError
from gan_jax.run import cli
from gan_jax.run.datasets import images
from gan_jax.run.files import whole

_IMAGES = "package/img/google/64"
_LIST = "package/emoji.json"

_PEOPLE = {
    "families": ("family",),
    "hands": ("hand", "body-parts"),
    "people_in_motion": ("person-activity", "person-resting", "person-sport", "person-symbol"),
}
"""Kinds of the category "People & Body", each with the prefixes of its subcategories. The rest are
heads and shoulders."""


@dataclasses.dataclass(frozen=True)
class Config:
    """The archive, and the folder for its images."""

    package: Path
    """The archive of the npm package: emoji-datasource-google-16.0.0.tgz or another version."""
    out: Path = Path("emoji")
    """Folder for the images. It is made if it does not exist."""


def main(config: Config) -> Counter[str]:
    """Writes the images. Returns the number of images of each kind, and prints it."""
    cli.check_folder("out", config.out)
    paths, x = _read(config.package)
    others = {file.relative_to(config.out) for file in config.out.rglob("*.png")} - {*paths}
    if others:
        raise UserError(
            f"--out {config.out} has {len(others)} other images, such as {min(others)}: use an "
            "empty folder"
        )
    for path, pixels in zip(paths, x, strict=True):
        file = config.out / path
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            with whole(file) as opened:
                Image.fromarray(pixels).save(opened, "png")
    found = Counter(str(path.parent) for path in paths)
    print(f"{found.total()} images in {config.out}:", dict(found))
    return found


def _read(package: Path) -> tuple[list[Path], NDArray[np.uint8]]:
    """Returns a path KIND/FILE for each emoji, and the images [N, H, W, 3] on white."""
    try:
        with tarfile.open(package) as archive:
            kinds = _kinds(json.loads(_content(archive, _LIST)))
            pngs = dict[Path, bytes]()
            for entry in archive.getmembers():  # in their order, since going back is slow
                folder, _, name = entry.name.rpartition("/")
                if folder == _IMAGES and name in kinds:
                    pngs[Path(kinds[name], name)] = _content(archive, entry)
        if not pngs:
            raise tarfile.TarError("no images")
        named = ((str(path), png) for path, png in pngs.items())
        return list(pngs), images.stack(named, len(pngs), None, channels=3)
    except Exception as error:  # a damaged archive can raise nearly any
        raise UserError(
            f"--package {package} cannot be read, or is not the archive of "
            "emoji-datasource-google: download it with `npm pack emoji-datasource-google`"
        ) from error


def _content(archive: tarfile.TarFile, entry: str | tarfile.TarInfo) -> bytes:
    file = archive.extractfile(entry)
    if file is None:
        raise tarfile.TarError(f"{entry} is not a file")
    return file.read()


def _kinds(listed: list[dict[str, Any]]) -> dict[str, str]:
    """Returns the kind of each image, by file name. An emoji may have images for skin colours."""
    return {
        each["image"]: _kind(emoji)
        for emoji in listed
        for each in (emoji, *emoji.get("skin_variations", {}).values())
        if emoji["category"] != "Component"  # a swatch of a skin colour
    }


def _kind(emoji: dict[str, Any]) -> str:
    category = emoji["category"]
    if category == "People & Body":
        for kind, starts in _PEOPLE.items():
            if emoji.get("subcategory", "").startswith(starts):
                return kind
    return "_".join(re.findall("[a-z]+", category.replace("&", "and").lower()))


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
