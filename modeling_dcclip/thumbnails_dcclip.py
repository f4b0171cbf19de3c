"""Thumbnails, and contact sheets of search results as one HTML file."""

import base64
import io
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if __package__:
    from .photos_dcclip import UnreadablePhotoError, read_photo
else:  # in a model folder
    from photos_dcclip import UnreadablePhotoError, read_photo  # type: ignore[no-redef]

if TYPE_CHECKING:
    from .index_dcclip import Hit

THUMBNAIL = 320  # pixels of the longer side
QUALITY = 82
SHEET = """<!DOCTYPE html>
<html lang="zh"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 14px system-ui, sans-serif; margin: 1rem; }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 1rem; }}
figure {{ margin: 0; }}
img {{ width: 100%; height: 200px; object-fit: contain; background: #8882; }}
figcaption {{ overflow-wrap: anywhere; }}
</style>
<h1>{title}</h1>
<main>
{figures}
</main></html>
"""


def make_thumbnail(path: str, edge: int = THUMBNAIL) -> bytes:
    """Make a small JPEG of a photograph.

    Args:
        path: Path of the photograph.
        edge: Maximum length of the longer side, in pixels.

    Returns:
        JPEG file, upright, on white where the photograph is transparent, without metadata.

    Raises:
        UnreadablePhotoError: The file is missing or cannot be read as an image.
    """
    image = read_photo(os.fsencode(path), lambda digest: False, edge).image
    assert image is not None  # no content is known
    image.thumbnail((edge, edge))
    image.info.clear()
    content = io.BytesIO()
    image.save(content, "JPEG", quality=QUALITY)
    return content.getvalue()


def write_contact_sheet(hits: Sequence["Hit"], title: str, path: Path):
    """Write search results with thumbnails to one HTML file that needs no other.

    Args:
        hits: Search results.
        title: Heading of the page.
        path: File to write.
    """
    title = os.fsencode(title).decode("utf-8", "replace")  # which may have the name of an example image
    sheet = SHEET.format(title=escape(title), figures="\n".join(map(_figure, hits)))
    path.write_text(sheet, encoding="utf-8")


def _figure(hit: "Hit") -> str:
    try:
        source = f"data:image/jpeg;base64,{base64.b64encode(make_thumbnail(hit.path)).decode()}"
    except UnreadablePhotoError as error:
        source, note = "", f" ({error.cause})"
    else:
        note = ""
    label = os.fsencode(hit.path).decode("utf-8", "replace")
    image = f'<img src="{source}" alt="{escape(label)}">'
    if Path(hit.path).is_absolute():  # else it is the name of an image in a collection
        image = f'<a href="{escape(Path(hit.path).as_uri())}">{image}</a>'
    return f"<figure>{image}<figcaption>{hit.score:.3f} {escape(label + note)}</figcaption></figure>"
