"""Bring an index up to date with folders of photographs.

A run walks the folders, compares every file with the catalog, embeds what is new, and commits in small parts. Each
image is embedded alone, so its vector depends on nothing else: a run that was killed and continued equals an unbroken
one.
"""

import os
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from modeling_dcclip.runtime_dcclip import Runtime
from modeling_dcclip.search.catalog import Catalog
from modeling_dcclip.search.files import RAW_EXTENSIONS, FileState, Walk, search_text
from modeling_dcclip.search.photos import UnreadablePhotoError, read_photo
from modeling_dcclip.search.vectors import VectorStore

COMMIT_FILES, COMMIT_S = 512, 5.0  # a commit after so many files or seconds: what a kill may lose
WAITING = 16  # files in work for each thread, so that none waits for a large file or a commit

SHOWN_EXTENSIONS = 5  # of files that are not indexed

Progress = Callable[[int, int], None]


@dataclass
class Report:
    """What a run did.

    Args:
        found: Number of image files in the folders.
        unchanged: Number of files whose content the index has by their path. They are only read if their size or time
            has changed.
        embedded: Number of images that were embedded.
        copies: Number of new files whose content the index has by a different path. They are not embedded.
        moved: Number of files whose content has a new path. They are not embedded.
        removed: Number of files that left the index.
        failures: Path and cause of each file that could not be read, in this run or an earlier one.
        unreadable: Directories that could not be read; what the index has below them stays.
        missing: Folders of the index that do not exist or have no images now, and directories below at which a disk
            was mounted that is not there now. What the index has of them stays.
        repaired: Number of files whose vectors were lost with a damaged file of the index. They are embedded again.
        raw: Number of raw photographs, which are not indexed, by their extension.
        unmatched: Patterns of what stays out, named for this run, that matched nothing.
        seconds: Duration of the run, in seconds.
    """

    found: int = 0
    unchanged: int = 0
    embedded: int = 0
    copies: int = 0
    moved: int = 0
    removed: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    repaired: int = 0
    raw: dict[str, int] = field(default_factory=dict)
    unmatched: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """One file that was read, or not."""

    path: bytes
    state: FileState | None = None  # while it was read; None if it could not be read
    digest: bytes = b""  # of its content
    taken: str | None = None  # date by EXIF
    vector: np.ndarray | None = None  # embedding, (D,) float32; None if the content is known
    failure: UnreadablePhotoError | None = None  # why it could not be read

    @property
    def needs_vector(self) -> bool:
        """Whether the file relies on a vector that the index has."""
        return self.failure is None and self.vector is None


def update(
    catalog: Catalog,
    store: VectorStore,
    runtime: Runtime,
    folders: list[Path],
    progress: Progress | None = None,
    skip_missing: bool = False,
    exclude: Sequence[str] | None = None,
) -> Report:
    """Bring an index up to date. The caller holds the lock of the index."""
    began = time.monotonic()
    recorded = catalog.folders()
    missing = [folder for folder in folders if not folder.is_dir()] if skip_missing else []
    folders = _as_recorded(outermost([each for each in folders if each not in missing] or folders), recorded)
    forgotten = _still_forgotten(catalog, folders)
    excluded = _excluded(catalog, folders, exclude)
    required = [] if skip_missing else folders
    lost = np.setdiff1d(store.lost_rows(catalog.num_rows), catalog.free_rows())
    report = Report(repaired=catalog.drop_damaged(lost, {*folders, *recorded}))
    if report.repaired:  # of any folder
        folders = _as_recorded(outermost([*folders, *filter(Path.is_dir, recorded)]), recorded)
    walk = Walk(folders, frozenset(map(os.fsencode, forgotten)), excluded)
    report.found, report.unchanged, pending = catalog.compare(walk)
    empty = _without_images(catalog, folders, required)
    folders = [folder for folder in folders if folder not in empty]
    unmounted = _unmounted(catalog, folders, walk.mounts)
    catalog.add_folders(folders)
    catalog.set_paths("forgotten", forgotten)
    if exclude is not None:
        catalog.set_excluded(excluded)
    entered = _embed_pending(catalog, store, runtime, pending, progress)
    _forget_aliases(catalog, folders, recorded)
    # a link that led to a directory leads there again when its disk is mounted
    walk.unreadable += [path for path in walk.dangling if catalog.count_below(Path(os.fsdecode(path)))]
    report.removed, report.moved = catalog.remove_missing(folders, [*walk.unreadable, *map(os.fsencode, unmounted)])
    report.embedded, report.copies = entered["embedded"], entered["known"] - report.moved
    report.unchanged += entered["unchanged"]
    report.failures, report.missing = catalog.failures(), sorted(map(str, [*missing, *empty, *unmounted]))
    report.unreadable = [os.fsdecode(path) for path in walk.unreadable]
    report.unmatched = [text for text in exclude or () if not {*patterns_of([text])} <= walk.matched]
    report.raw = {extension: number for extension, number in walk.others.items() if extension in RAW_EXTENSIONS}
    report.seconds = time.monotonic() - began
    return report


