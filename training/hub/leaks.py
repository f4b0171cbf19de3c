"""What must not be published: tokens, private keys, and the names of folders of this machine."""

import re
from pathlib import Path

from detect_secrets.plugins.aws import AWSKeyDetector
from detect_secrets.plugins.base import RegexBasedDetector
from detect_secrets.plugins.github_token import GitHubTokenDetector
from detect_secrets.plugins.gitlab_token import GitLabTokenDetector
from detect_secrets.plugins.openai import OpenAIDetector
from detect_secrets.plugins.private_key import PrivateKeyDetector
from detect_secrets.plugins.pypi_token import PypiTokenDetector
from detect_secrets.plugins.slack import SlackDetector
from detect_secrets.plugins.stripe import StripeDetector


class HuggingFaceDetector(RegexBasedDetector):
    """Finds access tokens of the Hub, which detect-secrets has no detector for."""

    secret_type = "Hugging Face token"
    denylist = (re.compile(r"\bhf_[A-Za-z0-9]{30,}"),)


DETECTORS = (
    HuggingFaceDetector(),
    AWSKeyDetector(),
    GitHubTokenDetector(),
    GitLabTokenDetector(),
    OpenAIDetector(),
    PrivateKeyDetector(),
    PypiTokenDetector(),
    SlackDetector(),
    StripeDetector(),
)
# the pieces of a vocabulary may look like paths
WITHOUT_PATHS = ("tokenizer.json",)


def check_text(folder: Path, name: str):
    """Check a text file before it is published.

    Args:
        folder: Model folder.
        name: Path of the file in the folder.

    Raises:
        ValueError: The file has a token, a private key, or the name of a folder of this machine. The message names
            the line.
    """
    private = {Path.home(), Path.cwd(), folder.absolute().parent}
    places = sorted(f"{place}/" for place in private if len(place.parts) > 1)
    lines = (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        for detector in DETECTORS:
            if any(detector.analyze_string(line)):
                raise ValueError(
                    f"{name}, line {number}: has a {detector.secret_type}. Remove and revoke it before publishing."
                )
        place = next((place for place in places if place in line), None)
        if place is not None and name not in WITHOUT_PATHS:
            raise ValueError(
                f"{name}, line {number}: names {place!r}, a folder of this machine. Replace the path with the name "
                "of the file or folder before publishing."
            )
