"""Embed an index again with a new model, while the old vectors stay in use until the new ones are complete.

The new catalog and vectors grow in a data folder of their own, which `upgrade.json` names. Renaming this file to
`manifest.json` switches to them. An interrupted upgrade continues where it stopped.
"""

import os
from pathlib import Path

from modeling_dcclip.runtime_dcclip import Runtime
from modeling_dcclip.search.index import Index, open_model
from modeling_dcclip.search.indexing import Progress, Report, update
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
        if space.change(index.space) is None:
            raise ValueError(
                f"model: the index {str(index.folder)!r} has this model already, with {space.dimension} dimensions."
            )
        folders = index.catalog.folders()
        if (
            others := len(index) - sum(map(index.catalog.count_below, folders))
        ) > 0:  # nested ones count twice
            raise ValueError(
                f"upgrade: {others} images of the index {str(index.folder)!r} are in none of its folders. Embed their "
                "data with the new model into a new index: training/embed.py."
            )
        manifest = _pending(index, runtime, space)
        catalog, store = open_data(index.folder, manifest, create=True)
        try:
            store_rotation(catalog, runtime)
            for folder in {*catalog.folders()} - {
                *folders
            }:  # of an interrupted upgrade, and forgotten since
                catalog.forget_folder(folder)
            catalog.set_folders(folders)
            report = update(catalog, store, runtime, [*folders], progress, earlier=index.catalog)
        finally:
            catalog.close()
        for path in report.unreadable:
            if indexed := index.catalog.count_below(Path(path)):
                raise ValueError(
                    f"upgrade: {path!r} cannot be read now, and the index has {indexed} images from it. Make it "
                    "readable, or leave it out with --exclude, and run the same command again."
                )
        os.replace(index.folder / UPGRADE, index.folder / MANIFEST)
    index.refresh()
    return report


def _pending(index: Index, runtime: Runtime, space: Space) -> dict:
    """The manifest of the upgrade. An interrupted one continues if it had this model and number of dimensions."""
    manifest = make_manifest(runtime, space, index.manifest["data"] + 1)
    if (index.folder / UPGRADE).is_file():
        earlier = read_manifest(index.folder, UPGRADE)
        if Space(**earlier["space"]).change(space) is None:
            manifest |= {"data": earlier["data"], "id": earlier["id"]}
        else:
            manifest["data"] = earlier["data"] + 1
    write_manifest(index.folder, manifest, UPGRADE)
    return manifest