def _unmounted(catalog: Catalog, folders: list[Path], mounts: list[bytes]) -> list[Path]:
    """Directories below the folders at which a disk was mounted that is not there now, and files are missing."""
    recorded = catalog.paths("mount")
    inside = [path for path in recorded if {path, *path.parents} & {*folders}]
    unmounted = [path for path in catalog.unmounted(inside) if catalog.count_missing(path)]
    outside = {*recorded} - {*inside}
    catalog.set_paths("mount", {*outside, *unmounted, *(Path(os.fsdecode(path)) for path in mounts)})
    return unmounted


def outermost(folders: Iterable[Path]) -> list[Path]:
    """Absolute paths of the folders that are inside no other one, sorted."""
    found: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            kind = (
                "is a file; name its folder"
                if folder.exists()
                else "does not exist. If it is on a disk, mount it. To remove it from the index, pass --forget"
            )
            raise ValueError(f"folder: {str(folder)!r} {kind}.")
        found.setdefault(folder.resolve(), Path(os.path.abspath(folder)))
    return sorted(path for real, path in found.items() if not set(real.parents) & set(found))


def _as_recorded(folders: list[Path], recorded: list[Path]) -> list[Path]:
    """The folders by the paths that the index has for them, because several paths may lead to one folder."""
    known = {folder.resolve(): folder for folder in reversed(recorded)}
    return sorted(folder if folder in recorded else known.get(folder.resolve(), folder) for folder in folders)


def _forget_aliases(catalog: Catalog, folders: list[Path], recorded: list[Path]):
    """Remove the recorded folders whose photographs the index has under the paths of other folders now."""
    covered = {folder.resolve() for folder in folders}
    for folder in recorded:
        is_covered = folder.is_dir() and covered & {folder.resolve(), *folder.resolve().parents}
        if is_covered and not {folder, *folder.parents} & {*folders}:
            catalog.forget_folder(folder)


def _still_forgotten(catalog: Catalog, folders: list[Path]) -> list[Path]:
    """Folders that stay out of the index, without those that are added by their own name now."""
    forgotten = [folder for folder in catalog.paths("forgotten") if folder not in folders]
    for folder in folders:
        for each in forgotten:
            if each in folder.parents:
                raise ValueError(
                    f"folder: {str(folder)!r} is inside {str(each)!r}, which was removed with --forget. Index "
                    f"{str(each)!r} again first."
                )
    return forgotten


def patterns_of(texts: Sequence[str]) -> list[str]:
    """Non-empty patterns in the normal form of paths."""
    plain = [os.path.expanduser(text).removeprefix("./") for text in texts]
    return [pattern for pattern in (search_text(os.fsencode(text)) for text in plain) if pattern.strip("/")]


def _excluded(catalog: Catalog, folders: list[Path], exclude: Sequence[str] | None) -> dict[Path, list[str]]:
    """Exclusion patterns by folder, updated for the folders of this run."""
    excluded = catalog.excluded()
    if exclude is not None:
        excluded |= {folder: patterns_of(exclude) for folder in folders}
    walk = Walk(folders, excluded=excluded)
    for folder in folders:
        if any(walk.is_excluded(os.fsencode(path)) for path in (folder, *folder.parents)):
            raise ValueError(  # the next update would remove it again
                f"folder: {str(folder)!r} is inside a folder that was indexed with --exclude, and a pattern leaves it "
                "out. Index that folder again with other patterns first."
            )
    return excluded


def _without_images(catalog: Catalog, folders: list[Path], required: list[Path]) -> list[Path]:
    """Folders that have no images."""
    causes = {folder: cause for folder in folders if (cause := _lacks_images(catalog, folder))}
    if causes and (len(causes) == len(folders) or {*causes} & {*required}):
        raise ValueError(next(iter(causes.values())))
    return [*causes]


def _lacks_images(catalog: Catalog, folder: Path) -> str | None:
    """Message about an empty folder: perhaps a disk is not mounted, and nothing must leave the index."""
    if catalog.count_seen(folder):
        return None
    if indexed := catalog.count_below(folder):
        return (
            f"folder: {str(folder)!r} has no images now, and the index has {indexed} from it. If it is on a disk, "
            "mount it. To remove them from the index, pass --forget."
        )
    return _no_images(folder)


