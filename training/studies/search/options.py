"""Options of the study of search."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What to measure.

    Args:
        model: Folder of an exported model.
        data: Images, as `data.train` in a recipe.
        num_images: Number of images to index.
        width: Width of the JPEG files that are indexed, in pixels.
        rounds: Rounds of the comparison of rates, in which the index and the bare loop alternate.
        num_vectors: Number of vectors in the measurement of a scan; those of the images are repeated.
        output_dir: Folder for results.json and for the files, which are deleted at the end.
    """

    model: str
    data: str
    num_images: int = 600
    width: int = 1000
    rounds: int = 3
    num_vectors: int = 1_000_000
    output_dir: str = "runs/search"


@dataclass(frozen=True, kw_only=True)
class RecallOptions:
    """What to search, and how.

    Args:
        data: Images with captions in both languages, as `data.train` in a recipe. Every caption is a query.
        model: Folder of an exported model.
        others: Further images without captions. All captions are searched a second time among these too.
        output_dir: Folder for results.json and for the vectors, which are deleted at the end.
    """

    data: str
    model: str = "model_cards/dcclip-tiny-photo"
    others: list[str] = field(default_factory=list)
    output_dir: str = "runs/search_recall"
