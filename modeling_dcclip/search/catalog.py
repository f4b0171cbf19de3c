"""The catalog of an index in SQLite: files, the rows of their vectors, and what could not be read.

A row of vectors belongs to one content, so copies and moved files share it. Further key frames of a video have rows of
their own, which belong to the row of the first one. SQLite's rollback journal makes each
commit atomic, and a reader within `reading()` sees one state of the catalog for as long as the block lasts. A vector
is written to a row that no committed entry refers to, and then committed: a process may be killed at any moment.
"""

import json
import math
import os
import sqlite3
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from modeling_dcclip.search.files import (
    VIDEOS,
    FileState,
    date_in_name,
    extension_of,
    is_in_backup,
    search_text,
    with_separator,
)
from modeling_dcclip.search.query import Filter

BUSY_S = 60.0  # how long a process waits for the commit of another
# path: bytes of the operating system, because names need not be UTF-8; row: where the vector is in the store;
# taken: date by EXIF; failures with a size are not read again until the file changes; sum: checksum of the entry;
# patterns: JSON list of what stays out of an indexed folder; frames: the key frames of a video after the first, with
# the row of its content and their time
SCHEMA = """
CREATE TABLE contents (row INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, taken TEXT, sum INTEGER NOT NULL);
CREATE TABLE files (
    id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    row INTEGER NOT NULL REFERENCES contents, sum INTEGER NOT NULL
);
CREATE INDEX files_by_row ON files (row);
CREATE TABLE frames (
    row INTEGER PRIMARY KEY, content INTEGER NOT NULL REFERENCES contents, seconds REAL NOT NULL, sum INTEGER NOT NULL
);
CREATE TABLE failures (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, cause TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE free_rows (row INTEGER PRIMARY KEY);
CREATE TABLE folders (path BLOB PRIMARY KEY, patterns TEXT NOT NULL, sum INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE rotation (matrix BLOB NOT NULL, sum INTEGER NOT NULL);
"""
_SOUND_FILE = "files.sum = checksum(path, size, mtime_ns, files.row)"
_SOUND_CONTENT = "contents.sum = checksum(contents.row, digest, taken)"
_SOUND_FRAME = "frames.sum = checksum(frames.row, content, seconds)"
_MODIFIED = "strftime('%Y-%m-%d %H:%M:%S', mtime_ns / 1000000000, 'unixepoch', 'localtime')"
_DATE = f"coalesce(taken, date_in_name(path), {_MODIFIED})"
_AGE = "mtime_ns + (is_in_backup(path) << 62)"  # of copies, the lowest is shown: the oldest outside backup folders
_FILES = (
    f"SELECT id, path, files.row AS row, {_DATE} AS date, size, mtime_ns, {_SOUND_FILE} AND {_SOUND_CONTENT} AS sound "
    "FROM files LEFT JOIN contents USING (row)"
)


@dataclass(frozen=True)
class File:
    """One file of an index."""

    id: int  # stable while the file stays in the index
    path: str  # absolute; bytes that are not UTF-8 are surrogate escapes
    row: int  # of its vector; of a video, of one key frame
    taken: str  # date and time by EXIF, else by its name, else of its last modification, `YYYY-MM-DD HH:MM:SS`
    state: FileState  # when it was indexed
    seconds: float | None = None  # time of the key frame of a video


