"""Makes a folder of labelled colour images: emoji, with a subfolder for each kind.

The images come from the npm packages emoji-datasource-google and emoji-datasource-twitter (Cal
Henderson, MIT licence). Google's images have the Apache licence, and Twitter's are CC BY 4.0.
`npm pack emoji-datasource-google emoji-datasource-twitter` downloads both archives. The experiment
writes 11 subfolders to --out, with about 5,600 images of 64 pixels on a white background. A kind
has images that resemble one another, so animals and most objects are left out. Then
`python -m experiments.images --data.dir emoji` trains on the folder. Existing images are not
written again.
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
from gan_jax.run.plots import save_image

_IMAGE = re.compile(r"package/img/(\w+)/64/([^/]+\.png)")
_LIST = "package/emoji.json"

_KINDS = {
    "clocks": "time",
    "faces": "face-(?!costume).*",
    "families": "family",
    "flags": "(country|subdivision)-flag",
    "fruit_and_vegetables": "food-(fruit|vegetable)",
    "hands": "hand.*",
    "heads": "person(-fantasy|-gesture|-role)?",
    "hearts": "heart",
    "people_in_motion": "person-(activity|resting|sport)",
    "shapes": "geometric",
    "squares": "alphanum|arrow|av-symbol|keycap|zodiac",
}
"""The pattern of the subcategories that belong to each kind."""


@dataclasses.dataclass(frozen=True)
class Config:
    """The archives, and the folder for their images."""

    packages: tuple[Path, ...]
    """The archives of the npm packages, such as emoji-datasource-google-16.0.0.tgz."""
    out: Path = Path("emoji")
    """Folder for the images. It is made if it does not exist."""


def main(config: Config) -> Counter[str]:
    """Writes the images. Returns the number of images of each kind, and prints it."""
    if not config.packages:
        raise UserError("--packages must name at least one archive")
    cli.check_folder("out", config.out)
    made = dict[Path, NDArray[np.uint8]]()
    for package in config.packages:
        made |= zip(*_read(package), strict=True)
    others = {file.relative_to(config.out) for file in config.out.rglob("*.png")} - {*made}
    if others:
        raise UserError(
            f"--out {config.out} has {len(others)} other images, such as {min(others)}: use an "
            "empty folder"
        )
    for path, pixels in made.items():
        file = config.out / path
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            save_image(Image.fromarray(pixels), file)
    found = Counter(str(path.parent) for path in made)
    print(f"{found.total()} images in {config.out}:", dict(sorted(found.items())))
    return found


def _read(package: Path) -> tuple[list[Path], NDArray[np.uint8]]:
    """Returns a path KIND/VENDOR-FILE for each emoji, and the images [N, H, W, 3] on white."""
    try:
        with tarfile.open(package) as archive:
            kinds = _kinds(json.loads(_content(archive, _LIST)))
            pngs = dict[Path, bytes]()
            for entry in archive.getmembers():  # in their order, since going back is slow
                image = _IMAGE.fullmatch(entry.name)
                if image and image[2] in kinds:
                    pngs[Path(kinds[image[2]], "-".join(image.groups()))] = _content(archive, entry)
        if not pngs:
            raise tarfile.TarError("no images")
        named = ((str(path), png) for path, png in pngs.items())
        return list(pngs), images.stack(named, len(pngs), None, channels=3)
    except Exception as error:  # a damaged archive can raise nearly any
        raise UserError(
            f"--packages {package} cannot be read, or is not the archive of an emoji-datasource: "
            "download it with `npm pack emoji-datasource-google`"
        ) from error


def _content(archive: tarfile.TarFile, entry: str | tarfile.TarInfo) -> bytes:
    file = archive.extractfile(entry)
    if file is None:
        raise tarfile.TarError(f"{entry} is not a file")
    return file.read()


def _kinds(listed: list[dict[str, Any]]) -> dict[str, str]:
    """Returns the kind of each image that has one, by file name.

    An emoji may have images for skin colours.
    """
    return {
        each["image"]: kind
        for emoji in listed
        for kind, pattern in _KINDS.items()
        if re.fullmatch(pattern, emoji.get("subcategory") or "")
        for each in (emoji, *emoji.get("skin_variations", {}).values())
    }


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
