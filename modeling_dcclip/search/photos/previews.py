"""JPEG previews of photographs, cached on disk: the second look at a photograph decodes nothing."""

import io
import os
import threading
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from threading import Thread

from PIL import Image

from modeling_dcclip.image_dcclip import SUFFIXES
from modeling_dcclip.search.photos.decoding import read_size
from modeling_dcclip.search.photos.files import VIDEOS, extension_of
from modeling_dcclip.search.photos.photos import THUMBNAIL, make_thumbnail, open_file

LARGE = 2048  # pixels of the longer side of a photograph in full view
WHOLE = 8192  # a zoomed photograph has more
SIZES = {"thumbnail": THUMBNAIL, "photo": LARGE, "whole": WHOLE}
MAX_BYTES = 2**30  # size of the cache; the least recently used previews leave it
USUAL_RATIO = 3 / 2
VIDEO_RATIO = 16 / 9


def cache_folder() -> Path:
    """Folder of the previews, for all indexes."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "dcclip" / "previews"


class Previews:
    """Previews of photographs and of key frames of videos.

    Args:
        folder: Folder of the cache. It is created, for this user alone.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        with suppress(OSError):  # a disk that is full or cannot be written costs the cache alone
            folder.mkdir(0o700, parents=True, exist_ok=True)
        self._pruning = Thread(target=self._prune)
        self._pruning.start()

    def close(self):
        """Wait until old previews have left the cache."""
        self._pruning.join()

    def find(self, version: str, seconds: float | None, kind: str) -> bytes | None:
        """JPEG that was made before; None without one. Arguments are those of `make`."""
        cached = self._cached(version, seconds, kind)
        with suppress(OSError):
            content = cached.read_bytes()
            os.utime(cached)  # it was used now
            return content
        return None

    def make(self, path: str, version: str, seconds: float | None, kind: str) -> bytes:
        """JPEG of a file, at most `SIZES[kind]` pixels per side, without metadata.

        Args:
            path: Path of the file, which has not changed since it was indexed.
            version: `Hit.version`.
            seconds: Time of the key frame of a video; None for a photograph.
            kind: Key of `SIZES`.

        Raises:
            UnreadablePhotoError: The file cannot be read or decoded.
        """
        if (content := self.find(version, seconds, kind)) is not None:  # made meanwhile
            return content
        content = make_thumbnail(path, SIZES[kind], seconds or 0)
        cached = self._cached(version, seconds, kind)
        partial = cached.with_suffix(f".{threading.get_ident()}")
        with suppress(OSError):
            cached.parent.mkdir(exist_ok=True)
            partial.write_bytes(content)
            partial.replace(cached)
        return content

    def ratio(self, path: str, version: str, seconds: float | None) -> float:
        """Width of a photograph divided by its height, from the header of the file or of its thumbnail."""
        return _ratio(path, self._cached(version, seconds, "thumbnail"))

    def _cached(self, version: str, seconds: float | None, kind: str) -> Path:
        name = f"{version}-{round(1000 * (seconds or 0))}-{SIZES[kind]}.jpg"
        return self.folder / name[:2] / name

    def _prune(self):
        with suppress(OSError):
            found = [(path.stat(), path) for path in self.folder.glob("*/*")]
            size = 0
            for status, path in sorted(found, key=lambda each: -each[0].st_mtime):
                size += status.st_size
                if size > MAX_BYTES or path.suffix != ".jpg":
                    path.unlink()


@lru_cache(maxsize=100_000)
def _ratio(path: str, thumbnail: Path) -> float:
    extension = extension_of(os.fsencode(path))
    with suppress(OSError), Image.open(io.BytesIO(thumbnail.read_bytes())) as image:
        return image.width / image.height
    # a damaged file has a usual shape, and a preview that says why it cannot be shown
    with suppress(Exception):
        if extension in SUFFIXES:
            with open_file(os.fsencode(path)) as file:
                width, height = read_size(file)
            return width / height
    return VIDEO_RATIO if extension in VIDEOS else USUAL_RATIO
