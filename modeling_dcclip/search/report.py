"""What an index has, and what a search found, as JSON for the command and for assistants."""

import os
from collections import Counter
from typing import Any

from modeling_dcclip.search.hubs import BANK_FILE
from modeling_dcclip.search.index import Hit, Index
from modeling_dcclip.search.lance import LanceIndex
from modeling_dcclip.search.messages import translate


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
        "match": hit.match,
        "words": hit.words,
        "text": hit.text,
    }


def status_of(index: Index | LanceIndex) -> tuple[dict[str, Any], dict[str, int]]:
    """What an index has and what it left out, for people, and numbers of its vectors."""
    status: dict[str, Any] = {
        "index": str(index.folder),
        "model": index.model_folder,
        "files": len(index),
    }
    vectors = {"dimensions": index.space.dimension}
    if isinstance(index, LanceIndex):
        return status, vectors
    catalog = index.catalog
    folders = index.folders
    status |= {
        "folders": {str(folder): catalog.count_below(folder) for folder in folders},
        "missing folders": [str(folder) for folder in folders if not os.path.isdir(folder)],
        "left out": {str(folder): patterns for folder, patterns in folders.items() if patterns},
        "unreadable": dict(Counter(cause for _, cause in catalog.failures()).most_common()),
    }
    if read := catalog.value("SELECT count(*) FROM texts"):
        status["searched for text"] = read
    model = index.model_folder
    if os.path.isdir(model) and not os.path.lexists(os.path.join(model, BANK_FILE)):
        status["ranking"] = translate("without a bank, because the model has none")
    return status, vectors | {"bytes of vectors": catalog.num_rows * index.store.bytes_per_row}
