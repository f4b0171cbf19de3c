"""The images of a source, in shards that are read one by one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.data.images import CellRules
from training.data.shards import Shards, get_cell
from training.data.sources import check_split, digest_sources, image_roots, load_source, open_stream
from training.search.options import EmbedOptions


class Collection:
    """Images of a source with their names.

    Args:
        options: Source, columns and limits.

    Raises:
        ValueError: The source cannot be opened, is empty, or lacks a column.
    """

    def __init__(self, options: EmbedOptions):
        check_split(options.data, options.split)
        self.options = options
        self.num_rows: int | None = None
        if options.streaming:
            stream = open_stream(options.data, options.split, options.subset)
        else:
            rows = load_source(options.data, options.split, options.subset)
            self.num_rows = len(rows)
            stream = rows.to_iterable_dataset(num_shards=max(1, -(-len(rows) // options.rows_per_shard)))
        names = [options.name_column] if options.name_column else []
        self._shards = Shards(stream, 0, " ".join(options.data), options.image_column, names)
        roots = image_roots(options.data)
        self.rules = CellRules(options.allow_urls, options.allow_paths or roots is None, roots or ())

    def __len__(self) -> int:
        """Number of shards."""
        return len(self._shards)

    def identity(self) -> dict[str, Any]:
        """What the shards of embeddings depend on, apart from the model: of local data the state of all files."""
        paths = [str(path.absolute()) if (path := Path(name)).exists() else name for name in self.options.data]
        names = ("split", "subset", "streaming", "image_column", "name_column", "allow_urls", "allow_paths")
        facts = {name: getattr(self.options, name) for name in names}
        # a shard of a stream that could not be read is repaired, and embedded by the next run
        files = digest_sources(self.options.data, with_states=not self.options.streaming)
        return {"data": paths, "files": files, "num_shards": len(self), "num_rows": self.num_rows} | facts

    def read(self, shard: int) -> Iterator[tuple[str, Any]]:
        """Name and cell of each image of a shard.

        Raises:
            ValueError: The shard cannot be read.
        """
        for row, cells in enumerate(self._shards.read(shard, 0)):
            cell = cells[self.options.image_column]
            name = get_cell(cells, self.options.name_column) if self.options.name_column else _file(cell)
            yield (f"{shard:05d}/{row:06d}" if name is None else name), cell


def _file(cell: Any) -> str | None:
    """Path of the image file of a cell; None if the cell has the content itself."""
    if isinstance(cell, dict) and cell.get("bytes") is None:
        return cell.get("path")
    return cell if isinstance(cell, str) else None
