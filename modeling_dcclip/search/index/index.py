"""An index of photographs on disk: add folders, search in Chinese or English.

    from modeling_dcclip.search.index import Index

    index = Index.open("photos.index", model="runs/edge", create=True)
    index.add("Photos")
    for hit in index.search("海边的日落", top=5):
        print(hit.score, hit.path)

An index is a folder with settings, and a catalog of files and their vectors: see settings.py.
"""

import os
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from modeling_dcclip.runtime_dcclip import ImageInput, Runtime
from modeling_dcclip.search.index.catalog import File, distinct_files
from modeling_dcclip.search.index.hubs import Hubs, read_bank
from modeling_dcclip.search.index.indexing import Progress, Report, update
from modeling_dcclip.search.index.settings import (
    BusyError,
    Settings,
    check_data,
    create_index,
    empty_data,
    has_index,
    open_catalog,
    read_settings,
    remove_stale_data,
    write_lock,
    write_settings,
)
from modeling_dcclip.search.index.space import Space
from modeling_dcclip.search.index.vectors import VectorStore, best_of_each, largest
from modeling_dcclip.search.messages import Message, UserError
from modeling_dcclip.search.query.fit import (
    FIRST,
    MAYBE,
    NOUNS,
    correct,
    judge,
    name_share,
    standardize,
)
from modeling_dcclip.search.query.query import LOOKED, Filter, QueryWarning, embed_query
from modeling_dcclip.search.query.words import Found, find_in

AT_ONCE = 10_000  # vectors in memory
AHEAD = 2.0  # more than any cosine similarity, so what words find comes first


@dataclass(frozen=True)
class Hit:
    """A photograph that a search found.

    Args:
        path: Absolute path, or the name that the index was given, as by `training/embed.py`.
        score: Cosine similarity to the query, -1 to 1; for a text, less what hubs have with all texts: `correct`. None
            without a query.
        taken: Date and time at which it was taken, else of the file, `YYYY-MM-DD HH:MM:SS`.
        copies: Paths of other files with the same content, without links to the file and files that are gone.
        id: Number of the file in the index; another file may have it later.
        version: Digest of the file's path, size and time, 16 hexadecimal digits.
        is_current: Whether the file is there, and has not changed since it was indexed.
        seconds: Time of the key frame of a video that is most similar, from its start; None for a photograph.
        fit: Probability that it shows what the query describes, 0 to 1. None for a query with example images, and
            if the model is not calibrated.
        fits: Whether the photograph is above the line; see `judge` in fit.py. True without a probability.
        words: The words of the query that the names of the file and its folders have, as they are written there; none
            if it is found by what it shows.
        size: Size of the file in bytes.
    """

    path: str
    score: float | None
    taken: str
    copies: tuple[str, ...]
    id: int
    version: str
    is_current: bool
    seconds: float | None = None
    fit: float | None = None
    fits: bool = True
    words: tuple[str, ...] = ()
    size: int = 0

    @property
    def time(self) -> str:
        """Time of the key frame of a video, such as `0:42`; empty for a photograph."""
        if self.seconds is None:
            return ""
        minutes, seconds = divmod(int(self.seconds), 60)
        return f"{minutes}:{seconds:02}"


