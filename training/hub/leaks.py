"""What must not be published: tokens, private keys, and the names of folders of this machine."""

import mmap
import re
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.plugins.base import BasePlugin, RegexBasedDetector
from detect_secrets.plugins.ip_public import IPPublicDetector
from PIL import Image

from training.hub.files import BINARY, IMAGES


class AccessTokenDetector(RegexBasedDetector):
    """Finds access tokens that detect-secrets has no detector for.

    What stands before a token may be a letter: an escaped line break in JSON, or the length of a field in ONNX.
    """

    secret_type = "secret access token"
    denylist = (
        re.compile(r"(?:hf|gsk|npm|r8)_[A-Za-z0-9]{30,}"),
        re.compile(r"github_pat_[A-Za-z0-9_]{36,}"),
        re.compile(r"(?:sk-ant|xai|GOCSPX)-[A-Za-z0-9_-]{28,}"),
        re.compile(r"AIza[A-Za-z0-9_-]{35}"),
    )


KINDS: Collection[type[BasePlugin]] = get_mapping_from_secret_type_to_class().values()
DETECTORS = [
    AccessTokenDetector(),
    *(
        kind()
        for kind in KINDS
        if issubclass(kind, RegexBasedDetector) and kind is not IPPublicDetector
    ),
]
# keys of Weights & Biases look like commits: 40 hexadecimal digits in the line of the word, or named as a key in one
# of the three lines after it, as in netrc and YAML
WANDB_KEY = re.compile(
    r"wandb(?:.*|.*(?:\n.*){0,2}\n.*(?:key|password|token|secret)\W+)\b[0-9a-f]{40}\b",
    re.IGNORECASE,
)
LINES_OF_KEY = 4
# the pieces of a vocabulary may look like paths
WITHOUT_PATHS = ("tokenizer.json",)
# in a binary file; UTF-16 has NUL between the characters
TEXT = re.compile(rb"(?:[\t\x20-\x7e]\0?){16,}")
RAW_PROFILE = "Raw profile type"  # metadata in hexadecimal digits after three lines, as ImageMagick writes them


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
    recent: deque[str] = deque(maxlen=LINES_OF_KEY)
    for number, line in enumerate(_lines(folder / name), 1):
        where = f"{name}, line {number}" if is_text else f"{name}, its metadata"
        recent.append(line)
        found = [each.secret_type for each in DETECTORS if any(each.analyze_string(line))]
        if WANDB_KEY.search("\n".join(recent)):
            found.append("key of Weights & Biases")
        reasons = [f"has a {each}. Remove and revoke it" for each in found]
        if is_text and name not in WITHOUT_PATHS:
            reasons += [
                f"names {place!r}, a folder of this machine. Replace the path with the name of the file or folder"
                for place in places
                if place in line
            ]
        if reasons:
            raise ValueError(f"{where}: {reasons[0]} before publishing.")


def _lines(path: Path) -> Iterator[str]:
    """Lines of a text, or the texts in a binary file."""
    if not path.name.endswith(BINARY):
        text = path.read_text(encoding="utf-8", errors="replace")
        yield from text.replace("\0", "").splitlines()
        return
    if path.stat().st_size:  # nothing cannot be mapped
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            yield from _texts(content)
    if path.name.endswith(IMAGES):
        with Image.open(path) as image:
            image.load()
        for name, value in image.info.items():  # which may be compressed in the file
            if str(name).startswith(RAW_PROFILE):
                with suppress(ValueError):  # the digits are damaged
                    value = bytes.fromhex("".join(value.splitlines()[3:]))
            yield from _texts(value if isinstance(value, bytes) else str(value).encode())


def _texts(content: bytes | mmap.mmap) -> Iterator[str]:
    """Texts of at least 16 characters of ASCII, each byte or each second one."""
    for match in TEXT.finditer(content):
        yield match[0].replace(b"\0", b"").decode("ascii")
