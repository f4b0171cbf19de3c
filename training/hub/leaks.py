"""What must not be published: tokens, private keys, and the names of folders of this machine."""

import mmap
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from detect_secrets.plugins.aws import AWSKeyDetector
from detect_secrets.plugins.base import RegexBasedDetector
from detect_secrets.plugins.basic_auth import BasicAuthDetector
from detect_secrets.plugins.github_token import GitHubTokenDetector
from detect_secrets.plugins.gitlab_token import GitLabTokenDetector
from detect_secrets.plugins.jwt import JwtTokenDetector
from detect_secrets.plugins.openai import OpenAIDetector
from detect_secrets.plugins.private_key import PrivateKeyDetector
from detect_secrets.plugins.pypi_token import PypiTokenDetector
from detect_secrets.plugins.slack import SlackDetector
from detect_secrets.plugins.stripe import StripeDetector
from PIL import ExifTags, Image

from training.hub.files import BINARY, IMAGES


class AccessTokenDetector(RegexBasedDetector):
    """Finds access tokens that detect-secrets has no detector for."""

    secret_type = "secret access token"
    denylist = (
        re.compile(r"\bhf_[A-Za-z0-9]{30,}"),
        re.compile(r"\bgithub_pat_[A-Za-z0-9_]{36,}"),
        re.compile(r"\bsk-ant-[A-Za-z0-9_-]{32,}"),
        re.compile(r"\bAIza[A-Za-z0-9_-]{35}"),
    )


DETECTORS = (
    AccessTokenDetector(),
    AWSKeyDetector(),
    BasicAuthDetector(),
    GitHubTokenDetector(),
    GitLabTokenDetector(),
    JwtTokenDetector(),
    OpenAIDetector(),
    PrivateKeyDetector(),
    PypiTokenDetector(),
    SlackDetector(),
    StripeDetector(),
)
# the pieces of a vocabulary may look like paths
WITHOUT_PATHS = ("tokenizer.json",)
TEXT = re.compile(rb"[\t\x20-\x7e]{16,}")  # in a binary file


def check_content(folder: Path, name: str):
    """Check a file before it is published; of a binary one, such as weights and images, the texts in it.

    Args:
        folder: Model folder.
        name: Path of the file in the folder.

    Raises:
        ValueError: The file has a token, a private key, or, if it is a text, the name of a folder of this machine. The
            message names the line.
    """
    is_text = not name.endswith(BINARY)
    private = {Path.home(), Path.cwd(), folder.absolute().parent}
    places = sorted(f"{place}/" for place in private if len(place.parts) > 1)
    for number, line in enumerate(_lines(folder / name), 1):
        where = f"{name}, line {number}" if is_text else f"{name}, its metadata"
        for detector in DETECTORS:
            if any(detector.analyze_string(line)):
                raise ValueError(
                    f"{where}: has a {detector.secret_type}. Remove and revoke it before publishing."
                )
        place = next((place for place in places if place in line), None)
        if place is not None and is_text and name not in WITHOUT_PATHS:
            raise ValueError(
                f"{where}: names {place!r}, a folder of this machine. Replace the path with the name "
                "of the file or folder before publishing."
            )


def _lines(path: Path) -> Iterator[str]:
    """Lines of a text, or the texts in a binary file."""
    if not path.name.endswith(BINARY):
        yield from path.read_text(encoding="utf-8", errors="replace").splitlines()
        return
    if path.stat().st_size:  # nothing cannot be mapped
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            yield from (match[0].decode("ascii") for match in TEXT.finditer(content))
    if path.name.endswith(IMAGES):
        yield from _metadata(path)


def _metadata(path: Path) -> Iterator[str]:
    """Metadata of an image, which may be compressed, or in UTF-16."""
    with Image.open(path) as image:
        image.load()
        exif = image.getexif()
        groups: list[Mapping[Any, Any]] = [image.info, exif, *map(exif.get_ifd, ExifTags.IFD)]
    for value in (value for group in groups for value in group.values()):
        if isinstance(value, bytes):
            yield from value.decode("utf-8", errors="replace").splitlines()
            value = value.decode("utf-16-le", errors="replace")
        yield from str(value).splitlines()
