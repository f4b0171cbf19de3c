"""Image-text retrieval: images with captions from any source, and recall at k in both directions."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset, Image
from torch import Tensor

from training.data import require_allowed, usable_captions
from training.data.batch import EXPECTED_CAUSES
from training.data.images import digest_images, encoded_bytes
from training.data.reader import Reading, open_source
from training.evaluation.metrics import grouped_interval, right_ranks
from training.teachers import DualEncoder
from training.text.writing_systems import LANGUAGES
from training.utils.keys import Digest
from training.utils.results import Row

PROTOCOL = "retrieval"
KS = (1, 5, 10)
MAX_SIMILARITIES = 2**24  # in memory at a time: 64 MiB in float32


@dataclass(frozen=True)
class RetrievalSet:
    """Images and captions, with the pairs that belong together.

    An image that occurs in several rows, as in a source with one row per caption, is one image with several correct
    captions. Equal captions of several images are several candidates, each correct for its own image.

    Args:
        name: Name of the set, written to results.
        rows: One row per image, with one column, `image`, of undecoded images.
        captions: Captions by language, in the order of the rows.
        pairs: Correct (image, caption) pairs by language, one per caption in order, (T, 2) int64.
        source: Location that the rows were loaded from.
        split: Split of the source; None if it has no splits.
        revision: Commit of a data set on the Hub; None for other sources, which a digest of images and captions
            identifies.
        unusable: Number of captions by language that are left out, because they have no letters or digits.
    """

    name: str
    rows: Dataset
    captions: dict[str, list[str]]
    pairs: dict[str, Tensor]
    source: str
    split: str | None = None
    revision: str | None = None
    unusable: dict[str, int] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """Facts about the set for `results.json`."""
        content = json.dumps(
            [self.captions, {key: each.tolist() for key, each in self.pairs.items()}]
        )
        version = Digest().add(digest_images(self.rows), content).hex()
        return {
            "set": self.name,
            "source": self.source,
            "split": self.split,
            "revision": self.revision or version,
            "images": len(self.rows),
            "captions": {language: len(texts) for language, texts in self.captions.items()},
            "unusable_captions": self.unusable,
        }


def open_retrieval_set(
    name: str,
    location: str,
    split: str | None = None,
    image_column: str | None = None,
    caption_columns: dict[str, str] | None = None,
    allow_paths: bool = False,
) -> RetrievalSet:
    """Load images and captions.

    Args:
        name: Name of the set, written to results.
        location: Any source that `training.data.reader` reads.
        split: Split, where there are several. Default: test.
        image_column: Name of the column of images. Default: `image`.
        caption_columns: Caption columns by language; a cell is a caption or a list of captions. Default: the columns
            `en` and `zh`, where they exist.
        allow_paths: Whether rows may name image files outside the source.

    Raises:
        ValueError: There is nothing at this location, a column is missing, a row names an image that may not be
            opened, or a language has no captions.
    """
    image = image_column or "image"
    reading = Reading(split=split, usual_split="test", image_column=image, field="retrieval")
    opened = open_source(location, reading)
    rows = opened.rows
    column_names = rows.column_names
    columns = caption_columns or {
        language: language for language in LANGUAGES if language in column_names
    }
    context = f"{name} ({location})"
    if not columns:
        raise ValueError(
            f"retrieval: {context} has none of the columns {LANGUAGES}, only {column_names}. Name the columns of "
            "captions: --caption_columns.zh COLUMN."
        )
    rows = require_allowed(
        rows, location, image, columns.values(), allow_paths, f"retrieval: {name}"
    )
    return make_retrieval_set(name, rows, columns, image, location, opened.split, opened.revision)


def make_retrieval_set(
    name: str,
    rows: Dataset,
    caption_columns: dict[str, str],
    image_column: str,
    source: str,
    split: str | None = None,
    revision: str | None = None,
) -> RetrievalSet:
    """Find the captions of each image. Equal files are one image; `RetrievalSet` describes the other arguments.

    Raises:
        ValueError: A language has no captions.
    """
    images = rows.select_columns([image_column]).cast_column(image_column, Image(decode=False))
    images = images.rename_columns({image_column: "image"})
    numbers: dict[str, int] = {}  # number of each image, by digest
    first_rows = []
    image_numbers = []
    for row, cell in enumerate(images):
        digest = Digest().add(encoded_bytes(cell["image"])).hex()
        if digest not in numbers:
            numbers[digest] = len(numbers)
            first_rows.append(row)
        image_numbers.append(numbers[digest])
    captions = {}
    pairs = {}
    unusable = {}
    for language, column in caption_columns.items():
        found: dict[tuple[int, str], None] = {}  # a caption that an image has twice counts once
        left_out = 0
        for image, cell in zip(image_numbers, rows[column], strict=True):
            texts, causes = usable_captions(cell)
            found |= dict.fromkeys((image, text) for text in texts)
            left_out += sum(cause not in EXPECTED_CAUSES for cause in causes)
        if left_out:
            unusable[language] = left_out
        if not found:
            raise ValueError(
                f"retrieval: {name} has no {language} caption in column {column!r}. Name the right one."
            )
        captions[language] = [text for _, text in found]
        pairs[language] = torch.tensor([(image, number) for number, (image, _) in enumerate(found)])
    return RetrievalSet(
        name, images.select(first_rows), captions, pairs, source, split, revision, unusable
    )


def ranks(
    queries: Tensor, candidates: Tensor, pairs: Tensor, max_similarities: int = MAX_SIMILARITIES
) -> Tensor:
    """Rank of the best correct candidate of each query, without the whole matrix of similarities in memory.

    Args:
        queries: Embeddings of the queries, (Q, D), L2-normalized.
        candidates: Embeddings of the candidates, (G, D), L2-normalized.
        pairs: Correct (query, candidate) pairs, (P, 2) int64.
        max_similarities: Number of similarities in memory at a time.

    Returns:
        Number of wrong candidates ranked before the best correct one, (A,) int64, for the A queries that have a
        correct candidate, in order; other queries are left out.

    Relations: `training.evaluation.metrics.right_ranks`, computed in chunks.
    """
    # equal candidates tie: in a matrix product, equal columns can differ in the last digit
    candidates, places = candidates.unique(dim=0, return_inverse=True)
    pairs = pairs[pairs[:, 0].argsort(stable=True)]
    query_ids, counts = pairs[:, 0].unique_consecutive(return_counts=True)
    ends = counts.cumsum(0)
    size = max(1, max_similarities // len(places))
    found = []
    for start in range(0, len(query_ids), size):
        ids = query_ids[start : start + size]
        first = ends[start] - counts[start]
        query, candidate = pairs[first : ends[start + len(ids) - 1]].T
        rows = torch.searchsorted(ids, query.contiguous())
        scores = (queries[ids] @ candidates.T)[:, places]
        found.append(right_ranks(scores, torch.stack([rows, candidate], 1)))
    return torch.cat(found)


def score(
    retrieval_set: RetrievalSet,
    language: str,
    images: Tensor,
    texts: Tensor,
    model: str,
    ks: Sequence[int] = KS,
    seed: int | None = None,
) -> list[Row]:
    """Recall at k in both directions, in one language of a set.

    A caption is correct for the images that `pairs` names. In a set of `make_retrieval_set` this is its own image
    alone: an equal caption of another image is a miss, as in published results.

    Args:
        retrieval_set: Images with captions.
        language: Language of the captions.
        images: Embeddings of the images, (N, D), L2-normalized.
        texts: Embeddings of the captions, (T, D), L2-normalized.
        model: Model name, written to the rows.
        ks: Values of k; those greater than the number of candidates are left out.
        seed: Seed of the training run, written to the rows.

    Returns:
        Rows with the metrics `image_to_text_R@k` and `text_to_image_R@k`. Their intervals take into account that
        captions of an image are found or missed together.
    """
    pairs = retrieval_set.pairs[language]
    found_texts = ranks(images, texts, pairs)
    found_images = ranks(texts, images, pairs.flip(1))
    # the captions of an image are a group, unless a caption has several images
    image_of_text = pairs[:, 0] if len(pairs) == len(texts) else torch.arange(len(texts))
    rows = []
    for direction, found, num_candidates, groups in (
        ("image_to_text", found_texts, len(texts), torch.arange(len(found_texts))),
        ("text_to_image", found_images, len(images), image_of_text),
    ):
        for k in ks:
            if k <= num_candidates:
                hits = found < k
                row = Row(
                    model=model,
                    metric=f"{direction}_R@{k}",
                    value=int(hits.sum()) / len(hits),
                    set=retrieval_set.name,
                    protocol=PROTOCOL,
                    language=language,
                    seed=seed,
                    interval=grouped_interval(hits, groups),
                )
                rows.append(row)
    return rows


def measure(
    model: DualEncoder,
    retrieval_set: RetrievalSet,
    name: str,
    ks: Sequence[int] = KS,
    seed: int | None = None,
) -> list[Row]:
    """Encode a set with a model, and `score` it in every language. `name` is the model name in the rows."""
    images = torch.as_tensor(model.encode_images(retrieval_set.rows["image"]))
    rows: list[Row] = []
    for language, captions in retrieval_set.captions.items():
        texts = torch.as_tensor(model.encode_texts(captions, truncate=True))
        rows += score(retrieval_set, language, images, texts, name, ks, seed)
    return rows