class Index:
    """An index that was opened with `Index.open`; it may be used from several threads."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        model: Runtime | str | Path | None = None,
        model_id: str | None = None,
    ):
        self.folder = folder
        self._model = model
        self._model_id = model_id
        # what was wrong with data that the next update computes again
        self._lost: str | None = None
        self._lock = threading.RLock()
        self._load(settings)

    def _load(self, settings: Settings):
        self.settings, self.space = settings, settings.space
        self.catalog = open_catalog(self.folder, settings)
        self.store = VectorStore(self.catalog, self.space.dimension)
        self._runtime: Runtime | None = None
        self._map: np.ndarray | None = None
        self._nouns: np.ndarray | None = None
        self._bank: np.ndarray | None = None
        self._files = ""  # fingerprint of those that encode
        self.hubs = Hubs(self.catalog, self.store)

    def refresh(self):
        """Switch to the result of an upgrade, or to an index that replaced this one. Searches call this method."""
        with self._lock:
            current = self.settings
            settings = read_settings(self.folder)
            if (settings.id, settings.data) != (current.id, current.data):
                self._load(settings)
            self.settings = settings

    @property
    def folders(self) -> dict[Path, list[str]]:
        """The indexed folders, each with the patterns of what stays out of it."""
        return dict(sorted(self.settings.folders.items()))

    def _change(self, settings: Settings):
        """Write changed settings. Call it within the lock of the index."""
        write_settings(self.folder, settings)
        self.settings = settings

    @classmethod
    def open(
        cls,
        folder: str | Path,
        model: Runtime | str | Path | None = None,
        *,
        create: bool = False,
        truncate_dim: int | None = None,
        model_id: str | None = None,
    ) -> "Index":
        """Open an index.

        Args:
            folder: Folder of the index.
            model: Model to search and to add with, or its folder. Default: the model that wrote the index.
            create: Whether to create an index that does not exist, which then belongs to `model`. The data of an index
                are checked, and damaged ones removed, so that `add` computes them again.
            truncate_dim: Number of leading dimensions of the embeddings that a new index stores. Default: all.
            model_id: Hub id of the model; its students and their indexes are recognized by it. Default: its folder.

        Raises:
            ValueError: The folder has no index, the format version or number of dimensions differs, or the model has a
                different embedding space.
        """
        folder = Path(folder)
        if create and not has_index(folder):
            runtime = open_model(model, truncate_dim)
            return cls(folder, create_index(folder, runtime, Space.of(runtime, model_id)), runtime)
        settings = read_settings(folder)
        lost = None
        if truncate_dim not in (None, settings.space.dimension):
            raise UserError(
                "truncate_dim: the index {!r} has {} dimensions, not {}. Choose a new folder with --index.",
                str(folder),
                settings.space.dimension,
                truncate_dim,
            )
        if create:
            with suppress(BusyError), write_lock(folder):  # a process that writes has checked it
                settings = read_settings(folder)
                if lost := check_data(folder, settings):
                    runtime = open_model(settings.model if model is None else model)
                    settings = empty_data(folder, settings, runtime)
        index = cls(folder, settings, model, model_id)
        index._lost = lost
        if model is not None:
            _ = index.runtime
        return index

    def close(self):
        """Close the files of the index."""
        self.catalog.close()

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, *error: object):
        self.close()

    def __len__(self) -> int:
        """Number of files."""
        return self.catalog.value("SELECT count(*) FROM files")

    @property
    def model_folder(self) -> str:
        """Folder of the model that wrote the index."""
        return self.settings.model

    def count(self, chosen: Filter) -> int:
        """Number of photographs that pass a filter, each content once."""
        return len(self.catalog.rows_of_files(chosen))

    def id_of(self, path: str) -> int | None:
        """`Hit.id` of a file; None if it is not in the index."""
        file = self.catalog.file_at(os.fsencode(path))
        return file.id if file else None

    @property
    def runtime(self) -> Runtime:
        """The model, loaded on first use."""
        with self._lock:
            if self._runtime is None:
                folder = self.settings.model
                runtime = open_model(folder if self._model is None else self._model)
                space = Space.of(runtime, self._model_id)
                found = self.match(runtime, space)
                if found is None:
                    raise UserError(
                        "model: {!r} (dimensions: {}) has a different embedding space than the index {!r}, "
                        "which belongs to {!r} (dimensions: {}). Search with that model or one of its "
                        "students, or embed again: dcclip index --upgrade {}.",
                        space.model,
                        space.dimension,
                        str(self.folder),
                        self.space.model,
                        self.space.dimension,
                        runtime.folder,
                    )
                if self._model is None and self.space.files != space.files:
                    message = Message(
                        "the files of {!r} have changed since it wrote the index", folder
                    )
                    warnings.warn(message, QueryWarning, stacklevel=3)
                self._runtime, self._map = found
                self._files = space.files
            return self._runtime

    def match(self, runtime: Runtime, space: Space) -> tuple[Runtime, np.ndarray | None] | None:
        """How a model searches the index: the model, truncated if it has to be, and the map from its space, or None.

        The map is (D_model, D_index) float32, and None if the spaces are the same. None instead of both tells that the
        embeddings cannot be compared.
        """
        rotations = self.space.rotations(space)
        dimension = self.space.dimension
        if rotations is None or space.dimension < dimension:
            return None
        if rotations[0] == rotations[1]:
            return runtime.truncated(dimension), None
        identity = np.eye(space.dimension, dtype=np.float32)
        ours = identity if rotations[0] is None else self.catalog.rotation
        theirs = identity if rotations[1] is None else runtime.rotation
        if ours is None or theirs is None or not len(ours) == len(theirs) == space.dimension:
            return None  # the rotation is not known, or the model is truncated
        return runtime, (theirs.T @ ours)[:, :dimension]

    def add(
        self,
        *folders: str | Path,
        progress: Progress | None = None,
        exclude: Sequence[str] | None = None,
    ) -> Report:
        """Bring the index up to date with folders. Unchanged files are not read, deleted ones leave the index.

        Args:
            folders: Folders of photographs. Default: the folders that were added before, without those that are
                missing or empty now: `Report.missing`.
            progress: Function that is called with the number of files done and the number to do.
            exclude: Patterns with `*` and `?` of what stays out of these folders, now and in later runs: of names of
                files and folders, or with a slash of paths below the folder or from the root. Default: as before; an
                empty list clears them.

        Returns:
            What was done.

        Raises:
            ValueError: A named folder, or all of them, do not exist or have no images, another process writes to the
                index, or the model does not give the embeddings of the index.
            OSError: The disk is full or cannot be written. What was committed stays.
        """
        named = [Path(folder).resolve() for folder in folders]
        if not named and not self.settings.folders:
            raise ValueError(
                "folder: got none, and the index has none yet. Name a folder of photographs."
            )
        with self.writing():
            runtime = self.runtime
            if change := Space.of(runtime).change(self.space):
                raise UserError(
                    "model: it is not the model that wrote the index ({}). Only that model may add "
                    "photographs. Pass it with --model, embed all photographs again (dcclip index --upgrade "
                    "{}), or choose a new folder with --index.",
                    change,
                    runtime.folder,
                )
            report = update(
                self.catalog,
                self.store,
                runtime,
                self.folders,
                lambda folders: self._change(replace(self.settings, folders=folders)),
                named=named,
                progress=progress,
                exclude=exclude,
            )
            self.hubs.write(self.bank, self.nouns)
            report.lost = self._lost
            self._lost = None
            return report

    def forget(self, folder: str | Path) -> int:
        """Remove an indexed folder. No photograph is touched. A path over symbolic links names the same folder.

        Returns:
            Number of files that left the index.

        Raises:
            ValueError: The folder is not one of those that were indexed, or another process writes to the index.
        """
        path = Path(folder).resolve()
        with self.writing():
            known = self.folders
            if path not in known:
                raise UserError(
                    "folder: {!r} is not one of {}. To leave out a folder inside one, pass --exclude.",
                    str(path),
                    ", ".join(map(str, known)) or "none",
                )
            removed = self.catalog.forget_folder(path)
            del known[path]
            self._change(replace(self.settings, folders=known))
            return removed

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock of the index."""
        with write_lock(self.folder):
            self.refresh()
            remove_stale_data(self.folder)
            yield

    def search(
        self,
        text: str = "",
        *,
        without: Sequence[str] = (),
        images: Sequence[ImageInput | np.ndarray] = (),
        like: Sequence[tuple[int, float | None]] = (),
        top: int = 20,
        skip: int = 0,
        after: str | None = None,
        before: str | None = None,
        path: str | None = None,
        every: str | None = None,
    ) -> list[Hit]:
        """Find photographs.

        Args:
            text: What the photograph shows, in Chinese or English.
            without: What it should not show; half the embedding of each text is subtracted.
            images: Example images, or their embeddings, added to the query.
            like: Example photographs of the index, added to the query: `(Hit.id, Hit.seconds)` of each.
            top: Maximum number of results, at least 1.
            skip: Number of results to leave out at the beginning.
            after: First date, `YYYY`, `YYYY-MM` or `YYYY-MM-DD`.
            before: Last date, in the same form.
            path: Part of the path, or a pattern of the whole path with `*` and `?`.
            every: Days of every year: `weekend`, a month as `MM`, a day as `MM-DD`, or a feast such as `christmas`.

        Returns:
            The photographs: those with all words of the text in their name, then the others, each most similar first.
            Copies of one file are one result.

        Raises:
            ValueError: The query is empty, an example image cannot be read, the index has no photograph of an id, or
                a filter is malformed.

        Warns:
            QueryWarning: A text is truncated, or has characters or words that are not in the model's vocabulary.
                Files of the results are gone or have changed.
        """
        chosen = Filter(after, before, path, every)
        self.refresh()
        query: np.ndarray = np.zeros(self.space.dimension, np.float32)
        is_text = bool(text and not images and not like)
        length = 0
        if text or without or images or not like:
            with self._lock:  # one thread at a time uses the tokenizer
                query = self._to_space(embed_query(self.runtime, text, without, images))
                if is_text:
                    length = self.runtime.count_tokens(text) - self.runtime.count_tokens("")
        with self.catalog.reading():
            for number, seconds in like:
                file = self.catalog.file(number, seconds)
                if file is None:
                    raise UserError("id: the index has no file {}.", number)
                query = query + self.store.read(np.array([file.row]))[0]
            query = query / max(np.linalg.norm(query), 1e-6)
            count = self.catalog.num_rows
            first = self.catalog.content_rows(count)
            found = self.catalog.find_words(text)
            ahead = self._ahead(found, count)[first]
            scores = self.store.scores(query, count)
            if is_text:
                hubs = self.hubs.numbers(count, self.bank, self.nouns)
                scores = correct(scores, hubs, name_share(length))
            unfiltered = scores
            allowed = self._allowed(count, chosen)
            scores = scores + AHEAD * ahead
            scores[~allowed[first]] = -np.inf
            rows = largest(best_of_each(scores, first), skip + top)
            ahead = ahead[rows]
            scores = scores[rows] - AHEAD * ahead
            judged = None
            if is_text and self.runtime.fit is not None:
                by_score = np.argsort(-scores, kind="stable")  # words change no probability
                judged = self._judge(query, rows[by_score], unfiltered, first, name_share(length))
                for values in judged:
                    values[by_score] = values.copy()
            files = self.catalog.files_of_rows(rows[skip:], chosen)
        scores = np.clip(scores, -1, 1)  # stored vectors have unit length up to rounding
        hits = hits_of(files.values(), scores[skip:])
        if judged is not None:
            probabilities, listed = (values[skip:].tolist() for values in judged)
            hits = [
                replace(hit, fit=fit, fits=is_listed)
                for hit, fit, is_listed in zip(hits, probabilities, listed, strict=True)
            ]
        return [
            _with_words(hit, found) if has_words else hit
            for hit, has_words in zip(hits, ahead[skip:], strict=True)
        ]

    def _judge(
        self,
        query: np.ndarray,
        rows: np.ndarray,
        scores: np.ndarray,
        first: np.ndarray,
        share: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of rows, (K,), and whether they are listed, (K,), with all photographs as the background.

        Args:
            query: Embedding of the query, (D,).
            rows: Rows of a search, highest score first, (K,).
            scores: Scores of all rows, (N,), whatever the filter.
            first: First row of the content of each row, (N,).
            share: `name_share` of the query.
        """
        assert self.runtime.fit is not None
        scores = scores.copy()
        scores[self.catalog.free_rows()] = -np.inf
        scores = best_of_each(scores, first)
        best = largest(scores, FIRST)
        ordered = np.sort(scores[np.isfinite(scores)])
        ranks = len(ordered) - np.searchsorted(ordered, scores[rows], side="right") + 1
        return judge(
            self.standard_scores(rows, query[None], self.nouns),
            np.maximum(ranks, 1),
            self.standard_scores(best, query[None], self.nouns),
            share,
            len(ordered),
            self.runtime.fit,
        )

    def _ahead(self, found: Found, count: int) -> np.ndarray:
        """How far each row is ahead of others by its words: number of scripts, (count,) float32.

        Words that most photographs of a large index have, such as those of a folder around it, tell nothing.
        """
        ahead = np.zeros(count, np.float32)
        rows = self.catalog.rows_of_ids(found.files)
        if len(rows) <= max(LOOKED, len(self) / 2):
            for number, row in rows.items():
                ahead[row] = max(ahead[row], found.files[number])
        return ahead

    def _to_space(self, embeddings: np.ndarray) -> np.ndarray:
        """Embeddings of the model, (..., D_model), in the space of the index, of unit length."""
        if self._map is None:
            return embeddings
        embeddings = embeddings @ self._map
        return embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)

    @property
    def nouns(self) -> np.ndarray:
        """Embeddings of `NOUNS` in the space of the index, (N, D), which a query is compared with."""
        if self._nouns is None:
            self._nouns = self.embed_texts(NOUNS)
        return self._nouns

    @property
    def bank(self) -> np.ndarray | None:
        """Embeddings of the captions of the model's bank in the space of the index, (M, D); None without a bank.

        Raises:
            ValueError: The bank is damaged, or belongs to other weights.
        """
        with self._lock:
            if self._bank is None:
                runtime = self.runtime
                bank = read_bank(runtime, self._files)
                # a model may get its bank while the index is open
                self._bank = None if bank is None else self._to_space(bank)
            return self._bank

    def standard_scores(
        self, rows: np.ndarray, queries: np.ndarray, nouns: np.ndarray
    ) -> np.ndarray:
        """Standard scores of rows (K,) for the most similar of queries (Q, D), (K,); see `standardize` in fit.py."""
        scores = np.zeros(len(rows))
        for start in range(0, len(rows), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            vectors = self.store.read(rows[part])
            scores[part] = standardize((vectors @ queries.T).max(1), vectors @ nouns.T)
        return scores

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings of texts in the space of the index, (N, D) float32, of unit length."""
        with self._lock:  # one thread at a time uses the tokenizer
            return self._to_space(self.runtime.encode_texts(texts))

    def _allowed(self, count: int, chosen: Filter) -> np.ndarray:
        """Rows that may be found, (count,) bool."""
        if chosen == Filter():
            allowed = np.ones(count, bool)
            allowed[self.catalog.free_rows()] = False
        else:
            allowed = np.zeros(count, bool)
            allowed[self.catalog.rows_of_files(chosen)] = True
        return allowed

    def newest(self, top: int = 20, chosen: Filter | None = None, skip: int = 0) -> list[Hit]:
        """The newest photographs that pass a filter, newest first. Copies of one file are one result."""
        chosen = chosen or Filter()
        self.refresh()
        with self.catalog.reading():
            shown = self.catalog.timeline(chosen)[skip : skip + top]
            files = self.catalog.files_of_rows([row for row, _ in shown], chosen)
            return hits_of(files.values(), [None] * len(shown))


def _with_words(hit: Hit, found: Found) -> Hit:
    """A photograph that is found by its words."""
    words = find_in(found.phrases, "\n".join([hit.path, *hit.copies]))
    return replace(
        hit, fit=None if hit.fit is None else 1.0, fits=True, words=tuple(dict.fromkeys(words))
    )


def hits_of(groups: Iterable[Sequence[File]], scores: Iterable[float | None]) -> list[Hit]:
    """Hits of the files of each content, the one to show first, with their scores."""
    hits = []
    for group, score in zip(groups, scores, strict=True):
        first, *others = distinct_files(group)
        hit = Hit(
            path=first.path,
            score=None if score is None else float(score),
            taken=first.taken,
            copies=tuple(other.path for other in others),
            id=first.id,
            version=first.state.version,
            is_current=first.state.is_current(),
            seconds=first.seconds,
            size=first.state.size,
        )
        hits.append(hit)
    if outdated := sum(not hit.is_current for hit in hits):
        text = "files that are gone, or have changed since the last index: {:,}. Run dcclip index"
        warnings.warn(Message(text, outdated), QueryWarning, stacklevel=4)
    return hits


def may_fit(hits: Sequence[Hit]) -> bool:
    """Whether some results may fit, if none surely does; otherwise the index has nothing like it."""
    return any(hit.fit is not None and hit.fit >= MAYBE for hit in hits)


def open_model(
    model: Runtime | str | Path | None, truncate_dim: int | None = None, threads: int | None = 1
) -> Runtime:
    """Open a model. Indexing embeds images side by side, with one thread a session.

    Raises:
        ValueError: The folder is not a model folder.
    """
    if isinstance(model, Runtime):
        return model if truncate_dim is None else model.truncated(truncate_dim)
    return Runtime(model, threads=threads, truncate_dim=truncate_dim)