def require_images(folders: Iterable[Path], exclude: Sequence[str] = ()):
    """Refuse folders that make no index, before one is created."""
    for folder in outermost(folders):
        if next(iter(Walk([folder], excluded={folder: patterns_of(exclude)})), None) is None:
            raise ValueError(_no_images(folder))


def _no_images(folder: Path) -> str:
    """Message about a folder without images, which names the files that it has."""
    walk = Walk([folder])
    found = len(list(walk))
    if os.fsencode(folder) in walk.unreadable:
        return f"folder: {str(folder)!r} cannot be read. Check its permissions."
    others = f", and files of other types: {count_extensions(walk.others)}" if walk.others else ""
    if found:
        others = f", apart from {found:,} that are excluded"
    formats = "JPEG, PNG, WebP, GIF, TIFF, BMP, JPEG 2000, HEIC or AVIF"
    return f"folder: {str(folder)!r} has no images ({formats}) in it{others}."


def count_extensions(others: Mapping[str, int]) -> str:
    """Number of files, and the most frequent of their extensions."""
    common = sorted(filter(None, others), key=lambda extension: -others[extension])
    names = [*common[:SHOWN_EXTENSIONS], *(["..."] if len(common) > SHOWN_EXTENSIONS else [])]
    return f"{sum(others.values()):,}" + (f" ({', '.join(names)})" if names else "")


def _embed_pending(
    catalog: Catalog, store: VectorStore, runtime: Runtime, pending: int, progress: Progress | None
) -> Counter[str]:
    """Embed the pending files, and return the counts of `_commit`."""
    if not pending:
        return Counter()
    runtime.encode_images([])  # loads the tower before threads share it
    read = partial(_read, catalog=catalog, runtime=runtime)
    batch: list[Outcome] = []
    entered: Counter[str] = Counter()
    done, committed = 0, time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about damaged files; they are listed as failures
        for outcome in _read_all(catalog.pending(), read):
            batch.append(outcome)
            done += 1
            if done == pending or len(batch) >= COMMIT_FILES or time.monotonic() - committed > COMMIT_S:
                entered += _commit(catalog, store, batch, read)
                batch, committed = [], time.monotonic()
            if progress is not None:
                progress(done, pending)
    return entered


def num_cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read_all(paths: Iterator[bytes], read: Callable[[bytes], Outcome]) -> Iterator[Outcome]:
    """Read files in as many threads as there are processors, and yield them in order."""
    threads = num_cores()
    executor = ThreadPoolExecutor(threads, "dcclip")
    try:
        waiting: deque[Future[Outcome]] = deque()
        for path in paths:
            waiting.append(executor.submit(read, path))
            if len(waiting) >= WAITING * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)


def _read(path: bytes, catalog: Catalog, runtime: Runtime) -> Outcome:
    """Read and embed one file, in a thread."""
    try:
        photo = read_photo(path, catalog.knows, runtime.preprocess.edge)
    except UnreadablePhotoError as failure:
        return Outcome(path, failure=failure)
    try:
        vector = None if photo.image is None else runtime.encode_images([photo.image])[0]
    except ValueError:  # perhaps of this image alone
        return Outcome(path, failure=UnreadablePhotoError("its embedding is not finite", is_lasting=False))
    return Outcome(path, photo.state, photo.digest, photo.taken, vector)


def _commit(
    catalog: Catalog, store: VectorStore, batch: list[Outcome], read: Callable[[bytes], Outcome]
) -> Counter[str]:
    """Write vectors, then enter them in the catalog: a kill in between leaves rows that nothing refers to."""
    with catalog.writing():
        # the vector of a known content may have left the index since the file was read
        batch = [read(each.path) if each.needs_vector and not catalog.knows(each.digest) else each for each in batch]
        files = [each for each in batch if each.state is not None]
        unchanged = sum(catalog.has_content(each.path, each.digest) for each in files)
        embedded = enter(catalog, store, batch)
        return Counter(embedded=embedded, unchanged=unchanged, known=len(files) - embedded - unchanged)


def enter(catalog: Catalog, store: VectorStore, batch: Sequence[Outcome]) -> int:
    """Write the vectors of new contents, then enter all files. Call it within `catalog.writing()`."""
    new: dict[bytes, Outcome] = {}
    for outcome in batch:
        if outcome.vector is not None and not catalog.knows(outcome.digest):
            new.setdefault(outcome.digest, outcome)
    if new:
        rows = catalog.allocate([(digest, outcome.taken) for digest, outcome in new.items()])
        store.write(rows, np.stack([outcome.vector for outcome in new.values() if outcome.vector is not None]))
    catalog.add_files([(each.state, each.digest) for each in batch if each.state is not None])
    for outcome in batch:
        if outcome.failure is not None:
            catalog.add_failure(outcome.path, outcome.failure.cause, outcome.failure.state)
    return len(new)
