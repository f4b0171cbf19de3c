"""What the photo search answers to nouns that photographs show, to names that none shows, and to queries with a date.

A scratch index of the validation photographs is searched as the page and the command search it.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from itertools import compress
from pathlib import Path

import numpy as np

from modeling_dcclip.search.index.index import Index, may_fit
from modeling_dcclip.search.query.query import LOOKED, Filter, understand
from training.evaluation.retrieval import PROTOCOL, RetrievalSet
from training.experiments.photographs import everyday
from training.text.writing_systems import LANGUAGES
from training.utils.results import Row

MIN_PHOTOS = 5  # a noun is there if so many photographs show it
# answers that count, by list of queries and metric
COUNTED = {
    "nouns": {"answer_lost": {"nothing", "one"}, "answer_unsure": {"perhaps"}},
    "absent": {"answer_found": {"one", "several"}},
    "dated": {"answer_lost": {"nothing"}, "answer_unsure": {"perhaps"}},
}


def measure_answers(folder: Path, sets: Sequence[RetrievalSet], name: str) -> list[Row]:
    """Count what a search answers wrongly.

    Args:
        folder: Folder of an exported model with its bank and its calibration.
        sets: Validation photographs with captions. They get dates, because they have none: ten years and all months in
            turn.
        name: Name of the model in the results.

    Returns:
        Shares of the queries, 0 to 1, by language and set. `answer_lost`: something is there, and the answer is that
        there is nothing like it or, for `nouns`, one photograph as fitting. `answer_unsure`: something is there, and
        no photograph is listed as fitting, but some may fit. `answer_found`: nothing is there, and photographs are
        listed as fitting.
    """
    about = partial(Row, model=name, protocol=PROTOCOL)
    images = [image["bytes"] for each in sets for image in each.rows["image"]]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        photos = Path(scratch) / "photos"
        photos.mkdir()
        for number, content in enumerate(images):
            day = f"{2016 + number % 10}{1 + number % 12:02}15"
            (photos / f"IMG_{day}_{number:06}.jpg").write_bytes(content)
        with Index.open(Path(scratch) / "index", folder, create=True) as index:
            index.add(photos)
            for place, language in enumerate(LANGUAGES):
                for kind, queries in _queries(index, everyday.captions_of(sets), place).items():
                    answers = [_answer(index, query) for query in queries]
                    for metric, counted in COUNTED[kind].items():
                        value = sum(each in counted for each in answers) / max(len(answers), 1)
                        rows.append(about(metric=metric, value=value, set=kind, language=language))
    return rows


def _queries(index: Index, captions: Sequence[Sequence[str]], place: int) -> dict[str, list[str]]:
    """The queries in one language whose answer is known: the nouns and dated ones that are there, the absent ones."""
    listed = {kind: everyday.EVERYDAY[kind] for kind in COUNTED}
    asked = [*listed["nouns"], *listed["dated"]]
    shown = everyday.photos_that_show(captions, [names for *_, names in asked])
    of_nouns, of_dated = np.split(shown, [len(listed["nouns"])])
    texts = "\n".join(text for each in captions for text in each)

    def is_there(query: str, right: np.ndarray) -> bool:
        """Whether a photograph of the query's date is right."""
        hits = index.newest(len(captions), understand(query, Filter())[2])
        return bool(right[[int(Path(hit.path).stem[-6:]) for hit in hits]].any())

    known = {
        "nouns": of_nouns.sum(1) >= MIN_PHOTOS,
        "absent": [not everyday.any_of("|".join(each)).search(texts) for each in listed["absent"]],
        "dated": [
            is_there(query[place], right)
            for query, right in zip(listed["dated"], of_dated, strict=True)
        ],
    }
    return {
        kind: [query[place] for query in compress(listed[kind], is_known)]
        for kind, is_known in known.items()
    }


def _answer(index: Index, query: str) -> str:
    """What a query is answered: `nothing` like it, `perhaps` some, `one` photograph as fitting, or `several`."""
    text, without, chosen, _ = understand(query, Filter())
    hits = index.search(text, without=without, top=LOOKED, **asdict(chosen))
    fitting = sum(hit.fits for hit in hits)
    if not fitting:
        return "perhaps" if may_fit(hits) else "nothing"
    return "one" if fitting == 1 else "several"
