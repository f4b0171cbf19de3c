"""What a photograph says about itself in EXIF: camera, lens, exposure and place."""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from PIL import Image

from modeling_dcclip.image_dcclip import ORIENTATION, SUFFIXES, open_header
from modeling_dcclip.search.decoding import TURNED
from modeling_dcclip.search.files import RAW_PHOTOS, extension_of
from modeling_dcclip.search.photos import open_file
from modeling_dcclip.search.raw import EXIF_IFD, open_preview

MAKE, MODEL = 0x010F, 0x0110
LENS, EXPOSURE_TIME, F_NUMBER, ISO, FOCAL_LENGTH = 0xA434, 0x829A, 0x829D, 0x8827, 0x920A
GPS_IFD = 0x8825
LONGEST = 100  # characters of a name in EXIF


def read_facts(path: str) -> dict[str, Any]:
    """What the header of a photograph says; what it lacks, or what is damaged, is left out.

    Args:
        path: Path of the file.

    Returns:
        Texts `camera`, `lens`, `exposure` (`1/250 s · f/2.8 · ISO 400 · 35 mm`) and `place` (degrees of latitude and
        longitude), and `width` and `height` in pixels, upright.
    """
    extension = extension_of(os.fsencode(path))
    facts: dict[str, Any] = {}
    if extension not in SUFFIXES | RAW_PHOTOS:
        return facts
    # decoders raise many kinds of errors
    with (
        suppress(Exception),
        open_file(os.fsencode(path)) as file,
        open_preview(file) if extension in RAW_PHOTOS else open_header(file) as image,
    ):
        exif = image.getexif()
        is_turned = image.format != "TIFF" and exif.get(ORIENTATION) in TURNED
        facts["width"], facts["height"] = image.size[::-1] if is_turned else image.size
        for name, read in _READERS.items():
            with suppress(Exception):
                if text := read(exif):
                    facts[name] = text
    return facts


def _name(value: Any) -> str:
    return " ".join(str(value or "").replace("\0", " ").split())[:LONGEST]


def _camera(exif: Image.Exif) -> str:
    make, model = _name(exif.get(MAKE)), _name(exif.get(MODEL))
    return model if model.lower().startswith(make.lower()) else f"{make} {model}".strip()


def _exposure(exif: Image.Exif) -> str:
    shot = exif.get_ifd(EXIF_IFD)
    parts = []
    for tag, show in (
        (EXPOSURE_TIME, _seconds),
        (F_NUMBER, lambda value: f"f/{value:.3g}"),
        (ISO, lambda value: f"ISO {value:.0f}"),
        (FOCAL_LENGTH, lambda value: f"{value:.3g} mm"),
    ):
        with suppress(Exception):  # a fact may be missing, or have zero as its divisor
            parts.append(show(float(shot[tag])))
    return " · ".join(parts)


def _seconds(value: float) -> str:
    return f"1/{1 / value:.0f} s" if value < 0.4 else f"{value:.2g} s"


def _place(exif: Image.Exif) -> str:
    position = exif.get_ifd(GPS_IFD)
    parts = []
    for reference in (
        1,
        3,
    ):  # latitude and longitude; the next tag has degrees, minutes and seconds
        degrees, minutes, seconds = map(float, position[reference + 1])
        value = degrees + minutes / 60 + seconds / 3600
        if not value <= 180:
            return ""
        parts.append(f"{value:.5f}° {_name(position[reference])}")
    return ", ".join(parts)


_READERS: dict[str, Callable[[Image.Exif], str]] = {
    "camera": _camera,
    "lens": lambda exif: _name(exif.get_ifd(EXIF_IFD).get(LENS)),
    "exposure": _exposure,
    "place": _place,
}
