"""Embed an index again with another model, while the old vectors stay in use until the new ones are complete.

The new catalog and vectors grow in a data folder of their own, which `upgrade.json` names. Renaming this file to
`manifest.json` is the one step that changes over. An interrupted upgrade continues where it stopped.
"""

import os
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

if __package__:
    from .files_dcclip import Walk
    from .graph_dcclip import check_engine, update_graph
    from .index_dcclip import open_model
    from .indexing_dcclip import Progress, Report, outermost, update
    from .manifest_dcclip import (
        MANIFEST,
        UPGRADE,
        make_manifest,
        open_data,
        read_manifest,
        store_rotation,
        write_manifest,
    )
    from .space_dcclip import Space
else:  # in a model folder
    from files_dcclip import Walk  # type: ignore[no-redef]
    from graph_dcclip import check_engine, update_graph  # type: ignore[no-redef]
    from index_dcclip import open_model  # type: ignore[no-redef]
    from indexing_dcclip import Progress, Report, outermost, update  # type: ignore[no-redef]
    from manifest_dcclip import (  # type: ignore[no-redef]
        MANIFEST,
        UPGRADE,
        make_manifest,
        open_data,
        read_manifest,
        store_rotation,
        write_manifest,
    )
    from space_dcclip import Space  # type: ignore[no-redef]

if TYPE_CHECKING:
    from .index_dcclip import Index
    from .runtime_dcclip import Runtime


def upgrade_index(
    index: "Index",
    model: "Runtime | str | Path",
    *,
    model_id: str | None = None,
    dtype: str | None = None,
    truncate_dim: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Embed all photographs of an index with another model, or store them in another type.

    Searches, also of other processes, use the old vectors until the new ones are complete, and the new ones from then
    on. The old ones are removed by the next run that writes to the index.

    Args:
        index: Index to upgrade.
        model: New model, or its folder.
        model_id: Hub id of the new model. Default: its folder.
        dtype: How the new vectors are stored: `int8`, `float16` or `binary`. Default: as before.
        truncate_dim: Number of leading dimensions of the new vectors. Default: all of the model.
        progress: Function that is called with the number of files done and the number to do.

    Returns:
        What was done.

    Raises:
        ValueError: The index has this model, type and width already, its engine is not installed, another process
            writes to it, a folder of it is gone or cannot be read, or it has images that are in none of its folders.
        OSError: The disk is full or cannot be written. The old vectors stay in use.
    """
    check_engine(index.engine)
    runtime = open_model(model, truncate_dim)
    space = Space.of(runtime, model_id)
    with index.writing():
        index.refresh()
        dtype = dtype or index.manifest["dtype"]
        if space.change(index.space) is None and dtype == index.manifest["dtype"]:
            raise ValueError(
                f"model: the index {str(index.folder)!r} has this model already, in {dtype} and {space.dimension} "
                "dimensions."
            )
        _check_folders(index)
        manifest = _pending(index, runtime, space, dtype)
        catalog, store = open_data(index.folder, manifest, create=True)
        try:
            store_rotation(catalog, runtime)
            catalog.set_forgotten(index.catalog.forgotten())
            catalog.set_excluded(index.catalog.excluded())
            report = update(catalog, store, runtime, index.catalog.folders(), progress)
            if index.engine == "usearch":
                update_graph(catalog, store)
        finally:
            catalog.close()
        os.replace(index.folder / UPGRADE, index.folder / MANIFEST)
    index.refresh()
    return report


def _check_folders(index: "Index"):
    """Refuse to leave images behind: those of other data than folders, and those of a disk that is not mounted."""
    catalog = index.catalog
    folders = outermost(catalog.folders())
    if others := len(index) - sum(map(catalog.count_below, folders)):
        raise ValueError(
            f"upgrade: {others} images of the index {str(index.folder)!r} are in none of its folders. Embed their "
            "data with the new model into a new index: training/embed.py."
        )
    walk = Walk(folders, frozenset(map(os.fsencode, catalog.forgotten())), catalog.excluded())
    deque(walk, maxlen=0)
    unmounted = map(os.fsencode, catalog.unmounted())
    for path in map(os.fsdecode, [*walk.unreadable, *walk.dangling, *unmounted]):
        if indexed := catalog.count_below(Path(path)):
            raise ValueError(
                f"upgrade: {path!r} cannot be read now, and the index has {indexed} images from it. If it is on a "
                "disk, mount it. To remove them from the index, pass --forget."
            )


def _pending(index: "Index", runtime: "Runtime", space: Space, dtype: str) -> dict:
    """The manifest of the upgrade. One that was interrupted goes on if it had this model, type and width."""
    number = int(index.manifest["data"].removeprefix("data-")) + 1
    if (index.folder / UPGRADE).is_file():
        earlier = read_manifest(index.folder, UPGRADE)
        found = Space(**earlier["space"])
        number = int(earlier["data"].removeprefix("data-"))
        if found.change(space) or earlier["dtype"] != dtype:
            number += 1
    manifest = make_manifest(runtime, space, dtype, number, index.engine)
    write_manifest(index.folder, manifest, UPGRADE)
    return manifest
