"""Photographs with a free licence, which pip packages bring. They are the examples of the card."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from training.utils.files import atomic_write, write_text

if TYPE_CHECKING:
    from datasets import Dataset

CREDITS_FILE = "CREDITS.txt"


@dataclass(frozen=True)
class FreePhoto:
    """A photograph in a pip package.

    Args:
        package: Name of the package on PyPI.
        module: Name of its module.
        file: Path of the photograph inside the module.
        query: What it shows, by language (ISO 639-1 code).
        terms: Licence and author.
    """

    package: str
    module: str
    file: str
    query: dict[str, str]
    terms: str

    @property
    def path(self) -> Path:
        """Where the installed package has the photograph.

        Raises:
            ValueError: The package is not installed, or has no such file.
        """
        spec = importlib.util.find_spec(self.module)
        remedy = f"Run `pip install {self.package}`."
        if spec is None or not spec.submodule_search_locations:
            raise ValueError(f"{self.package}: the package is not installed. {remedy}")
        path = Path(spec.submodule_search_locations[0]) / self.file
        if not path.exists():
            raise ValueError(f"{self.package}: the installed version has no {self.file}. {remedy}")
        return path

    def open(self) -> Image.Image:
        """Open the photograph in RGB.

        Raises:
            ValueError: The package is not installed, or has no such file.
        """
        with Image.open(self.path) as image:
            return image.convert("RGB")


_SKIMAGE = ("scikit-image", "skimage")
_SKLEARN = ("scikit-learn", "sklearn")
FREE_PHOTOS = (
    FreePhoto(*_SKIMAGE, "data/chelsea.png", {"en": "a cat", "zh": "一只猫"}, "CC0, Stefan van der Walt"),
    FreePhoto(*_SKIMAGE, "data/coffee.png", {"en": "a cup of coffee", "zh": "一杯咖啡"}, "CC0, Rachel Michetti"),
    FreePhoto(*_SKIMAGE, "data/rocket.jpg", {"en": "a rocket launch", "zh": "火箭发射"}, "public domain, SpaceX"),
    FreePhoto(*_SKIMAGE, "data/astronaut.png", {"en": "an astronaut", "zh": "宇航员"}, "public domain, NASA"),
    FreePhoto(
        *_SKLEARN, "datasets/images/china.jpg", {"en": "a temple", "zh": "寺庙"}, "CC-BY 2.0, danielbuechele (Flickr)"
    ),
    FreePhoto(
        *_SKLEARN, "datasets/images/flower.jpg", {"en": "a flower", "zh": "一朵花"}, "CC-BY 2.0, vultilion (Flickr)"
    ),
    FreePhoto(
        "matplotlib",
        "matplotlib",
        "mpl-data/sample_data/grace_hopper.jpg",
        {"en": "an officer in uniform", "zh": "穿制服的军官"},
        "public domain, U.S. Navy",
    ),
)


def write_free_photos(folder: Path) -> Path:
    """Write the photographs to a folder, named by what they show in both languages, and `CREDITS.txt`.

    Args:
        folder: Folder to write, created if it does not exist. Files that are there stay.

    Returns:
        The folder.

    Raises:
        ValueError: A package is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for photo in FREE_PHOTOS:
        path = folder / f"{photo.query['zh']} {photo.query['en']}.jpg"
        if not path.exists():
            with atomic_write(path) as scratch:
                photo.open().save(scratch, "JPEG", quality=95)
    write_text(folder / CREDITS_FILE, f"{credits_line()}\n")
    return folder


def load_images() -> "Dataset":
    """Load the photographs, for search: `training.corpus.free_photos:load_images`.

    Returns:
        Rows with the columns `image`, `en` and `zh`; `info.description` has the credits.

    Raises:
        ValueError: A package is not installed.
    """
    from datasets import Dataset  # not needed by the Space

    columns = {"image": [photo.open() for photo in FREE_PHOTOS]}
    rows = Dataset.from_dict(columns | {name: [photo.query[name] for photo in FREE_PHOTOS] for name in ("en", "zh")})
    rows.info.description = credits_line()
    return rows


def credits_line() -> str:
    """Licences and authors of the photographs, in one line."""
    terms = dict.fromkeys(f"{photo.terms} ({photo.package})" for photo in FREE_PHOTOS)
    return f"Photographs: {'; '.join(terms)}"
