"""The catalog of an index in SQLite: files, the rows of their vectors, and what could not be read.

A row of vectors belongs to one content, so copies and moved files share it. Further key frames of a video have rows of
their own, which belong to the row of the first one. SQLite's rollback journal makes each commit atomic, with its
vectors: a process may be killed at any moment. A reader within `reading()` sees one state for as long as the block
lasts.
"""

import json
import math
import os
import sqlite3
import stat
import threading
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from modeling_dcclip.search.messages import Message
from modeling_dcclip.search.photos.files import (
    VIDEOS,
    FileState,
    date_in_name,
    date_of_folder,
    extension_of,
    search_text,
)
from modeling_dcclip.search.query.query import Filter
from modeling_dcclip.search.query.words import ENTER_WORDS, Found, name_words, search
from modeling_dcclip.search.query.words import TABLES as WORD_TABLES

BUSY_S = 60.0  # how long a process waits for the commit of another
# path: bytes of the operating system, because names need not be UTF-8; row: number of the vector; taken: date by EXIF;
# frames: the key frames of a video after the first, with the row of its content and their time; failures with a size
# are not read again until the file changes; segments: see vectors.py; sums: see _SUMS; words.py has the tables of
# words; hubs: numbers of a segment with this checksum, by a bank with this one: see hubs.py
FORMAT = 6  # number of this schema
SCHEMA = """
CREATE TABLE contents (row INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, taken TEXT);
CREATE TABLE files (
    id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    row INTEGER NOT NULL REFERENCES contents
);
CREATE INDEX files_by_row ON files (row);
CREATE TABLE frames (row INTEGER PRIMARY KEY, content INTEGER NOT NULL REFERENCES contents, seconds REAL NOT NULL);
CREATE TABLE failures (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, cause TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE free_rows (row INTEGER PRIMARY KEY);
CREATE TABLE segments (number INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, vectors BLOB NOT NULL);
CREATE TABLE hubs (number INTEGER PRIMARY KEY, segment INTEGER, bank INTEGER, checksum INTEGER, numbers BLOB);
CREATE TABLE rotation (checksum INTEGER NOT NULL, matrix BLOB NOT NULL);
CREATE TABLE sums (value TEXT NOT NULL);
"""
# checksums of the columns that a search reads, each as a table and the term of one row. Damage changes a sum, or else
# a path, which then names no file.
_SUMS = (
    ("segments", "{0}number + 1 + {0}checksum"),
    (
        "files NOT INDEXED",
        "{0}id + {0}row + {0}size + {0}mtime_ns / 1000000000 + length({0}path) + instr({0}path, x'2f')",
    ),
    ("files INDEXED BY files_by_row", "{0}id + {0}row"),
    ("contents", "{0}row"),
    ("contents", "ifnull(CAST(strftime('%s', {0}taken) AS INTEGER), 0)"),
    ("frames", "{0}row + {0}content + CAST({0}seconds * 1000 AS INTEGER)"),
    ("free_rows", "{0}row"),
)
_TAKE_SUMS = (
    f"SELECT printf('{' '.join(['%d'] * len(_SUMS))}', "
    + ", ".join(f"(SELECT sum({term.format('')}) FROM {table})" for table, term in _SUMS)
    + ")"
)
_CHANGES = {"INSERT": "+ {0}", "DELETE": "- {1}", "UPDATE": "+ {0} - {1}"}


def _count_changes() -> str:
    """Script with which a connection counts how much its statements change each sum, in the table `changes`.

    Without recursive triggers, a row that REPLACE removes would not count.
    """
    script = "PRAGMA recursive_triggers = ON; CREATE TEMP TABLE changes (sum INTEGER PRIMARY KEY, change INTEGER);"
    for number, (table, term) in enumerate(_SUMS):
        script += f"INSERT INTO changes VALUES ({number}, 0);"
        for event, change in _CHANGES.items():
            changed = change.format(f"({term.format('NEW.')})", f"({term.format('OLD.')})")
            script += (
                f"CREATE TEMP TRIGGER {event}_{number} AFTER {event} ON main.{table.split()[0]} BEGIN "
                f"UPDATE changes SET change = change {changed} WHERE sum = {number}; END;"
            )
    return script


