"""Fit the photo search to a finished model: its bank, its calibration, and what it finds for everyday queries.

Examples:
  python -m training.experiments.photographs.search --model model_cards/dcclip-tiny-photo --photos DATA

The model's folder gets `bank.safetensors` and the numbers `fit` of its config. Settings are judged on the validation
photographs of DATA alone.
"""

import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from modeling_dcclip.runtime_dcclip import Runtime
from modeling_dcclip.search.index.hubs import BANK_FILE, write_bank
from modeling_dcclip.search.index.space import Space
from modeling_dcclip.search.query.fit import NOUNS, correct, hub_numbers
from training.data import usable_captions
from training.evaluation.retrieval import PROTOCOL, RetrievalSet, open_retrieval_set
from training.experiments.photographs.answers import measure_answers
from training.experiments.photographs.calibrate import calibrate, encode_names, name_shares
from training.experiments.photographs.data import CLASS_NAMES, CLASSIFIER, write_class_names
from training.experiments.photographs.everyday import EVERYDAY, captions_of, photos_that_show
from training.experiments.photographs.towers import save_towers
from training.hub.cards.facts import CONFIG_NAME, read_config
from training.teachers import DualEncoder
from training.text.writing_systems import LANGUAGES
from training.utils.cli import hide_library_bars, parse_options, print_ending, user_errors
from training.utils.files import write_json
from training.utils.results import RESULTS_FILE, Results, Row, make_meta

PROGRAM = "python -m training.experiments.photographs.search"
VALIDATION = "_validation.parquet"
# half of the captions are of people and things, half of landscapes
BANK_SOURCES = (
    "captions_text_en_zh.parquet",
    "photos_flickr8k_train.parquet",
    "photos_bing_train.parquet",
    "photos_bing_train.parquet",
)
BANK_CAPTIONS = 118  # captions in each language from each source
TOP = 10


@dataclass(frozen=True, kw_only=True)
class Options:
    """A finished model, and the data to judge its search by.

    Args:
        model: Folder of the model, with its ONNX files.
        photos: Folder with the files of `python -m training.experiments.photographs`.
        output_dir: Folder of the results.
    """

    model: str
    photos: str
    output_dir: str = "runs/photographs/search"


def open_validation(photos: Path) -> list[RetrievalSet]:
    """Open the captioned validation photographs of a folder of data.

    Raises:
        ValueError: There are none.
    """
    files = sorted(photos.glob(f"*{VALIDATION}"))
    if not files:
        raise ValueError(
            f"photos: {str(photos)!r} has no file that ends in {VALIDATION}. Keep some captioned "
            "photographs for validation in such a file."
        )
    return [open_retrieval_set(path.name.removesuffix(VALIDATION), str(path)) for path in files]


def encode_bank(model: DualEncoder, photos: Path) -> np.ndarray:
    """Embeddings of the captions of the bank, (M, D): as many of each source and language, drawn with a fixed seed.

    Args:
        model: Model that encodes them.
        photos: Folder of the data; a source that is missing is left out.

    Raises:
        ValueError: No source is there.
    """
    texts = []
    for number, name in enumerate(BANK_SOURCES):
        if not (photos / name).is_file():
            continue
        columns = pq.read_table(photos / name, columns=list(LANGUAGES)).to_pydict()
        for language in LANGUAGES:
            captions = [text for cell in columns[language] for text in usable_captions(cell)[0]]
            chosen = random.Random(number).sample(captions, min(BANK_CAPTIONS, len(captions)))
            texts += chosen
    if not texts:
        raise ValueError(f"photos: {str(photos)!r} has none of {', '.join(BANK_SOURCES)}. Add one.")
    return model.encode_texts(texts, truncate=True)


def save_bank(folder: Path, captions: np.ndarray):
    """Write the bank of a model that is exported, with the fingerprint of its files."""
    write_bank(folder / BANK_FILE, captions, Space.of(Runtime(folder)).files)


