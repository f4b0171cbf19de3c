"""What a search finds and what an index has, as the command, the page and assistants tell it."""

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from modeling_dcclip.runtime_dcclip import ImageInput
from modeling_dcclip.search.index.hubs import BANK_FILE
from modeling_dcclip.search.index.index import Hit, Index
from modeling_dcclip.search.index.lance import LanceIndex
from modeling_dcclip.search.messages import translate
from modeling_dcclip.search.query.query import LOOKED, Filter


def find(
    index: Index | LanceIndex,
    text: str,
    without: Sequence[str] = (),
    images: Sequence[ImageInput | np.ndarray] = (),
    like: Sequence[tuple[int, float | None]] = (),
    chosen: Filter | None = None,
    top: int = LOOKED,
    skip: int = 0,
) -> list[Hit]:
    """Find photographs: those that fit, and then the most similar others; without a query the newest ones.

    Args:
        index: Index to search; the other arguments are those of its method `search`.
        text: See there. Without a text, images or `like`, the newest photographs are found.
        without: See there.
        images: See there.
        like: See there.
        chosen: Which files may be found.
        top: Number of photographs; for a query at least `LOOKED`, unless more are left out.
        skip: Number of photographs to leave out. Of a query, numbers below `LOOKED` leave out none.
    """
    chosen = chosen or Filter()
    if not (text or without or images or like):
        return index.newest(top, chosen, skip)
    query = {"without": without, "images": images, "like": like} | vars(chosen)
    if skip >= LOOKED:
        return index.search(text, top=top, skip=skip, **query)
    return sorted(index.search(text, top=max(top, LOOKED), **query), key=lambda hit: not hit.fits)


def fields_of(hit: Hit) -> dict[str, Any]:
    """JSON of a result."""
    return {
        "path": hit.path,
        "score": None if hit.score is None else round(hit.score, 6),
        "fit": hit.fit,
        "fits": hit.fits,
        "date": hit.taken,
        "seconds": hit.seconds,
        "copies": hit.copies,
        "is_current": hit.is_current,
        "words": hit.words,
    }


def status_of(index: Index | LanceIndex) -> dict[str, Any]:
    """What an index has and what it left out."""
    status: dict[str, Any] = {
        "index": str(index.folder),
        "model": index.model_folder,
        "dimensions": index.space.dimension,
        "files": len(index),
    }
    if isinstance(index, LanceIndex):
        return status
    catalog = index.catalog
    folders = index.folders
    status |= {
        "folders": {str(folder): catalog.count_below(folder) for folder in folders},
        "missing folders": [str(folder) for folder in folders if not os.path.isdir(folder)],
        "left out": {str(folder): patterns for folder, patterns in folders.items() if patterns},
        "unreadable": dict(Counter(cause for _, cause in catalog.failures()).most_common()),
    }
    model = index.model_folder
    if os.path.isdir(model) and not os.path.lexists(os.path.join(model, BANK_FILE)):
        status["ranking"] = translate("without a bank, because the model has none")
    return status
