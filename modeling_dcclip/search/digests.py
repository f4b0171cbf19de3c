"""Digests of the photo product: what identifies a file's content, and what identifies a short value.

Other digests identify other things: `digest_files` in runtime_dcclip.py the files of a model, for a student and its
teacher alike, and the checksums of vectors.py and catalog.py (CRC-32) nothing: they find damage.
"""

import hashlib
import io


def content_digest(file: io.BytesIO | io.BufferedReader) -> bytes:
    """Digest of the content of a file, 16 bytes: files with the same one are copies, and share a vector."""
    return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()


def fingerprint(value: bytes) -> str:
    """Digest of a short value, such as the state of a file or settings, 16 hexadecimal digits."""
    return hashlib.blake2b(value, digest_size=8).hexdigest()
