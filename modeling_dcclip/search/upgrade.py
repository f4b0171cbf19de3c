"""Embed an index again with a new model, while the old vectors stay in use until the new ones are complete.

The new catalog and vectors grow in a data folder of their own, which `upgrade.json` names. Renaming this file to
`manifest.json` switches to them. An interrupted upgrade continues where it stopped.
"""

import os
from collections import deque
from pathlib import Path

from modeling_dcclip.runtime_dcclip import Runtime
from modeling_dcclip.search.files import Walk
from modeling_dcclip.search.index import Index, open_model
from modeling_dcclip.search.indexing import Progress, Report, outermost, update
from modeling_dcclip.search.manifest import (
    MANIFEST,
    UPGRADE,
    Space,
    make_manifest,
    open_data,
    read_manifest,
    store_rotation,
    write_manifest,
)


def upgrade_index(
    index: Index,
    model: Runtime | str | Path,
    *,
    model_id: str | None = None,
    truncate_dim: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Embed all photographs of an index with a new model, or with a new number of dimensions.

    Searches, also of other processes, use the old vectors until the new ones are complete, and the new ones from then
    on. The old ones are removed by the next run that writes to the index.

    Args:
        index: Index to upgrade.
        model: New model, or its folder.
        model_id: Hub id of the new model. Default: its folder.
        truncate_dim: Number of leading dimensions of the new vectors. Default: all of the model.
        progress: Function that is called with the number of files done and the number to do.

    Returns:
        What was done.

    Raises:
        ValueError: The index has this model and number of dimensions already, another process writes to it, one of
            its folders is gone or cannot be read, or it has images that are in none of its folders.
        OSError: The disk is full or cannot be written. The old vectors stay in use.
    """
    runtime = open_model(model, truncate_dim)
    space = Space.of(runtime, model_id)
    with index.writing():
        index.refresh()
        if space.change(index.space) is None:
            raise ValueError(
                f"model: the index {str(index.folder)!r} has this model already, with {space.dimension} dimensions."
            )
        _check_folders(index)
        manifest = _pending(index, runtime, space)
        catalog, store = open_data(index.folder, manifest, create=True)
        try:
            store_rotation(catalog, runtime)
            catalog.set_paths("forgotten", index.catalog.paths("forgotten"))
            catalog.set_excluded(index.catalog.excluded())
            report = update(catalog, store, runtime, index.catalog.folders(), progress)
        finally:
            catalog.close()
        os.replace(index.folder / UPGRADE, index.folder / MANIFEST)
    index.refresh()
    return report


def _check_folders(index: Index):
    """Refuse to leave images behind: images that are in no folder, or on a disk that is not mounted."""
    catalog = index.catalog
    folders = outermost(catalog.folders())
    if others := len(index) - sum(map(catalog.count_below, folders)):
        raise ValueError(
            f"upgrade: {others} images of the index {str(index.folder)!r} are in none of its folders. Embed their "
            "data with the new model into a new index: training/embed.py."
        )
    walk = Walk(folders, frozenset(map(os.fsencode, catalog.paths("forgotten"))), catalog.excluded())
    deque(walk, maxlen=0)
    unmounted = map(os.fsencode, catalog.unmounted())
    for path in map(os.fsdecode, [*walk.unreadable, *walk.dangling, *unmounted]):
        if indexed := catalog.count_below(Path(path)):
            raise ValueError(
                f"upgrade: {path!r} cannot be read now, and the index has {indexed} images from it. If it is on a "
                "disk, mount it. To remove them from the index, pass --forget."
            )


def _pending(index: Index, runtime: Runtime, space: Space) -> dict:
    """The manifest of the upgrade. An interrupted one continues if it had this model and number of dimensions."""
    number = int(index.manifest["data"].removeprefix("data-")) + 1
    manifest = make_manifest(runtime, space, number)
    if (index.folder / UPGRADE).is_file():
        earlier = read_manifest(index.folder, UPGRADE)
        if Space(**earlier["space"]).change(space) is None:
            manifest |= {"data": earlier["data"], "id": earlier["id"]}
        else:
            manifest["data"] = f"data-{int(earlier['data'].removeprefix('data-')) + 1}"
    write_manifest(index.folder, manifest, UPGRADE)
    return manifest
