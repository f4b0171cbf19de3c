"""Identity of texts: ids and digests that are equal for equal texts in any process and run."""

import hashlib
from collections.abc import Iterable


def text_id(text: str) -> int:
    """Return a 63-bit id of a text, which fits into an int64 tensor."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def texts_digest(texts: Iterable[str]) -> str:
    """Return a digest (16 hexadecimal digits) of texts in their order."""
    return hashlib.blake2b("\n".join(texts).encode(), digest_size=8).hexdigest()
