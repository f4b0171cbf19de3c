"""Bring an index up to date with folders of photographs.

A run walks the folders, compares every file with the catalog, embeds what is new, and commits in small parts. Each
image is embedded alone, so its vector depends on nothing else: a run that was killed and continued equals an unbroken
one.
"""

import os
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from modeling_dcclip.image_dcclip import map_ahead
from modeling_dcclip.runtime_dcclip import Runtime
from modeling_dcclip.search.index.catalog import Catalog
from modeling_dcclip.search.index.vectors import VectorStore
from modeling_dcclip.search.messages import Message, UserError
from modeling_dcclip.search.photos.decoding import MEMORY
from modeling_dcclip.search.photos.files import FileState, Walk, patterns_of
from modeling_dcclip.search.photos.photos import UnreadablePhotoError, read_photo

# a commit after so many files or seconds: what a kill may lose
COMMIT_FILES = 512
COMMIT_S = 5.0
WAITING = 16  # files in work for each thread, so that none waits for a large file or a commit
SHOWN_EXTENSIONS = 5  # extensions shown of files that are not indexed

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
        unreadable: Folders, and links to what is missing, that could not be read; what the index has of them stays.
        missing: Folders of the index that do not exist or have no images now; what the index has of them stays.
        lost: What was wrong with the data of the index, so that all of them were computed again.
        others: Number of files of other types, which are not indexed, by their extension.
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
    lost: str | None = None
    others: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def left_out(self) -> Iterator[tuple[Message, list[str]]]:
        """What was left out and why, the most files first, each with the paths of files that cannot be read."""
        failed = defaultdict(list)
        for path, cause in self.failures:
            failed[cause].append(path)
        for cause, paths in sorted(failed.items(), key=lambda item: -len(item[1])):
            yield Message("unreadable: {} ({})", count_files(len(paths)), Message(cause)), paths
        for folder in self.unreadable:
            yield (
                Message(
                    "cannot be read: {!r} (its indexed photographs are kept; check its permissions)",
                    folder,
                ),
                [],
            )
        for folder in self.missing:
            message = Message(
                "missing folder: {!r} (its indexed photographs are kept; mount its disk, or pass --forget)",
                folder,
            )
            yield message, []
        if self.others:
            counts = count_extensions(self.others)
            yield Message("files of other types are not indexed: {}", counts), []


@dataclass(frozen=True)
class EmbeddedImage:
    """An image that was embedded, or could not be read.

    Args:
        name: Unique name: a path or a key.
        vector: Embedding, (D,) float32, L2-normalized.
        error: Why the image could not be read; None if it could.
        digest: Digest of the file by `describe` in bulk.py.
        size: Size of the file in bytes.
        mtime_ns: Last modification of the file, in ns since 1970; 0 if it is not a file.
        taken: Date by `describe`.
    """

    name: str
    vector: np.ndarray
    error: str | None
    digest: bytes
    size: int
    mtime_ns: int
    taken: str | None


@dataclass
class Outcome:
    """One file that was read, or not."""

    path: bytes
    state: FileState | None = None  # while it was read; None if it could not be read
    digest: bytes = b""  # digest of the content
    taken: str | None = None  # date by EXIF
    # embeddings, each (D,) float32: of an image, or of each frame of a video; none if the content is known
    vectors: list[np.ndarray] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # times of the frames
    failure: UnreadablePhotoError | None = None  # why it could not be read