_MODIFIED = "strftime('%Y-%m-%d %H:%M:%S', mtime_ns / 1000000000, 'unixepoch', 'localtime')"
_DATE = f"coalesce(taken, date_in_name(path), {_MODIFIED})"
_FILES = (
    f"SELECT id, path, files.row AS row, {_DATE} AS date, size, mtime_ns "
    "FROM files JOIN contents USING (row)"
)
# of a JSON list; a further key frame has the file of its content. CROSS JOIN keeps the order of the tables
_FILES_OF_ROWS = f"""
SELECT id, path, asked AS row, {_DATE} AS date, size, mtime_ns, seconds
FROM (SELECT value AS asked FROM json_each(?)) LEFT JOIN frames ON frames.row = asked
CROSS JOIN files ON files.row = ifnull(content, asked)
CROSS JOIN contents ON contents.row = files.row
"""


@dataclass(frozen=True)
class File:
    """One file of an index."""

    id: int  # stable while the file stays in the index
    path: str  # absolute; bytes that are not UTF-8 are surrogate escapes
    row: int  # row of its vector; for a video, the vector of one key frame
    taken: str  # date and time by EXIF, else by its name, else of its last modification, `YYYY-MM-DD HH:MM:SS`
    state: FileState  # when it was indexed
    seconds: float | None = None  # time of the key frame of a video


class DamagedIndexError(ValueError):
    """The data of an index are damaged, missing or of an earlier version; `dcclip index` computes them again.

    Args:
        path: What is damaged.
        cause: What is wrong with it.
    """

    def __init__(self, path: Path, cause: str):
        self.cause = Message(cause)
        super().__init__(
            Message(
                "index: {!r} cannot be used ({}). Run dcclip index: it embeds the photographs again, "
                "and keeps the folders and what they leave out.",
                str(path),
                self.cause,
            )
        )