class Catalog:
    """Catalog in one SQLite file, usable from several threads.

    Args:
        path: Path of the file; it is created if it is missing.
        key: Number of the index, which its checksums depend on.

    Raises:
        ValueError: The file is damaged. Other methods raise it as well.
        OSError: The disk is full, or the file cannot be read or written. Other methods raise it as well.
    """

    def __init__(self, path: Path, key: int = 0):
        self._path, self._key, self._lock = path, key, threading.RLock()
        with self._errors_reported():
            # autocommit: transactions are explicit
            self._connection = sqlite3.connect(
                path, BUSY_S, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.create_function("search_text", 1, search_text, deterministic=True)
            self._connection.create_function("date_in_name", 1, date_in_name, deterministic=True)
            self._connection.create_function("is_in_backup", 1, is_in_backup, deterministic=True)
            self._connection.create_function("checksum", -1, self._checksum, deterministic=True)
            if not self._execute("SELECT 1 FROM sqlite_master LIMIT 1"):
                self._connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")

    def close(self):
        """Close the file."""
        self._connection.close()

    def _checksum(self, *values: object) -> int:
        return zlib.crc32(repr(values).encode(), self._key)

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        with self._lock, self._errors_reported():
            if self._connection.in_transaction:
                yield
                return
            self._connection.execute(begin)
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite itself ends it after some errors
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold one state of the catalog: no other process can commit within the block."""
        with self._transaction("BEGIN"):
            self._execute("SELECT 1 FROM rotation")  # takes the lock
            yield

    def writing(self) -> AbstractContextManager[None]:
        """Commit everything within the block, or after an error nothing."""
        return self._transaction("BEGIN IMMEDIATE")

    def _execute(self, statement: str, *values: object) -> list[tuple]:
        with self._lock, self._errors_reported():
            return self._connection.execute(statement, values).fetchall()

    def _many(self, statement: str, values: Iterable[tuple]):
        with self._lock, self._errors_reported():
            self._connection.executemany(statement, values)

    @contextmanager
    def _errors_reported(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            message = f"index: cannot use {str(self._path)!r} ({error}). Free some space or check the disk."
            raise OSError(message) from error
        except (
            sqlite3.DatabaseError,
            UnicodeDecodeError,
        ) as error:  # its message may have damaged names
            raise self._damage(str(error)) from error

    def _damage(self, cause: str) -> ValueError:
        return ValueError(
            f"index: the catalog of {str(self._path.parents[1])!r} cannot be read ({' '.join(cause.split())}). "
            "Restore it, or remove the folder and index the photographs again."
        )

    @property
    def num_rows(self) -> int:
        """Number of rows of vectors, free ones included. Each is either of a content or free."""
        ((rows, entries, both),) = self._execute(_COUNT_ROWS)
        if rows != entries or both:
            raise self._damage(
                f"{rows} rows of vectors have {entries} entries, {both} of them twice"
            )
        return rows

    @property
    def num_files(self) -> int:
        """Number of files."""
        return self._execute("SELECT count(*) FROM files")[0][0]

    def free_rows(self) -> np.ndarray:
        """Rows that hold no vector of a file, (N,) int64."""
        return np.array(
            [row for (row,) in self._execute("SELECT row FROM free_rows ORDER BY row")], np.int64
        )

    def knows(self, digest: bytes) -> bool:
        """Whether a content has a vector."""
        return bool(self._execute("SELECT 1 FROM contents WHERE digest = ?", digest))

    def digest(self, path: bytes) -> bytes | None:
        """Digest of a file's content; None if the path is not in the index."""
        found = self._execute(
            "SELECT digest FROM files JOIN contents USING (row) WHERE path = ?", path
        )
        return found[0][0] if found else None

    def folders(self) -> dict[Path, list[str]]:
        """The indexed folders, sorted, each with the patterns of what stays out of it."""
        found = self._execute(
            "SELECT path, patterns, sum = checksum(path, patterns) FROM folders ORDER BY path"
        )
        if not all(is_sound for _, _, is_sound in found):
            raise self._damage("a folder has a wrong checksum")
        return {Path(os.fsdecode(path)): json.loads(patterns) for path, patterns, _ in found}

    def set_folders(self, folders: Mapping[Path, Sequence[str]]):
        """Replace the indexed folders and their patterns."""
        if folders != self.folders():
            with self.writing():
                self._execute("DELETE FROM folders")
                rows = [
                    (os.fsencode(path), json.dumps(patterns)) for path, patterns in folders.items()
                ]
                self._many("INSERT INTO folders VALUES (?1, ?2, checksum(?1, ?2))", rows)

    def failures(self) -> list[tuple[str, str]]:
        """Paths of the files that could not be read, each with its cause, sorted by path."""
        found = self._execute("SELECT path, cause FROM failures ORDER BY path")
        return [(os.fsdecode(path), cause) for path, cause in found]

    def content_rows(self, count: int) -> np.ndarray | None:
        """For each row below a count, the first row of the same content, (count,) int64. None without videos."""
        frames = np.array(self._execute("SELECT row, content FROM frames"), np.int64).reshape(-1, 2)
        if not len(frames):
            return None
        first = np.arange(count)
        first[frames[:, 0]] = frames[:, 1]
        return first

    def files_of_rows(
        self, rows: Iterable[int], chosen: Filter | None = None
    ) -> dict[int, list[File]]:
        """The files of each row that pass a filter, the one to show first."""
        where, values = (chosen or Filter()).condition()
        query = f"SELECT * FROM ({_FILES} WHERE row = ?){where} ORDER BY {_AGE}, path"
        found = {}
        for row in map(int, rows):
            frame = self._execute(
                f"SELECT content, seconds, {_SOUND_FRAME} FROM frames WHERE row = ?", row
            )
            content, seconds, is_sound = frame[0] if frame else (row, None, True)
            if not is_sound:
                raise ValueError(
                    f"index: row {row} of {str(self._path)!r} is damaged. Repair it: dcclip index."
                )
            files = [self._file(each) for each in self._execute(query, content, *values)]
            found[row] = (
                [replace(each, row=row, seconds=seconds) for each in files] if frame else files
            )
        if not all(found.values()):
            raise ValueError(
                f"index: {str(self._path)!r} has rows without files. Repair it: dcclip index."
            )
        return found

    def _file(self, entry: tuple) -> File:
        number, path, row, date, size, mtime_ns, is_sound = entry
        if not is_sound:
            raise ValueError(
                f"index: entry {number} of {str(self._path)!r} is damaged. Repair it: dcclip index."
            )
        seconds = 0.0 if extension_of(path) in VIDEOS else None
        return File(number, os.fsdecode(path), row, date, FileState(path, size, mtime_ns), seconds)

    def file(self, number: int, seconds: float | None = None) -> File | None:
        """The file of an id, of a video with the row of a key frame, by default the first; None if there is none."""
        found = self._execute(f"{_FILES} WHERE id = ?", number)
        file = self._file(found[0]) if found else None
        if file is None or not seconds:
            return file
        rows = self._execute(
            "SELECT row FROM frames WHERE content = ? AND seconds = ?", file.row, seconds
        )
        return replace(file, row=rows[0][0], seconds=seconds) if rows else None

    def files(self) -> list[File]:
        """All files sorted by path."""
        return [self._file(each) for each in self._execute(f"{_FILES} ORDER BY path")]

    def newest(self, top: int, skip: int, chosen: Filter) -> list[int]:
        """Rows of the contents with a file that passes a filter, newest first by the file to show."""
        where, values = chosen.condition()
        # SQLite takes the other columns from the file of the minimum
        query = f"SELECT row, date, path, min({_AGE}) FROM ({_FILES}){where} GROUP BY row"
        found = self._execute(
            f"{query} ORDER BY date DESC, path LIMIT ? OFFSET ?", *values, top, skip
        )
        return [row for row, *_ in found]

    def rows_of_files(self, chosen: Filter) -> np.ndarray:
        """Rows of the files that pass a filter, (N,) int64, each row once."""
        where, values = chosen.condition()
        found = self._execute(f"SELECT DISTINCT row FROM ({_FILES}){where}", *values)
        return np.array([row for (row,) in found], np.int64)

    def forget_folder(self, folder: Path) -> int:
        """Remove an indexed folder with its files, and return their number."""
        limits = _range(os.fsencode(folder))
        with self.writing():
            self.set_folders(
                {path: patterns for path, patterns in self.folders().items() if path != folder}
            )
            found = self._execute(f"DELETE FROM files WHERE {_BELOW} RETURNING row", *limits)
            self._execute(f"DELETE FROM failures WHERE {_BELOW}", *limits)
            self._free([row for (row,) in found])
        return len(found)

    def repair(self, lost_rows: Callable[[int], np.ndarray]) -> int:
        """Remove damaged entries, so that their files are indexed again, and return the number of files.

        Args:
            lost_rows: Function that returns the rows below a number whose vectors are damaged.
        """
        folders = {*self.folders()}
        with self.writing():
            if self._execute("PRAGMA integrity_check(1)") != [("ok",)]:
                self._execute("REINDEX")
                if (found := self._execute("PRAGMA integrity_check(1)")) != [("ok",)]:
                    raise self._damage(found[0][0])
            frames = f"SELECT content FROM frames WHERE {_SOUND_FRAME} IS NOT TRUE"
            damaged = f"SELECT id FROM ({_FILES}) WHERE sound IS NOT TRUE OR row IN ({frames})"
            removed = self._execute(f"DELETE FROM files WHERE id IN ({damaged}) RETURNING path")
            self._execute("DELETE FROM contents WHERE row NOT IN (SELECT row FROM files)")
            self._execute("DELETE FROM frames WHERE content NOT IN (SELECT row FROM contents)")
            entries = dict(
                self._execute(
                    "SELECT row, row FROM contents UNION ALL SELECT row, content FROM frames"
                )
            )
            rows = np.array([*entries], np.int64)
            free = np.setdiff1d(np.arange(rows.max(initial=-1) + 1), rows)
            if not np.array_equal(free, self.free_rows()):
                self._execute("DELETE FROM free_rows")
                self._many("INSERT INTO free_rows VALUES (?)", [(row,) for row in free.tolist()])
            lost = {entries[row] for row in np.intersect1d(lost_rows(self.num_rows), rows).tolist()}
            query = "DELETE FROM files WHERE row = ? RETURNING path"
            removed += [each for row in lost for each in self._execute(query, row)]
            self._free(lost)
            if outside := sum(
                not {*Path(os.fsdecode(path)).parents} & folders for (path,) in removed
            ):
                raise ValueError(
                    f"index: {str(self._path.parents[1])!r} lacks the vectors of {outside} images that are in none of "
                    "the folders of the index. Restore it, or embed their data again: training/embed.py."
                )
        return len(removed)

    @property
    def rotation(self) -> np.ndarray | None:
        """Rotation from the teacher's space to the space of the index, (D, D) float32; None if there is none."""
        found = self._execute("SELECT matrix, sum = checksum(matrix) FROM rotation")
        if not found:
            return None
        ((matrix, is_sound),) = found
        if not is_sound:
            raise self._damage("its rotation has a wrong checksum")
        return np.frombuffer(matrix, "<f4").reshape(math.isqrt(len(matrix) // 4), -1)

    @rotation.setter
    def rotation(self, matrix: np.ndarray):
        with self.writing():
            self._execute("DELETE FROM rotation")
            self._execute(
                "INSERT INTO rotation VALUES (?1, checksum(?1))", matrix.astype("<f4").tobytes()
            )

    def compare(self, files: Iterable[FileState]) -> tuple[int, int, int]:
        """Record which files exist now, in the order of indexing, for `pending` and `remove_missing`.

        Returns the numbers of files, of files that the index has in this state, and of new or changed ones.
        """
        with self._transaction("BEGIN"):
            for statement in _COMPARISON:
                self._execute(statement)
            states = ((each.path, each.size, each.mtime_ns) for each in files)
            self._many("INSERT OR IGNORE INTO seen (path, size, mtime_ns) VALUES (?, ?, ?)", states)
            self._execute(_FIND_PENDING)
        counted = "seen", "seen JOIN files USING (path, size, mtime_ns)", "pending"
        found, unchanged, pending = (
            self._execute(f"SELECT count(*) FROM {each}")[0][0] for each in counted
        )
        return found, unchanged, pending

    def unchanged(self, limit: int) -> list[tuple[bytes, int]]:
        """Paths and rows of some files that `compare` found unchanged."""
        return self._execute(
            "SELECT path, row FROM seen JOIN files USING (path, size, mtime_ns) LIMIT ?", limit
        )

    def pending(self, size: int = 1000) -> Iterator[bytes]:
        """Paths of the files that are new or changed, in order, read in parts of a size."""
        position = 0
        while found := self._execute(
            "SELECT position, path FROM pending WHERE position > ? ORDER BY position LIMIT ?",
            position,
            size,
        ):
            yield from (path for _, path in found)
            position = found[-1][0]

    def allocate(self, contents: Sequence[tuple[bytes, str | None, Sequence[float]]]) -> np.ndarray:
        """Give each new content a row, and the further frames of a video the next ones: free rows, then new ones.

        A content is a digest, a date and the times of the further frames in seconds. Call it within `writing()`,
        before any row is freed, because a row that this transaction frees may still be read.
        """
        end, query = self.num_rows, "SELECT row FROM free_rows ORDER BY row LIMIT ?"
        count = sum(1 + len(times) for _, _, times in contents)
        rows = [row for (row,) in self._execute(query, count)]
        self._many("DELETE FROM free_rows WHERE row = ?", [(row,) for row in rows])
        rows += range(end, end + count - len(rows))
        numbers = iter(rows)
        for digest, taken, times in contents:
            row = next(numbers)
            self._execute(
                "INSERT INTO contents VALUES (?1, ?2, ?3, checksum(?1, ?2, ?3))", row, digest, taken
            )
            frames = [(next(numbers), row, seconds) for seconds in times]
            self._many("INSERT INTO frames VALUES (?1, ?2, ?3, checksum(?1, ?2, ?3))", frames)
        return np.array(rows, np.int64)

    def add_files(self, files: Sequence[tuple[FileState, bytes]]):
        """Enter files, each with the digest of a known content. Call it within `writing()`."""
        replaced = [row for state, _ in files for (row,) in self._execute(_ROW_OF_PATH, state.path)]
        self._many(
            _ENTER_FILE,
            [(state.path, state.size, state.mtime_ns, digest) for state, digest in files],
        )
        self._many("DELETE FROM failures WHERE path = ?", [(state.path,) for state, _ in files])
        self._free(replaced)

    def add_failure(self, path: bytes, cause: str, state: FileState | None):
        """Enter a file that cannot be read. Call it within `writing()`.

        An earlier state of the file leaves the index if it fails lastingly, in a `state`. Without one it stays, and
        the next run reads the file again.
        """
        known = (state.size, state.mtime_ns) if state else (None, None)
        self._many("INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?)", [(path, *known, cause)])
        if state is not None:
            self._free(
                [
                    row
                    for (row,) in self._execute(
                        "DELETE FROM files WHERE path = ? RETURNING row", path
                    )
                ]
            )

    def remove_missing(
        self, folders: Iterable[Path], unreadable: Iterable[bytes]
    ) -> tuple[int, int]:
        """Remove the files below folders that `compare` did not see, except below unreadable directories.

        Returns the numbers of files that were removed, and of those that were moved: their content has a new path.
        """
        with self.writing():
            for path in unreadable:
                self._execute(
                    f"INSERT OR IGNORE INTO seen (path) SELECT path FROM files WHERE {_BELOW}",
                    *_range(path),
                )
            rows: list[int] = []
            for folder in folders:
                limits = _range(os.fsencode(folder))
                rows += [
                    row
                    for (row,) in self._execute(
                        f"DELETE FROM files WHERE {_MISSING} RETURNING row", *limits
                    )
                ]
                self._execute(f"DELETE FROM failures WHERE {_MISSING}", *limits)
            self._free(rows)
            moved = sum(
                min(number, self._execute(_COUNT_ENTERED, row)[0][0])
                for row, number in Counter(rows).items()
            )
        return len(rows) - moved, moved

    def count_below(self, folder: Path) -> int:
        """Number of files below a folder."""
        return self._execute(
            f"SELECT count(*) FROM files WHERE {_BELOW}", *_range(os.fsencode(folder))
        )[0][0]

    def count_seen(self, folder: Path) -> int:
        """Number of files below a folder that the last `compare` saw."""
        return self._execute(
            f"SELECT count(*) FROM seen WHERE {_BELOW}", *_range(os.fsencode(folder))
        )[0][0]

    def _free(self, rows: Iterable[int]):
        """Free the rows that no file refers to any more."""
        candidates = [(row,) for row in set(rows)]
        unused = (
            "row = ? AND row NOT IN (SELECT files.row FROM files WHERE files.row = contents.row)"
        )
        self._many(f"INSERT INTO free_rows SELECT row FROM contents WHERE {unused}", candidates)
        self._many(f"DELETE FROM contents WHERE {unused}", candidates)
        orphans = "content NOT IN (SELECT row FROM contents)"
        self._execute(f"INSERT INTO free_rows SELECT row FROM frames WHERE {orphans}")
        self._execute(f"DELETE FROM frames WHERE {orphans}")


_COMPARISON = (
    "DROP TABLE IF EXISTS temp.seen",
    "DROP TABLE IF EXISTS temp.pending",
    "CREATE TEMP TABLE seen (position INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, size INTEGER, mtime_ns INTEGER)",
    # row: the row of the path before it is read again
    "CREATE TEMP TABLE pending (position INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, row INTEGER)",
)
_FIND_PENDING = """
INSERT INTO pending SELECT position, path, (SELECT row FROM files WHERE files.path = seen.path) FROM seen
WHERE NOT EXISTS (SELECT 1 FROM files WHERE files.path = seen.path
                  AND files.size = seen.size AND files.mtime_ns = seen.mtime_ns)
  AND NOT EXISTS (SELECT 1 FROM failures WHERE failures.path = seen.path
                  AND failures.size = seen.size AND failures.mtime_ns = seen.mtime_ns)
ORDER BY position
"""
_ENTER_FILE = """
INSERT INTO files (path, size, mtime_ns, row, sum)
SELECT ?1, ?2, ?3, row, checksum(?1, ?2, ?3, row) FROM contents WHERE digest = ?4
ON CONFLICT (path) DO UPDATE SET size = ?2, mtime_ns = ?3, row = excluded.row, sum = excluded.sum
"""
_COUNT_ENTERED = """
SELECT count(*) FROM files JOIN pending USING (path) WHERE files.row = ? AND pending.row IS NOT files.row
"""
_COUNT_ROWS = """
SELECT (SELECT coalesce(max(row), -1) + 1 FROM (SELECT max(row) AS row FROM contents
        UNION ALL SELECT max(row) FROM free_rows UNION ALL SELECT max(row) FROM files
        UNION ALL SELECT max(row) FROM frames)),
       (SELECT count(*) FROM contents) + (SELECT count(*) FROM free_rows) + (SELECT count(*) FROM frames),
       (SELECT count(*) FROM free_rows WHERE row IN (SELECT row FROM contents UNION ALL SELECT row FROM frames))
"""
_ROW_OF_PATH = "SELECT row FROM files WHERE path = ?"
_BELOW = "path > ? AND path < ?"
_MISSING = f"{_BELOW} AND path NOT IN (SELECT path FROM seen)"


def _range(folder: bytes) -> tuple[bytes, bytes]:
    """Limits of the paths below a folder: they start with its path and a separator."""
    start = with_separator(folder)
    return start, start[:-1] + bytes([start[-1] + 1])


def distinct_files(files: Sequence[File]) -> list[File]:
    """One path per file, in order: links are not copies, and missing files only count if all are missing."""
    if len(files) == 1:
        return [*files]
    chosen: dict[tuple[int, int], File] = {}
    for file in sorted(files, key=lambda each: os.path.realpath(each.path) != each.path):
        with suppress(
            OSError, ValueError
        ):  # the file is gone, or the path is the name of an image in a collection
            found = os.stat(file.path)
            chosen.setdefault((found.st_dev, found.st_ino), file)
    return [file for file in files if file in chosen.values()] or [*files]
