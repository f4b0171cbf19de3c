"""Keep an index current while its folders change: `dcclip index --watch`."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from modeling_dcclip.messages import Message
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
        raise ValueError(
            "watch: watchfiles is not installed. Run: pip install watchfiles"
        ) from error
    return watchfiles


def watch(index: Index) -> Iterator[Report]:
    """Update an index whenever one of its folders changes, and yield what each update did, until Ctrl-C.

    While another process writes to the index, an update waits.

    Raises:
        ValueError: A folder has disappeared, or an update fails.
        OSError: The system cannot watch so many folders, or the index cannot be written.
    """
    watchfiles = load_watchfiles()
    own = {index.folder.absolute(), index.folder.resolve()}  # what an update itself changes
    while True:
        index.refresh()
        folders = index.folders
        is_current = False  # files may have changed before the watch began
        for changes in watchfiles.watch(
            *filter(os.path.isdir, folders),
            watch_filter=lambda change, path: own.isdisjoint(Path(path).parents),
            debounce=LONGEST_MS,
            step=QUIET_MS,
            rust_timeout=CHECK_MS,
            yield_on_timeout=True,
        ):
            if gone := next((folder for folder in folders if not os.path.isdir(folder)), None):
                raise ValueError(
                    Message(
                        "watch: the folder {!r} has disappeared. What the index has of it stays. If it is on a "
                        "disk, mount it; to remove it from the index, pass --forget. Then run the same command "
                        "again.",
                        str(gone),
                    )
                )
            index.refresh()
            if index.folders != folders:  # another process has changed them
                break
            is_current = is_current and not changes
            if not is_current:
                try:
                    report = index.add()
                except BusyError:
                    continue
                is_current = True
                yield report
