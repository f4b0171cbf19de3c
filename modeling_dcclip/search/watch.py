"""Keep an index current while its folders change: `dcclip index --watch`."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from modeling_dcclip.messages import UserError
from modeling_dcclip.search.index import Index
from modeling_dcclip.search.indexing import Report
from modeling_dcclip.search.settings import BusyError

QUIET_MS, LONGEST_MS = 1000, 10_000  # an update waits until nothing changes, at most so long
CHECK_MS = 2000  # between looks at the folders themselves


def load_watchfiles() -> ModuleType:
    """Import watchfiles.

    Raises:
        ValueError: It is not installed.
    """
    try:
        import watchfiles
    except ImportError as error:
        raise UserError(
            "watch: watchfiles is not installed. Run: pip install watchfiles"
        ) from error
    return watchfiles


def watch(index: Index) -> Iterator[Report]:
    """Update an index whenever one of its folders changes, and yield what each update did, until Ctrl-C.

    While another process writes to the index, an update waits.

    Raises:
        ValueError: All folders have disappeared, or an update fails.
        OSError: The system cannot watch so many folders, or the index cannot be written.
    """
    watchfiles = load_watchfiles()
    own = {index.folder.absolute(), index.folder.resolve()}  # what an update itself changes
    while True:
        folders = _folders(index)
        is_current = False  # files may have changed before the watch began
        for changes in watchfiles.watch(
            *folders,
            watch_filter=lambda change, path: own.isdisjoint(Path(path).parents),
            debounce=LONGEST_MS,
            step=QUIET_MS,
            rust_timeout=CHECK_MS,
            yield_on_timeout=True,
        ):
            if not is_current or changes:
                is_current = False
                try:
                    report = index.add()
                except BusyError:
                    continue
                is_current = True
                yield report
            if _folders(index) != folders:  # a disk is gone or back, or another process adds one
                break


def _folders(index: Index) -> list[Path]:
    """The folders of an index that exist."""
    index.refresh()
    return [*filter(os.path.isdir, index.folders)]