def update(
    catalog: Catalog,
    store: VectorStore,
    runtime: Runtime,
    recorded: Mapping[Path, list[str]],
    save: Callable[[dict[Path, list[str]]], None],
    named: Sequence[Path] = (),
    progress: Progress | None = None,
    exclude: Sequence[str] | None = None,
) -> Report:
    """Bring an index up to date with folders, by default with its own. The caller holds the lock of the index.

    A folder inside an indexed one updates that one. A folder around indexed ones takes their place. All paths are
    real ones, without symbolic links.

    Args:
        catalog: Catalog of the index.
        store: Vectors of the index.
        runtime: Model of the index.
        recorded: Folders of the index with their patterns.
        save: Function that records changed folders, before anything is embedded.
        named: Folders that the user named.
        progress: Function that is called with the number of files done and the number to do.
        exclude: Patterns of what stays out of the named folders.
    """
    began = time.monotonic()
    require_folders(named)
    report = Report()
    # Path.is_dir fails if a disk does
    missing = {folder for folder in recorded if not os.path.isdir(folder)}
    known = {*recorded, *named} - missing
    # all folders if the index lost its data
    wanted = named if named and catalog.num_rows else known
    folders = []
    replaced = []
    for folder in sorted(known):
        if known.isdisjoint(folder.parents):
            if any(each.is_relative_to(folder) for each in wanted):
                folders.append(folder)
        elif folder in recorded and not {*folder.parents}.isdisjoint(folders):
            replaced.append(folder)
    excluded = {folder: recorded.get(folder, []) for folder in folders}
    if exclude is not None:
        inside = {*named} - {*folders}
        if inside:
            raise UserError(
                "exclude: {!r} is inside an indexed folder. Name that folder instead.",
                str(min(inside)),
            )
        # without names for all folders, and for those on a disk that is away
        excluded |= dict.fromkeys(named or [*folders, *missing], patterns_of(exclude))
    else:
        for folder in replaced:
            if recorded[folder]:  # what it leaves out may be private
                raise UserError(
                    "exclude: {!r} was indexed without {}. Repeat the patterns for the new folder, or pass an "
                    "empty one.",
                    str(folder),
                    ", ".join(map(repr, recorded[folder])),
                )
    walks = [Walk(folder, excluded[folder]) for folder in folders]
    report.found, report.unchanged, pending = catalog.compare(chain.from_iterable(walks))
    empty = [folder for folder in folders if not catalog.count_seen(folder)]
    without = [folder for folder in named if not catalog.count_seen(folder)]
    if without or len(empty) == len(folders):
        folder = (without or empty or sorted(missing))[0]
        raise ValueError(_lacks_images(folder, catalog.count_below(folder)))
    save({folder: recorded[folder] for folder in recorded if folder not in replaced} | excluded)
    entered = _embed_pending(catalog, store, runtime, pending, progress)
    unreadable = [path for walk in walks for path in walk.unreadable]
    gone = [*empty, *missing]
    kept = [*unreadable, *map(os.fsencode, gone)]
    report.removed, report.moved = catalog.remove_missing(folders, kept)
    report.embedded = entered["embedded"]
    report.copies = entered["known"] - report.moved
    report.unchanged += entered["unchanged"]
    report.failures = catalog.failures()
    report.unreadable = [os.fsdecode(path) for path in unreadable]
    report.missing = sorted(map(str, empty if named else gone))
    for walk in walks:
        report.others += walk.others
    report.seconds = time.monotonic() - began
    return report


def require_folders(folders: Iterable[Path]):
    """Refuse paths that are not folders."""
    for folder in folders:
        if not os.path.isdir(folder):
            raise ValueError(_lacks_images(folder))


def _lacks_images(folder: Path, indexed: int = 0) -> Message:
    """Message about a folder that is missing or has no images."""
    name = str(folder)
    if not os.path.isdir(folder):
        return Message(
            "folder: {!r} is not a folder. Check its name, or mount its disk. If it was moved, index its new place: "
            "nothing is embedded again. To remove it from the index, pass --forget.",
            name,
        )
    walk = Walk(folder.resolve())
    excluded = sum(1 for _ in walk)
    if walk.unreadable:
        return Message(
            "folder: {!r} cannot be read. Check the disk and its permissions.",
            os.fsdecode(walk.unreadable[0]),
        )
    if indexed:
        return Message(
            "folder: {!r} has no images now, and the index has {:,} from it. If it is on a disk, mount it. To remove "
            "it from the index, pass --forget.",
            name,
            indexed,
        )
    return Message(
        "folder: {!r} has no images (such as JPEG, HEIC or raw photographs) and no videos that can be read. "
        "Excluded or hidden: {:,}. Files of other types: {}.",
        name,
        excluded,
        count_extensions(walk.others),
    )


