"""Images that rows name by path or URL instead of holding them: which of them are opened, and how they are fetched."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset, Image

from modeling_dcclip.image_dcclip import ImageError
from training.data.images import CellRules, fetch, is_url
from training.data.sources import image_roots, require_images

ROWS_AT_ONCE = 1024
FETCHED_AT_ONCE = 64
FETCH_THREADS = 16


def rules_for(source: str | list[str], allow_urls: bool = False, allow_paths: bool = False) -> CellRules:
    """Return which images of a source may be opened.

    Args:
        source: Any source that `load_source` accepts. A function is the user's own code, and may name any file.
        allow_urls: Whether cells may name images by URL.
        allow_paths: Whether cells may name files outside the source.
    """
    roots = image_roots(source)
    return CellRules(allow_urls, allow_paths or roots is None, roots or ())


def require_allowed(rows: Dataset, column: str, rules: CellRules, where: str, field: str = "data") -> Dataset:
    """Check which images rows name by path or URL, and fetch those by URL, if that is allowed.

    Args:
        rows: Rows of a source.
        column: Column of the images.
        rules: Rules of the source.
        where: Name of the source, for the error message.
        field: Field of the recipe or the options, with which the error message starts.

    Returns:
        The rows with undecoded images. Images that were named by URL hold their content.

    Raises:
        ValueError: The column holds no images, or a row names an image that may not be opened or cannot be fetched.
    """
    rows = undecoded(rows, column, where, field)
    has_urls = False
    for row, path in _named(rows, column):
        cause = rules({"bytes": None, "path": path})
        if isinstance(cause, str):
            raise ValueError(f"{field}: row {row} of {where!r}: {cause}. Turn it on if you trust the data.")
        has_urls |= is_url(path)
    return _fetched(rows, column, f"{field}: {where!r}") if has_urls else rows


def fetch_allowed(rows: Dataset, column: str, rules: CellRules, where: str, field: str = "data") -> Dataset:
    """Fetch the images that rows name by URL, if that is allowed. An image that cannot be fetched becomes empty.

    Args:
        rows: Rows of a source.
        column: Column of the images.
        rules: Rules of the source.
        where: Name of the source, for the error message.
        field: Field of the recipe or the options, with which the error message starts.

    Returns:
        The rows with undecoded images.

    Raises:
        ValueError: The column holds no images.
    """
    rows = undecoded(rows, column, where, field)
    has_urls = rules.allow_urls and any(is_url(path) for _, path in _named(rows, column))
    return _fetched(rows, column, None) if has_urls else rows


def undecoded(rows: Dataset, column: str, where: str, field: str = "data") -> Dataset:
    """Return rows whose image column gives encoded bytes and paths instead of decoded images.

    Args:
        rows: Rows of a source.
        column: Column of the images.
        where: Name of the source, for the error message.
        field: Field of the recipe or the options, with which the error message starts.

    Raises:
        ValueError: The column holds no images.
    """
    require_images(rows.features, [column], where, field)
    return rows.cast_column(column, Image(decode=False))


def _named(rows: Dataset, column: str) -> Iterator[tuple[int, str]]:
    """Row and path of each image that is named by a path or URL. The content of other images is not read."""
    first = 0
    for table in rows.select_columns([column]).with_format("arrow").iter(ROWS_AT_ONCE):
        cells = table.column(0).combine_chunks()
        paths = cells.field("path")
        is_named = pc.and_(pc.is_null(cells.field("bytes")), pc.is_valid(paths))
        for index in pc.indices_nonzero(is_named).to_pylist():
            yield first + index, paths[index].as_py()
        first += len(cells)


def _fetched(rows: Dataset, column: str, where: str | None) -> Dataset:
    """Rows with the content of all images that are named by URL; `where` makes one that cannot be fetched an error."""
    options: dict[str, Any] = {"batched": True, "batch_size": FETCHED_AT_ONCE, "with_indices": True}
    arguments = {"column": column, "where": where}
    return rows.map(_fetch_batch, fn_kwargs=arguments, features=rows.features, desc="fetch images", **options)


def _fetch_batch(batch: dict[str, list], numbers: list[int], column: str, where: str | None) -> dict[str, list]:
    def content(cell: dict | None, row: int) -> dict | None:
        if cell is None or cell["bytes"] is not None or not cell["path"] or not is_url(cell["path"]):
            return cell
        try:
            return cell | {"bytes": fetch(cell["path"])}
        except ImageError as error:
            if where is None:
                return cell | {"bytes": b""}
            raise ValueError(
                f"{where}: row {row} cannot be fetched from {cell['path']!r} ({error}). Rows are never dropped "
                "silently: fix or remove the row."
            ) from error

    with ThreadPoolExecutor(FETCH_THREADS) as pool:
        return {column: list(pool.map(content, batch[column], numbers))}
