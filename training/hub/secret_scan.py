"""Find secrets in files to publish: with the detectors of detect-secrets, and some that it lacks. Nothing is sent."""

import mmap
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from detect_secrets.plugins.artifactory import ArtifactoryDetector
from detect_secrets.plugins.aws import AWSKeyDetector
from detect_secrets.plugins.azure_storage_key import AzureStorageKeyDetector
from detect_secrets.plugins.base import RegexBasedDetector
from detect_secrets.plugins.basic_auth import BasicAuthDetector
from detect_secrets.plugins.cloudant import CloudantDetector
from detect_secrets.plugins.discord import DiscordBotTokenDetector
from detect_secrets.plugins.github_token import GitHubTokenDetector
from detect_secrets.plugins.gitlab_token import GitLabTokenDetector
from detect_secrets.plugins.ibm_cloud_iam import IbmCloudIamDetector
from detect_secrets.plugins.ibm_cos_hmac import IbmCosHmacDetector
from detect_secrets.plugins.jwt import JwtTokenDetector
from detect_secrets.plugins.mailchimp import MailchimpDetector
from detect_secrets.plugins.npm import NpmDetector
from detect_secrets.plugins.openai import OpenAIDetector
from detect_secrets.plugins.private_key import PrivateKeyDetector
from detect_secrets.plugins.pypi_token import PypiTokenDetector
from detect_secrets.plugins.sendgrid import SendGridDetector
from detect_secrets.plugins.slack import SlackDetector
from detect_secrets.plugins.softlayer import SoftlayerDetector
from detect_secrets.plugins.square_oauth import SquareOAuthDetector
from detect_secrets.plugins.stripe import StripeDetector
from detect_secrets.plugins.telegram_token import TelegramBotTokenDetector
from detect_secrets.plugins.twilio import TwilioKeyDetector

# without those of high entropy, keywords and IP addresses: they find digests, vocabularies and code
PLUGINS: tuple[type[RegexBasedDetector], ...] = (
    ArtifactoryDetector, AWSKeyDetector, AzureStorageKeyDetector, BasicAuthDetector, CloudantDetector,
    DiscordBotTokenDetector, GitHubTokenDetector, GitLabTokenDetector, IbmCloudIamDetector, IbmCosHmacDetector,
    JwtTokenDetector, MailchimpDetector, NpmDetector, OpenAIDetector, PrivateKeyDetector, PypiTokenDetector,
    SendGridDetector, SlackDetector, SoftlayerDetector, SquareOAuthDetector, StripeDetector, TelegramBotTokenDetector,
    TwilioKeyDetector,
)  # fmt: skip
# what detect-secrets 1.5 does not know, by the name of the secret
OTHERS = {
    "Hugging Face token": r"hf_[A-Za-z0-9]{20,}",
    "fine-grained GitHub token": r"github_pat_\w{22,}",
    "Google API key": r"AIza[\w-]{35}",
    "API key of a language model": r"(?<![A-Za-z0-9])sk-(?:ant-|proj-)?[A-Za-z0-9_-]{32,}",
    "private key": r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----",
}
TEXT_SUFFIXES = frozenset({".json", ".md", ".py", ".txt", ".yaml", ""})
# the texts of a binary file: metadata of a graph, the header of weights
PRINTABLE = re.compile(rb"[\t\x20-\x7e]{16,}")
SEARCHED_AT_ONCE = 2**20  # characters
# around a password in a binary file: the weights of an int8 graph had "://8:896@" in them by chance
URL = r"[a-z]{{3,}}://[^\s/@]+:{password}@[\w.-]{{4,}}"


def find_secret(file: Path) -> str | None:
    """Search a file of any type for secrets, such as access tokens, passwords in URLs and private keys.

    Args:
        file: Text file, or binary file such as an ONNX graph, whose printable parts are searched.

    Returns:
        Type of the first secret with its line in a text file, such as `GitHub Token, line 3`; None if there is none.
    """
    if file.suffix in TEXT_SUFFIXES:
        text = file.read_text(encoding="utf-8", errors="replace")
        if (found := _find(text)) is None:
            return None
        kind, secret = found
        return f"{kind}, line {text.count(chr(10), 0, text.find(secret)) + 1}"
    return next((found[0] for text in _printable_parts(file) if (found := _find(text, True)) is not None), None)


def _find(text: str, is_binary: bool = False) -> tuple[str, str] | None:
    """Type and value of the first secret of a text, or of the printable parts of a binary file."""
    for plugin in _plugins():
        for secret in plugin.analyze_string(text):
            needs_url = is_binary and isinstance(plugin, BasicAuthDetector)
            if not needs_url or re.search(URL.format(password=re.escape(secret)), text) is not None:
                return plugin.secret_type, secret
    for kind, pattern in OTHERS.items():
        if (match := re.search(pattern, text)) is not None:
            return kind, match.group()
    return None


@cache
def _plugins() -> list[RegexBasedDetector]:
    return [plugin() for plugin in PLUGINS]


def _printable_parts(file: Path) -> Iterator[str]:
    """Printable parts of a binary file, many together, one a line."""
    if not file.stat().st_size:  # cannot be mapped
        return
    parts, size = list[str](), 0
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for match in PRINTABLE.finditer(content):
            parts.append(match.group().decode("ascii"))
            size += len(parts[-1])
            if size > SEARCHED_AT_ONCE:
                yield "\n".join(parts)
                parts, size = [], 0
    yield "\n".join(parts)