def count_files(number: int) -> Message:
    """A number of files."""
    return Message("1 file") if number == 1 else Message("{:,} files", number)


def count_extensions(others: Counter[str]) -> str:
    """Number of files, and the most frequent of their extensions."""
    names = ", ".join(name for name, _ in others.most_common(SHOWN_EXTENSIONS))
    return f"{others.total():,} ({names})" if names else "0"


def _embed_pending(
    catalog: Catalog, store: VectorStore, runtime: Runtime, pending: int, progress: Progress | None
) -> Counter[str]:
    """Embed the pending files, and return the counts of `_commit`."""
    if not pending:
        return Counter()
    # loads the tower before threads share it, and refuses a damaged one, for which every photograph would be blamed
    runtime.encode_images([Image.new("RGB", (8, 8), "white")])
    read = partial(_read, catalog=catalog, runtime=runtime)
    batch: list[Outcome] = []
    entered: Counter[str] = Counter()
    done = 0
    committed = time.monotonic()
    with warnings.catch_warnings():
        # Pillow's, about damaged files; they are listed as failures
        warnings.simplefilter("ignore")
        threads = num_cores()
        for outcome in map_ahead(read, catalog.pending(), threads, WAITING * threads):
            batch.append(outcome)
            done += 1
            is_full = len(batch) >= COMMIT_FILES or time.monotonic() - committed > COMMIT_S
            if is_full or done == pending:
                entered += _commit(catalog, store, batch, read)
                batch = []
                committed = time.monotonic()
            if progress is not None:
                progress(done, pending)
    return entered


def num_cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read(path: bytes, catalog: Catalog, runtime: Runtime) -> Outcome:
    """Read and embed one file, in a thread."""
    with MEMORY.scope():
        try:
            photo = read_photo(path, catalog.knows, runtime.edge)
        except UnreadablePhotoError as failure:
            return Outcome(path, failure=failure)
        outcome = Outcome(path, photo.state, photo.digest, photo.taken)
        for seconds, image in photo.frames:
            try:
                outcome.vectors.append(runtime.encode_images([image])[0])
            except ValueError:  # perhaps of this image alone
                cause = "its embedding is not finite"
                return Outcome(path, failure=UnreadablePhotoError(cause, is_lasting=False))
            outcome.seconds.append(seconds)
    return outcome


def _commit(
    catalog: Catalog, store: VectorStore, batch: list[Outcome], read: Callable[[bytes], Outcome]
) -> Counter[str]:
    """Write vectors, then enter them in the catalog: a kill in between leaves rows that nothing refers to."""
    with catalog.writing():
        for place, each in enumerate(batch):
            # the vector of a known content may have left the index since the file was read
            if each.state and not each.vectors and not catalog.knows(each.digest):
                batch[place] = read(each.path)
        files = [read for read in batch if read.state is not None]
        unchanged = sum(catalog.digest(read.path) == read.digest for read in files)
        embedded = enter(catalog, store, batch)
        known = len(files) - embedded - unchanged
        return Counter(embedded=embedded, unchanged=unchanged, known=known)


def enter(catalog: Catalog, store: VectorStore, batch: Sequence[Outcome]) -> int:
    """Write the vectors of new contents, then enter all files. Call it within `catalog.writing()`."""
    new: dict[bytes, Outcome] = {}
    for outcome in batch:
        if outcome.vectors and not catalog.knows(outcome.digest):
            new.setdefault(outcome.digest, outcome)
    if new:
        contents = []
        vectors = []
        for digest, each in new.items():
            contents.append((digest, each.taken, each.seconds[1:]))
            vectors += each.vectors
        store.write(catalog.allocate(contents), np.stack(vectors))
    catalog.add_files([(read.state, read.digest) for read in batch if read.state is not None])
    for outcome in batch:
        if outcome.failure is not None:
            catalog.add_failure(outcome.path, outcome.failure.cause, outcome.failure.state)
    return len(new)