class Database:
    """A SQLite file of an index, usable from several threads.

    Args:
        path: Path of the file.
        script: SQL statements that are run when it is opened.

    Raises:
        DamagedIndexError: The file is damaged. Other methods raise it as well.
        OSError: The disk is full, or the file cannot be read or written. Other methods raise it as well.
    """

    def __init__(self, path: Path, script: str):
        self._path = path
        self._lock = threading.RLock()
        for each in (path, path.with_name(f"{path.name}-journal")):
            require_own_file(each)
        with self._errors_reported():
            # autocommit: transactions are explicit
            self._connection = sqlite3.connect(
                path, BUSY_S, isolation_level=None, check_same_thread=False
            )
            self._connection.executescript(script)

    def close(self):
        """Close the file, after the statement that another thread runs: SQLite would crash."""
        with self._lock:
            self._connection.close()

    def execute(self, statement: str, *values: object) -> list[tuple]:
        """Run an SQL statement, and return its rows."""
        with self._lock, self._errors_reported():
            return self._connection.execute(statement, values).fetchall()

    def value(self, statement: str, *values: object) -> Any:
        """The value of an SQL statement with one."""
        return self.execute(statement, *values)[0][0]

    def column(self, statement: str, *values: object) -> list[Any]:
        """The first value of each row of an SQL statement."""
        return [row[0] for row in self.execute(statement, *values)]

    @contextmanager
    def _errors_reported(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the message may have damaged names
            code = getattr(error, "sqlite_errorcode", None)
            # a table that is missing has the general code, and a full disk one of its own
            if isinstance(error, sqlite3.OperationalError) and code != sqlite3.SQLITE_ERROR:
                raise OSError(
                    Message(
                        "index: cannot use {!r} ({}). Free some space, or check the disk and its permissions.",
                        str(self._path),
                        Message(str(error)),
                    )
                ) from error
            raise self.damage(str(error)) from error

    def damage(self, cause: str) -> DamagedIndexError:
        """The error of a damaged catalog."""
        return DamagedIndexError(self._path, " ".join(cause.split()))


class Catalog(Database):
    """Catalog in one SQLite file.

    Args:
        path: Path of the file.
        owner: Name of the index that it belongs to.
        create: Whether to create it. Default: it has to exist.
    """

    def __init__(self, path: Path, owner: str, create: bool = False):
        self._timeline: tuple[tuple[Filter, int, int], list[tuple[int, str]]] | None = None
        if not create and not os.path.exists(path):
            raise DamagedIndexError(path, "it is missing")
        script = "PRAGMA synchronous = FULL; PRAGMA secure_delete = ON;"
        if create:
            script += f" BEGIN IMMEDIATE; {SCHEMA} {WORD_TABLES} INSERT INTO sums {_TAKE_SUMS};"
            script += (
                f" CREATE TABLE identity (owner TEXT NOT NULL); PRAGMA application_id = {FORMAT};"
            )
            quoted = owner.replace("'", "''")  # it comes from a file
            script += f" INSERT INTO identity VALUES ('{quoted}'); COMMIT;"
        super().__init__(path, script)
        if create:  # names are private
            path.chmod(0o600)
        if self.value("PRAGMA application_id") != FORMAT:
            raise self.damage("it is of a different version")
        if self.column("SELECT owner FROM identity") != [owner]:
            raise self.damage("it belongs to a different index")
        for function in (search_text, date_in_name, date_of_folder, name_words):
            self._connection.create_function(function.__name__, 1, function, deterministic=True)
        with self._errors_reported():
            self._connection.executescript(_count_changes())
        if self.column(f"SELECT value = ({_TAKE_SUMS}) FROM sums") != [1]:
            raise self.damage("an entry is lost or changed")

    def verify(self):
        """Check all pages of the file.

        Raises:
            DamagedIndexError: One is damaged.
        """
        if (found := self.value("PRAGMA integrity_check(1)")) != "ok":
            raise self.damage(found)
        self.execute("INSERT INTO words(words, rank) VALUES('integrity-check', 1)")

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
            self.execute("SELECT 1 FROM rotation")  # takes the lock
            yield

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Commit everything within the block, or after an error nothing."""
        with self._transaction("BEGIN IMMEDIATE"):
            yield
            changes = self.column("SELECT change FROM changes")
            sums = map(int, self.value("SELECT value FROM sums").split())
            changed = [total + change for total, change in zip(sums, changes, strict=True)]
            self.execute("UPDATE sums SET value = ?", " ".join(map(str, changed)))
            self.execute("UPDATE changes SET change = 0")

    def _many(self, statement: str, values: Iterable[tuple]):
        with self._lock, self._errors_reported():
            self._connection.executemany(statement, values)

    @property
    def num_rows(self) -> int:
        """Number of rows of vectors, free ones included."""
        # each number below it is in one of these tables; a count would read all of them
        tables = ("contents", "frames", "free_rows")
        last = [f"(SELECT ifnull(max(row), -1) FROM {table})" for table in tables]
        return self.value(f"SELECT max({', '.join(last)}) + 1")

    def free_rows(self) -> np.ndarray:
        """Rows that hold no vector of a file, (N,) int64."""
        return np.array(self.column("SELECT row FROM free_rows ORDER BY row"), np.int64)

    def knows(self, digest: bytes) -> bool:
        """Whether a content has a vector."""
        return bool(self.execute("SELECT 1 FROM contents WHERE digest = ?", digest))

    def digest(self, path: bytes) -> bytes | None:
        """Digest of a file's content; None if the path is not in the index."""
        query = "SELECT digest FROM files JOIN contents USING (row) WHERE path = ?"
        return next(iter(self.column(query, path)), None)

    def failures(self) -> list[tuple[str, str]]:
        """Paths of the files that could not be read, each with its cause, sorted by path."""
        found = self.execute("SELECT path, cause FROM failures ORDER BY path")
        return [(os.fsdecode(path), cause) for path, cause in found]

    def content_rows(self, count: int) -> np.ndarray:
        """For each row below a count, the first row of the same content, (count,) int64."""
        first = np.arange(count)
        for row, content in self.execute("SELECT row, content FROM frames"):
            first[row] = content
        return first

    def files_of_rows(
        self, rows: Iterable[int], chosen: Filter | None = None
    ) -> dict[int, list[File]]:
        """The files of each row that pass a filter, the one to show first."""
        where, values = (chosen or Filter()).condition()
        found: dict[int, list[File]] = {int(row): [] for row in rows}
        query = f"SELECT * FROM ({_FILES_OF_ROWS}){where} ORDER BY mtime_ns, path"
        for *entry, seconds in self.execute(query, json.dumps([*found]), *values):
            file = self._file(entry, seconds)
            found[file.row].append(file)
        if not all(found.values()):
            raise self.damage("a vector has no file")
        return found

    def _file(self, entry: Sequence, seconds: float | None = None) -> File:
        number, path, row, date, size, mtime_ns = entry
        if seconds is None and extension_of(path) in VIDEOS:
            seconds = 0.0
        state = FileState(path, size, mtime_ns)
        return File(number, os.fsdecode(path), row, date, state, seconds)

    def file(self, number: int, seconds: float | None = None) -> File | None:
        """The file of an id, of a video with the row of a key frame, by default the first; None if there is none."""
        found = self.execute(f"{_FILES} WHERE id = ?", number)
        file = self._file(found[0]) if found else None
        if file is None or not seconds:
            return file
        query = "SELECT row FROM frames WHERE content = ? AND seconds = ?"
        rows = self.column(query, file.row, seconds)
        return replace(file, row=rows[0], seconds=seconds) if rows else None

    def file_at(self, path: bytes) -> File | None:
        """The file of a path; None if it is not in the index."""
        found = self.execute(f"{_FILES} WHERE path = ?", path)
        return self._file(found[0]) if found else None

    def timeline(self, chosen: Filter) -> list[tuple[int, str]]:
        """Rows of the contents with a file that passes a filter, newest first, with the date of the file to show.

        The last answer is kept until the catalog changes, because a page asks for it part by part.
        """
        with self._lock:
            # the first number is of what others commit
            key = chosen, self.value("PRAGMA data_version"), self._connection.total_changes
            if self._timeline is None or self._timeline[0] != key:
                where, values = chosen.condition()
                # bare columns come from the row with min()
                query = f"SELECT row, date, path, min(mtime_ns) FROM ({_FILES}){where} GROUP BY row"
                rows = self.execute(
                    f"SELECT row, date FROM ({query}) ORDER BY date DESC, path", *values
                )
                self._timeline = key, rows
            return self._timeline[1]

    def rows_of_files(self, chosen: Filter) -> np.ndarray:
        """Rows of the files that pass a filter, (N,) int64, each row once."""
        where, values = chosen.condition()
        found = self.column(f"SELECT DISTINCT row FROM ({_FILES}){where}", *values)
        return np.array(found, np.int64)

    def find_words(self, query: str) -> Found:
        """The files that have the words of a query in their names."""
        return search(
            query,
            lambda words: {*self.column("SELECT rowid FROM words WHERE words MATCH ?", words)},
            lambda start: self.column(
                "SELECT term FROM terms WHERE term BETWEEN ? AND ?", start, f"{start}\U0010ffff"
            ),
        )

    def rows_of_ids(self, ids: Iterable[int]) -> dict[int, int]:
        """The row of each file of some ids."""
        listed = json.dumps([*ids])
        query = "SELECT id, row FROM files WHERE id IN (SELECT value FROM json_each(?))"
        return dict(self.execute(query, listed))

    def forget_folder(self, folder: Path) -> int:
        """Remove the files below a folder, and return their number."""
        limits = _range(os.fsencode(folder))
        with self.writing():
            rows = self.column(f"DELETE FROM files WHERE {_BELOW} RETURNING row", *limits)
            self.execute(f"DELETE FROM failures WHERE {_BELOW}", *limits)
            self._free(rows)
        return len(rows)

    @property
    def rotation(self) -> np.ndarray | None:
        """Rotation from the teacher's space to the space of the index, (D, D) float32; None if there is none."""
        for checksum, matrix in self.execute("SELECT checksum, matrix FROM rotation"):
            if checksum != zlib.crc32(matrix):
                raise self.damage("its rotation has a wrong checksum")
            return np.frombuffer(matrix, "<f4").reshape(math.isqrt(len(matrix) // 4), -1)
        return None

    @rotation.setter
    def rotation(self, matrix: np.ndarray):
        content = matrix.astype("<f4").tobytes()
        with self.writing():
            self.execute("DELETE FROM rotation")
            self.execute("INSERT INTO rotation VALUES (?, ?)", zlib.crc32(content), content)

    def compare(self, files: Iterable[FileState]) -> tuple[int, int, int]:
        """Record which files exist now, for `pending`, the newest first, and for `remove_missing`.

        Returns the numbers of files, of files that the index has in this state, and of new or changed ones.
        """
        with self._transaction("BEGIN"):
            for statement in _COMPARISON:
                self.execute(statement)
            states = ((file.path, file.size, file.mtime_ns) for file in files)
            self._many("INSERT OR IGNORE INTO seen (path, size, mtime_ns) VALUES (?, ?, ?)", states)
            self.execute(_FIND_PENDING)
            self.execute(
                "DELETE FROM failures WHERE path IN (SELECT path FROM seen JOIN files USING (path, size, mtime_ns))"
            )
        return (
            self.value("SELECT count(*) FROM seen"),
            self.value("SELECT count(*) FROM seen JOIN files USING (path, size, mtime_ns)"),
            self.value("SELECT count(*) FROM pending"),
        )

    def pending(self) -> Iterator[bytes]:
        """Paths of the files that are new or changed, in order, read in parts."""
        query = "SELECT position, path FROM pending WHERE position > ? ORDER BY position LIMIT 1000"
        position = 0
        while found := self.execute(query, position):
            yield from (path for _, path in found)
            position = found[-1][0]

    def allocate(self, contents: Sequence[tuple[bytes, str | None, Sequence[float]]]) -> np.ndarray:
        """Give each new content a row, and the further frames of a video the next ones: free rows, then new ones.

        A content is a digest, a date and the times of the further frames in seconds. Call it within `writing()`,
        before any row is freed.
        """
        end = self.num_rows
        count = sum(1 + len(times) for *_, times in contents)
        rows = self.column("SELECT row FROM free_rows ORDER BY row LIMIT ?", count)
        self._many("DELETE FROM free_rows WHERE row = ?", [(row,) for row in rows])
        rows += range(end, end + count - len(rows))
        numbers = iter(rows)
        for digest, taken, times in contents:
            row = next(numbers)
            self.execute("INSERT INTO contents VALUES (?, ?, ?)", row, digest, taken)
            frames = [(next(numbers), row, seconds) for seconds in times]
            self._many("INSERT INTO frames VALUES (?, ?, ?)", frames)
        return np.array(rows, np.int64)

    def add_files(self, files: Sequence[tuple[FileState, bytes]]):
        """Enter files, each with the digest of a known content. Call it within `writing()`."""
        replaced = []
        for state, digest in files:
            replaced += self.column("SELECT row FROM files WHERE path = ?", state.path)
            self.execute(_ENTER_FILE, state.path, state.size, state.mtime_ns, digest)
            self.execute(f"{ENTER_WORDS} WHERE path = ?", state.path)
            self.execute("DELETE FROM failures WHERE path = ?", state.path)
        self._free(replaced)

    def add_failure(self, path: bytes, cause: str, state: FileState | None):
        """Enter a file that cannot be read. Call it within `writing()`.

        An earlier state of the file leaves the index if it fails lastingly, in a `state`. Without one it stays, and
        the next run reads the file again.
        """
        known = (state.size, state.mtime_ns) if state else (None, None)
        self.execute("INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?)", path, *known, cause)
        if state is not None:
            self._free(self.column("DELETE FROM files WHERE path = ? RETURNING row", path))

    def remove_missing(
        self, folders: Iterable[Path], unreadable: Iterable[bytes]
    ) -> tuple[int, int]:
        """Remove the files below folders that `compare` did not see, except at or below unreadable paths.

        Returns the numbers of files that were removed, and of those that were moved: their content has a new path.
        """
        with self.writing():
            below = f"SELECT path FROM files WHERE {_BELOW}"
            for path in unreadable:
                self.execute(f"INSERT OR IGNORE INTO seen (path) {below}", *_range(path))
            rows: list[int] = []
            for folder in folders:
                limits = _range(os.fsencode(folder))
                missing = f"{_BELOW} AND path NOT IN (SELECT path FROM seen)"
                rows += self.column(f"DELETE FROM files WHERE {missing} RETURNING row", *limits)
                self.execute(f"DELETE FROM failures WHERE {missing}", *limits)
            self._free(rows)
            moved = 0
            for row, number in Counter(rows).items():
                moved += min(number, self.value(_COUNT_ENTERED, row))
        return len(rows) - moved, moved

    def count_below(self, folder: Path) -> int:
        """Number of files at or below a path."""
        limits = _range(os.fsencode(folder))
        return self.value(f"SELECT count(*) FROM files WHERE {_BELOW}", *limits)

    def count_seen(self, folder: Path) -> int:
        """Number of files below a folder that the last `compare` saw."""
        return self.value(f"SELECT count(*) FROM seen WHERE {_BELOW}", *_range(os.fsencode(folder)))

    def _free(self, rows: Iterable[int]):
        """Free the rows that no file refers to any more."""
        candidates = [(row,) for row in set(rows)]
        if not candidates:
            return
        unused = (
            "row = ? AND row NOT IN (SELECT files.row FROM files WHERE files.row = contents.row)"
        )
        self._many(f"INSERT INTO free_rows SELECT row FROM contents WHERE {unused}", candidates)
        self._many(f"DELETE FROM contents WHERE {unused}", candidates)
        orphans = "content NOT IN (SELECT row FROM contents)"
        self.execute(f"INSERT INTO free_rows SELECT row FROM frames WHERE {orphans}")
        self.execute(f"DELETE FROM frames WHERE {orphans}")
        # FTS5 keeps deleted words until it merges its parts
        self.execute("INSERT INTO words (words) VALUES ('optimize')")


_COMPARISON = (
    "DROP TABLE IF EXISTS temp.seen",
    "DROP TABLE IF EXISTS temp.pending",
    "CREATE TEMP TABLE seen (position INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, size INTEGER, mtime_ns "
    "INTEGER)",
    # row: the row of the path before it is read again
    "CREATE TEMP TABLE pending (position INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, row INTEGER)",
)
# newest first by what a name says, so that the photographs that people look for are searched early
_FIND_PENDING = f"""
INSERT INTO pending (path, row) SELECT path, (SELECT row FROM files WHERE files.path = seen.path) FROM seen
WHERE NOT EXISTS (SELECT 1 FROM files WHERE files.path = seen.path
                  AND files.size = seen.size AND files.mtime_ns = seen.mtime_ns)
  AND NOT EXISTS (SELECT 1 FROM failures WHERE failures.path = seen.path
                  AND failures.size = seen.size AND failures.mtime_ns = seen.mtime_ns)
ORDER BY coalesce(date_in_name(path), date_of_folder(path), {_MODIFIED}) DESC, position
"""
_ENTER_FILE = """
INSERT INTO files (path, size, mtime_ns, row) SELECT ?1, ?2, ?3, row FROM contents WHERE digest = ?4
ON CONFLICT (path) DO UPDATE SET size = ?2, mtime_ns = ?3, row = excluded.row
"""
_COUNT_ENTERED = """
SELECT count(*) FROM files JOIN pending USING (path) WHERE files.row = ? AND pending.row IS NOT files.row
"""
_BELOW = "(path = ? OR path > ? AND path < ?)"


def _range(path: bytes) -> tuple[bytes, bytes, bytes]:
    """A path, and the limits of the paths below it: they start with the path and a separator."""
    start = os.path.join(path, b"")
    return path, start, start[:-1] + bytes([start[-1] + 1])


def require_own_file(path: Path):
    """Refuse what stands in place of a file that an index writes: a link out of it, a pipe or a device.

    Raises:
        DamagedIndexError: The path exists and is not a regular file.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise DamagedIndexError(path, "it is a link, or not a file")


def read_owner(path: Path) -> str | None:
    """Name of the index that a catalog belongs to; None if the file does not tell."""
    with suppress(DamagedIndexError), closing(Database(path, "")) as found:
        return found.value("SELECT owner FROM identity")
    return None


def distinct_files(files: Sequence[File]) -> list[File]:
    """One path per file, in order: links are not copies, and missing files only count if all are missing."""
    if len(files) == 1:  # most photographs of a search: no look at the disk
        return [*files]
    paths: dict[tuple[int, int], list[File]] = defaultdict(list)
    for file in files:
        # the file is gone, or the path is the name of an image in a collection
        with suppress(OSError, ValueError):
            found = os.stat(file.path)
            paths[found.st_dev, found.st_ino].append(file)
    distinct = {
        min(same, key=lambda file: os.path.realpath(file.path) != file.path)
        for same in paths.values()
    }
    return [file for file in files if file in distinct] or [*files]
