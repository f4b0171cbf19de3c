"""Hubs: photographs that are similar to every text, and how much of a similarity to take for it.

A cosine ranks hubs first. So each photograph has two numbers: how similar it is to the captions and to the names of a
bank, to which no query belongs. A search subtracts them; see `correct` in fit.py. The captions of the bank travel with
the model, as vectors; the names are `NOUNS`, which the model embeds.
"""

import os
import zlib
from pathlib import Path

import numpy as np

from modeling_dcclip.runtime_dcclip import Runtime
from modeling_dcclip.search.index.catalog import Catalog
from modeling_dcclip.search.index.vectors import SEGMENT_ROWS, VectorStore
from modeling_dcclip.search.messages import Message, UserError
from modeling_dcclip.search.query.fit import hub_numbers

BANK_FILE = "bank.safetensors"
MAX_BYTES = 2**20


def read_bank(runtime: Runtime, files: str) -> np.ndarray | None:
    """Embeddings of the captions of a model's bank, (M, D) float32, of unit length; None if it has no bank.

    Args:
        runtime: Model, whose leading dimensions are taken.
        files: Fingerprint of the files that encode, `Space.files`, which the bank must have.

    Raises:
        ValueError: The bank is damaged, or was made with other files.
    """
    path = runtime.folder / BANK_FILE
    if not os.path.lexists(path):
        return None
    from safetensors import SafetensorError, safe_open

    advice = Message("Download the model again, or remove this file to search without a bank.")
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            raise UserError(
                "bank: {} is not a file of at most {:,} bytes. {}", path, MAX_BYTES, advice
            )
        with safe_open(path, "numpy") as content:
            metadata = content.metadata() or {}
            codes = content.get_tensor("captions")
    except (SafetensorError, OSError) as error:
        raise UserError("bank: {} cannot be read ({}). {}", path, error, advice) from error
    if metadata.get("files") != files:
        raise UserError(
            "bank: {} belongs to a model with the fingerprint {}, but this one has {}. {}",
            path,
            metadata.get("files"),
            files,
            advice,
        )
    vectors = codes[:, : runtime.dimension].astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def write_bank(path: Path, captions: np.ndarray, files: str):
    """Write a bank.

    Args:
        path: File to write.
        captions: Embeddings of captions, (M, D), of unit length, with all dimensions of the model.
        files: Fingerprint of the files that encode, `Space.files`.
    """
    from safetensors.numpy import save_file

    codes = np.round(captions * (127 / np.abs(captions).max())).astype(np.int8)
    save_file({"captions": np.ascontiguousarray(codes)}, path, {"files": files})


class Hubs:
    """The numbers of all photographs of an index, which are stored for each segment of vectors.

    Args:
        catalog: Catalog of the index.
        store: Its vectors.
    """

    def __init__(self, catalog: Catalog, store: VectorStore):
        self._catalog = catalog
        self._store = store
        self._known: dict[int, tuple[tuple[int, int], np.ndarray]] = {}

    def numbers(self, count: int, bank: np.ndarray | None, nouns: np.ndarray) -> np.ndarray:
        """How much the first rows are hubs, (count, 2) float32: for captions and for names.

        Args:
            count: Number of rows.
            bank: Embeddings of captions in the space of the index, (M, D); None without a bank.
            nouns: Embeddings of `NOUNS`, (N, D).

        Raises:
            DamagedIndexError: Stored numbers are damaged.
        """
        bank_key = _key(bank, nouns)
        found = np.zeros((count, 2), np.float32)
        for number, checksum in self._catalog.execute("SELECT number, checksum FROM segments"):
            rows = slice(number * SEGMENT_ROWS, min((number + 1) * SEGMENT_ROWS, count))
            key = (checksum, bank_key)
            if self._known.get(number, (None,))[0] != key:
                numbers = self._stored(number, key)
                if numbers is None:
                    numbers = hub_numbers(self._store.stored_segment(number), bank, nouns)
                self._known[number] = (key, numbers)
            found[rows] = self._known[number][1][: rows.stop - rows.start]
        return found

    def write(self, bank: np.ndarray | None, nouns: np.ndarray):
        """Store the numbers of all segments that have none of this bank. Call it within the lock of the index."""
        bank_key = _key(bank, nouns)
        segments = self._catalog.execute("SELECT number, checksum FROM segments")
        lacking = [
            segment
            for segment in segments
            if self._stored(segment[0], (segment[1], bank_key)) is None
        ]
        if not lacking:
            return
        with self._catalog.writing():
            for number, checksum in lacking:
                vectors = self._store.stored_segment(number)
                content = hub_numbers(vectors, bank, nouns).tobytes()
                self._catalog.execute(
                    "INSERT OR REPLACE INTO hubs VALUES (?, ?, ?, ?, ?)",
                    number,
                    checksum,
                    bank_key,
                    zlib.crc32(content, number),
                    content,
                )

    def _stored(self, number: int, key: tuple[int, int]) -> np.ndarray | None:
        """Numbers of a segment, (SEGMENT_ROWS, 2); None if there are none of these vectors and this bank."""
        query = "SELECT checksum, numbers FROM hubs WHERE number = ? AND segment = ? AND bank = ?"
        for checksum, content in self._catalog.execute(query, number, *key):
            if len(content) != SEGMENT_ROWS * 8 or zlib.crc32(content, number) != checksum:
                raise self._catalog.damage("numbers of hubs have a wrong checksum")
            return np.frombuffer(content, np.float32).reshape(SEGMENT_ROWS, 2)
        return None


def _key(bank: np.ndarray | None, nouns: np.ndarray) -> int:
    """Checksum of what the numbers depend on, in addition to the vectors."""
    return zlib.crc32(b"" if bank is None else bank.tobytes(), zlib.crc32(nouns.tobytes()))
