"""Embed an index again with a new model, while the old vectors stay in use until the new ones are complete.

The new catalog grows in a file of its own, which `upgrade.json` names. The settings of the index switch to it when it
is complete. An interrupted upgrade continues where it stopped.
"""

from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from modeling_dcclip.runtime_dcclip import Runtime
from modeling_dcclip.search.index.catalog import Catalog, DamagedIndexError
from modeling_dcclip.search.index.hubs import Hubs, read_bank
from modeling_dcclip.search.index.index import Index, open_model
from modeling_dcclip.search.index.indexing import Progress, Report, update
from modeling_dcclip.search.index.settings import (
    UPGRADE,
    Settings,
    create_catalog,
    open_catalog,
    read_upgrade,
    write_settings,
)
from modeling_dcclip.search.index.space import Space
from modeling_dcclip.search.index.vectors import VectorStore
from modeling_dcclip.search.messages import UserError
from modeling_dcclip.search.query.fit import NOUNS


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
        ValueError: Another process writes to the index, one of its folders is gone or cannot be read, or it has
            images that are in none of its folders.
        OSError: The disk is full or cannot be written. The old vectors stay in use.
    """
    runtime = open_model(model, truncate_dim)
    space = Space.of(runtime, model_id)
    with index.writing():
        folders = index.folders
        in_folders = sum(map(index.catalog.count_below, folders))  # nested ones count twice
        if (others := len(index) - in_folders) > 0:
            raise UserError(
                "upgrade: {} images of the index {!r} are in none of its folders. Embed their data with the "
                "new model into a new index: training/embed.py.",
                others,
                str(index.folder),
            )
        if not folders:
            raise UserError(
                "upgrade: the index {!r} has no folders. Name one: dcclip index FOLDER.",
                str(index.folder),
            )
        settings, catalog = _pending(index, runtime, space)
        with closing(catalog):
            # forgotten since an interrupted upgrade
            for folder in settings.folders.keys() - folders.keys():
                catalog.forget_folder(folder)
            write_settings(index.folder, replace(settings, folders=folders), UPGRADE)
            store = VectorStore(catalog, space.dimension)
            report = update(
                catalog,
                store,
                runtime,
                folders,
                lambda folders: None,  # they stay
                named=[*folders],
                progress=progress,
            )
            bank = read_bank(runtime, space.files)
            Hubs(catalog, store).write(bank, runtime.encode_texts(NOUNS))
        for path in [*report.unreadable, *(path for path, _ in report.failures)]:
            if indexed := index.catalog.count_below(Path(path)):
                raise UserError(
                    "upgrade: {!r} cannot be read now, and the index has {} images from it. Make it readable, "
                    "or leave it out with --exclude, and run the same command again.",
                    path,
                    indexed,
                )
        write_settings(index.folder, replace(settings, folders=folders))
        (index.folder / UPGRADE).unlink()
    index.refresh()
    return report


def _pending(index: Index, runtime: Runtime, space: Space) -> tuple[Settings, Catalog]:
    """Settings and catalog of the upgrade. An interrupted one continues if it had the same model and dimensions."""
    number = index.settings.data + 1
    if (earlier := read_upgrade(index.folder)) is not None:
        if earlier.space.change(space) is None:
            with suppress(DamagedIndexError):
                return earlier, open_catalog(index.folder, earlier)
        number = max(number, earlier.data + 1)
    settings = Settings.new(runtime, space, number)
    return settings, create_catalog(index.folder, settings, runtime)
