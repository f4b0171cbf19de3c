"""Options of the studies of search."""

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
        output_dir: Folder for results.json and for the files, which are deleted at the end.
    """

    model: str
    data: str
    num_images: int = 600
    width: int = 1000
    rounds: int = 3
    output_dir: str = "runs/search"


@dataclass(frozen=True, kw_only=True)
class GrowthOptions:
    """How an index grows.

    Args:
        model: Folder of an exported model.
        data: Images, as `data.train` in a recipe; they are repeated.
        counts: Numbers of files in the index, growing.
        embedded: Number of files that each step embeds. The other new ones get random vectors, which takes seconds.
            Default: all.
        width: Width of the JPEG files, in pixels.
        rounds: Rounds of the run without changes and of the search, each a new process.
        output_dir: Folder for results.json and for the files, which are deleted at the end.
    """

    model: str
    data: str
    counts: list[int] = field(default_factory=lambda: [5_000, 20_000, 50_000])
    embedded: int | None = None
    width: int = 1000
    rounds: int = 5
    output_dir: str = "runs/search_growth"


@dataclass(frozen=True, kw_only=True)
class ScanOptions:
    """What to scan.

    Args:
        num_vectors: Number of vectors.
        dimension: Number of dimensions of each, a multiple of 8.
        num_queries: Number of queries.
        seed: Seed of the vectors and queries.
        output_dir: Folder for results.json and for the vectors, which are deleted at the end.
    """

    num_vectors: int = 1_000_000
    dimension: int = 256
    num_queries: int = 20
    seed: int = 0
    output_dir: str = "runs/search_scan"


@dataclass(frozen=True, kw_only=True)
class RclipOptions:
    """What to index with both programs.

    Args:
        rclip: Path of the program `rclip`, which has an environment of its own.
        model: Folder of an exported model.
        data: Images, as `data.train` in a recipe; they are repeated.
        num_images: Number of images to index.
        width: Width of the JPEG files, in pixels.
        rounds: Rounds of the queries, each a new process.
        output_dir: Folder for results.json and for the files, which are deleted at the end.
    """

    rclip: str
    model: str
    data: str
    num_images: int = 600
    width: int = 1000
    rounds: int = 5
    output_dir: str = "runs/search_rclip"


@dataclass(frozen=True, kw_only=True)
class OtherModelOptions:
    """What to make another model of.

    Args:
        data: Images with captions in both languages, as `data.train` in a recipe.
        output_dir: Folder for the model, a complete Hub repository.
        model: Finished model whose tokenizer and layers of the text tower are taken.
        image_tower: Folder of the image tower, output of `python -m training.demo.packaged_weights`.
        num_images: Maximum number of images that the projections are fitted to.
        projection_dim: Number of dimensions of the embeddings.
    """

    data: str
    output_dir: str
    model: str = "model_cards/dcclip-tiny-photo"
    image_tower: str = "runs/efficientnet_lite0"
    num_images: int = 6000
    projection_dim: int = 256


@dataclass(frozen=True, kw_only=True)
class AdaptOptions:
    """Two models of unrelated spaces, and photographs.

    Args:
        models: Folders of the exported models. Each searches an index of the other.
        data: Images with captions in both languages, as `data.train` in a recipe. Every caption is a query.
        sample: Images that the maps are fitted to, none of `data`. Their captions are not read.
        num_sample: Maximum number of these images.
        output_dir: Folder for results.json and for the indexes, which are deleted at the end.
    """

    models: list[str]
    data: str
    sample: str
    num_sample: int = 2000
    output_dir: str = "runs/search_adapt"


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