def fit_search(
    folder: Path,
    name: str,
    towers: Path,
    sets: Sequence[RetrievalSet],
    classifier: Path,
    bank: np.ndarray,
) -> list[Row]:
    """Write the numbers `fit` to the config of a model, and measure its search.

    Args:
        folder: Folder of the model.
        name: Name of the model in the results.
        towers: Folder of the model whose image tower the classifier reads.
        sets: Validation photographs with captions in every language, at least two sets.
        classifier: File as `AlignRecipe.classifier`.
        bank: Embeddings of the captions of the bank, (M, D).
    """
    model, pretrained = (DualEncoder.from_pretrained(each) for each in (folder, towers))
    model.name = name
    images = [model.encode_images(each.rows["image"]) for each in sets]
    fit, rows = calibrate(model, pretrained, sets, images, classifier, bank)
    write_json(folder / CONFIG_NAME, read_config(folder) | {"fit": fit})
    return rows + measure_search(model, sets, images, bank, name)


def measure_search(
    model: DualEncoder,
    sets: Sequence[RetrievalSet],
    embeddings: Sequence[np.ndarray],
    bank: np.ndarray,
    name: str,
) -> list[Row]:
    """Precision of the first ten photographs for everyday queries, and recall at 5 of captions, by the search.

    Args:
        model: Model.
        sets: Validation photographs with captions.
        embeddings: The model's embeddings of the photographs of each set, (I, D).
        bank: Embeddings of the captions of the bank, (M, D).
        name: Name of the model in the results.

    Returns:
        `everyday_p10` by language, the mean over queries of the share of right photographs in the first ten, or in as
        many as there are; `search_recall_at_5` by set and language; each also for the plain cosine, `..._cosine`.
    """
    nouns = model.encode_texts(NOUNS)
    about = partial(Row, model=name, protocol=PROTOCOL)
    rows = []
    photos = np.concatenate(embeddings)
    right = photos_that_show(captions_of(sets), [names for *_, names in EVERYDAY["queries"]])
    hubs = hub_numbers(photos, bank, nouns)
    for place, language in enumerate(LANGUAGES):
        texts = [query[place] for query in EVERYDAY["queries"]]
        cosines = encode_names(model, texts) @ photos.T
        searched = correct(cosines, hubs, name_shares(model, texts))
        for metric, scores in (("everyday_p10", searched), ("everyday_p10_cosine", cosines)):
            shown = []
            for number in np.flatnonzero(right.sum(1) >= TOP // 2):
                first = np.argsort(-scores[number], kind="stable")[:TOP]
                shown.append(right[number, first].sum() / min(TOP, right[number].sum()))
            half = 1.96 * float(np.std(shown, ddof=1)) / len(shown) ** 0.5
            mean = float(np.mean(shown))
            interval = (max(0.0, mean - half), min(1.0, mean + half))
            rows.append(
                about(
                    metric=metric, value=mean, set="everyday", language=language, interval=interval
                )
            )
    for each, vectors in zip(sets, embeddings, strict=True):
        numbers = hub_numbers(vectors, bank, nouns)
        for language in each.captions:
            captions, owners = each.captions[language], each.pairs[language][:, 0].numpy()
            cosines = model.encode_texts(captions, truncate=True) @ vectors.T
            for metric, scores in (
                ("search_recall_at_5", correct(cosines, numbers, name_shares(model, captions))),
                ("search_recall_at_5_cosine", cosines),
            ):
                own = np.take_along_axis(scores, owners[:, None], 1)
                value = float(((scores >= own).sum(1) <= 5).mean())
                rows.append(about(metric=metric, value=value, set=each.name, language=language))
    return rows


def main(argv: list[str] | None = None):
    """Parse, fit, print the table."""
    options = parse_options(Options, argv, prog=PROGRAM, description=__doc__ or "")
    with user_errors("search"), tempfile.TemporaryDirectory() as scratch:
        hide_library_bars()
        photos, folder = Path(options.photos).expanduser(), Path(options.model)
        sets = open_validation(photos)
        if len(sets) < 2:
            raise ValueError(
                f"photos: {options.photos!r} needs two files that end in {VALIDATION}."
            )
        towers = Path(scratch) / "towers"
        save_towers(towers)
        classifier = Path(scratch) / CLASSIFIER
        write_class_names([photos / CLASS_NAMES], classifier, seed=0)
        bank = encode_bank(DualEncoder.from_pretrained(folder), photos)
        rows = fit_search(folder, folder.name, towers, sets, classifier, bank)
        save_bank(folder, bank)
        rows += measure_answers(folder, sets, folder.name)
        results = Results(
            make_meta(options.photos, None, f"{PROGRAM} --model {options.model}"), rows
        )
        results.write(options.output_dir)
    print(results.table())
    print_ending({f"{options.output_dir}/{RESULTS_FILE}": "all numbers"})


if __name__ == "__main__":
    main()
