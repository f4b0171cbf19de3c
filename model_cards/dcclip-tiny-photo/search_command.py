"""The commands of `dcclip` on an index: index, search, serve, adapt, duplicates and status."""

import argparse
import sys
import time
import warnings
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unicodedata import category

if __package__:
    from .adapt_dcclip import adapt_index
    from .command import PROGRAM, default_model, is_utf8, print_json, print_note
    from .duplicates_dcclip import find_duplicates
    from .graph_dcclip import check_engine
    from .index_dcclip import Hit, Index
    from .indexing_dcclip import Report, count_extensions, outermost, require_images
    from .manifest_dcclip import MANIFEST
    from .query_dcclip import QueryWarning
    from .serve_dcclip import LOOPBACK, SearchServer
    from .status_dcclip import read_status
    from .thumbnails_dcclip import write_contact_sheet
    from .upgrade_dcclip import upgrade_index
else:  # in a model folder
    from adapt_dcclip import adapt_index  # type: ignore[no-redef]
    from command import PROGRAM, default_model, is_utf8, print_json, print_note  # type: ignore[no-redef]
    from duplicates_dcclip import find_duplicates  # type: ignore[no-redef]
    from graph_dcclip import check_engine  # type: ignore[no-redef]
    from index_dcclip import Hit, Index  # type: ignore[no-redef]
    from indexing_dcclip import Report, count_extensions, outermost, require_images  # type: ignore[no-redef]
    from manifest_dcclip import MANIFEST  # type: ignore[no-redef]
    from query_dcclip import QueryWarning  # type: ignore[no-redef]
    from serve_dcclip import LOOPBACK, SearchServer  # type: ignore[no-redef]
    from status_dcclip import read_status  # type: ignore[no-redef]
    from thumbnails_dcclip import write_contact_sheet  # type: ignore[no-redef]
    from upgrade_dcclip import upgrade_index  # type: ignore[no-redef]

CONTACT_SHEET = "contact_sheet.html"
SHOWN_FAILURES = 20
REDRAW_S = 0.2
CONTROLS = ("Cc", "Cs")  # Unicode categories: control characters, and bytes that are not UTF-8


def run_index(options: argparse.Namespace):
    """Index folders, or remove one, and print what was done."""
    exists = (options.index / MANIFEST).is_file()
    if options.forget is not None:
        _forget(options)
        return
    if options.upgrade is not None:
        _upgrade(options)
        return
    if not exists and not options.folders:
        raise ValueError(f"folder: got none, and there is no index in {str(options.index)!r}. Name a folder.")
    # refuses a wrong name before a model is loaded, and a folder without images before an index is created
    if exists:
        outermost(options.folders)
    else:
        require_images(options.folders, options.exclude or ())
    check_engine(options.engine or "scan")
    model = options.model if exists else options.model or default_model()
    with (
        Index.open(
            options.index,
            model,
            create=True,
            dtype=options.dtype,
            truncate_dim=options.truncate_dim,
            model_id=options.model_id,
        ) as index,
        _progress("images") as show,
    ):
        if options.engine == "scan":
            index.use_engine("scan")
        report = index.add(*options.folders, progress=show, exclude=options.exclude)
        files = len(index)
        if options.engine == "usearch":
            index.use_engine("usearch", show)
    _print_report(report, files, options)
    if report.missing:
        raise SystemExit(1)


def _forget(options: argparse.Namespace):
    """Remove a folder from an index."""
    names = ("folders", "model", "model_id", "dtype", "truncate_dim", "engine", "upgrade", "exclude")
    if given := [name for name in names if getattr(options, name) not in (None, [])]:
        raise ValueError(
            f"forget: takes one folder, and no {' or '.join(given)}. First run dcclip index --forget FOLDER, then the "
            "other command."
        )
    with Index.open(options.index) as index:
        removed = index.forget(options.forget)
    if options.json:
        print_json({"removed": removed})
    else:
        print(f"{_count(removed, 'file')} removed")


def _upgrade(options: argparse.Namespace):
    """Embed an index again with another model."""
    if options.folders or options.model or options.engine or options.exclude:
        raise ValueError(
            "upgrade: takes no folders, no --model, no --engine and no --exclude. First run dcclip index, then the "
            "upgrade."
        )
    with Index.open(options.index) as index, _progress("images") as show:
        report = upgrade_index(
            index,
            options.upgrade,
            model_id=options.model_id,
            dtype=options.dtype,
            truncate_dim=options.truncate_dim,
            progress=show,
        )
        files = len(index)
    _print_report(report, files, options)


def _print_report(report: Report, files: int, options: argparse.Namespace):
    if options.json:
        print_json(vars(report) | {"files": files, "index": str(options.index)})
        return
    parts = [_count(report.embedded, "image") + " embedded", f"{report.unchanged:,} unchanged"]
    parts += [f"{report.copies:,} {'copy' if report.copies == 1 else 'copies'} of others"] if report.copies else []
    parts += [f"{report.moved:,} moved"] if report.moved else []
    parts += [f"{report.removed:,} removed"] if report.removed else []
    parts += [f"{len(report.failures):,} unreadable"] if report.failures else []
    print(f"{_count(files, 'file')} in the index: {', '.join(parts)} ({report.seconds:.1f} s)")
    if report.repaired:
        print(f"the vectors of {_count(report.repaired, 'file')} were lost, and are embedded again")
    for path, cause in report.failures[:SHOWN_FAILURES]:
        _print_line(f"unreadable: {path} ({cause})")
    if len(report.failures) > SHOWN_FAILURES:
        print(f"and {len(report.failures) - SHOWN_FAILURES:,} more; --json lists all of them")
    for folder in report.unreadable:
        _print_line(f"unreadable folder: {folder} (what the index has of it stays)")
    for folder in report.missing:
        _print_line(f"missing folder: {folder} (what the index has of it stays; mount its disk, or pass --forget)")
    for pattern in report.unmatched:
        compared = "; a pattern with a slash is compared with the path below the folder, or from the root"
        _print_line(f"nothing matches --exclude {pattern}{compared if '/' in pattern else ''}")
    if report.raw:
        print(f"raw photographs are not indexed: {count_extensions(report.raw)}")


def run_search(options: argparse.Namespace):
    """Print scores and paths, most similar first."""
    limits = {"top": options.top, "after": options.after, "before": options.before, "path": options.path}
    with Index.open(options.index, options.model, model_id=options.model_id) as index, _notes_printed():
        hits = index.search(*options.texts, without=options.without, images=options.images, **limits)
        if not hits:
            print_note(_why_nothing(index, options))
    if options.json:
        print_json([_entry(hit) for hit in hits])
    else:
        for hit in hits:
            _print_line(f"{hit.score:.3f}  {hit.path}")
    if options.open:
        sheet = (options.index / CONTACT_SHEET).absolute()
        title = " + ".join([*options.texts, *(image.name for image in options.images)])
        write_contact_sheet(hits, " - ".join([title, *options.without]), sheet)
        webbrowser.open(sheet.as_uri())
        print(f"{PROGRAM}: wrote {sheet}", file=sys.stderr)


def _why_nothing(index: Index, options: argparse.Namespace) -> str:
    """Why a search has no result."""
    if not len(index):
        return "the index has no photographs"
    hint = "; a pattern with * or ? has to match the whole path" if {*"*?"} & {*(options.path or "")} else ""
    return f"no photograph passes the filters (of {len(index):,}){hint}"


def _entry(hit: Hit) -> dict[str, Any]:
    return {"path": hit.path, "score": round(hit.score, 6), "date": hit.taken, "copies": list(hit.copies)}


def run_serve(options: argparse.Namespace):
    """Serve the page until the process is stopped."""
    if not 0 <= options.port < 65536:
        raise ValueError(f"port: got {options.port}, expected 0 to 65535.")
    with Index.open(options.index, options.model, model_id=options.model_id) as index:
        index.check_model()
        try:
            server = SearchServer(index, options.host, options.port)
        except OSError as error:
            raise OSError(
                f"port: cannot listen on {options.host}:{options.port} ({error.strerror or error}). Choose another "
                "--host or --port."
            ) from error
        with server:
            print(server.url, flush=True)
            if options.host not in LOOPBACK:
                print_note("everyone who reaches this address sees the photographs of the index")
            if options.open:
                webbrowser.open(server.url)
            try:
                server.serve_forever()
            except KeyboardInterrupt:  # how a user ends it
                return


def run_adapt(options: argparse.Namespace):
    """Fit a map from the space of a model to that of the index, and print its quality."""
    if options.sample < 1:
        raise ValueError(f"sample: got {options.sample}, expected at least 1.")
    model = options.model or default_model()
    with Index.open(options.index) as index, _progress("images") as show:
        fitted = adapt_index(index, model, model_id=options.model_id, sample=options.sample, progress=show)
    if options.json:
        print_json({name: value for name, value in vars(fitted).items() if name != "matrix"})
    else:
        print(
            f"map of rank {fitted.rank} from {_count(fitted.num_pairs, 'image')}; mean cosine on held-out images "
            f"{fitted.cosine:.3f}, of the orthogonal map alone {fitted.orthogonal_cosine:.3f}"
        )


def run_duplicates(options: argparse.Namespace):
    """Print groups of near duplicates, each with the similarity to its first photograph."""
    with Index.open(options.index) as index, _notes_printed():
        with _progress("pairs") as show:
            groups = find_duplicates(index, options.threshold, show)
        if not groups:
            print_note(f"no near duplicates among {_count(len(index), 'file')} at a cosine of {options.threshold}")
    if options.json:
        print_json([[{"path": each.path, "score": round(each.score, 6)} for each in group] for group in groups])
        return
    for number, group in enumerate(groups):
        if number:
            print()
        for each in group:
            _print_line(f"{each.score:.3f}  {each.path}")


def run_status(options: argparse.Namespace):
    """Print what an index has, and what it left out."""
    with Index.open(options.index) as index:
        status = read_status(index)
    if options.json:
        print_json(vars(status) | {"index": str(options.index)})
        return
    _print_line(f"{options.index}: {_count(status.files, 'file')}, {status.bytes / 1e6:,.1f} MB")
    model = status.model + ("" if status.has_model else " (missing)")
    _print_line(f"model: {model}; vectors: {status.dtype}, {status.dimension} dimensions, {status.engine}")
    notes = dict.fromkeys(status.missing, " (missing)") | dict.fromkeys(status.unmounted, " (its disk is not mounted)")
    for folder, files in (status.folders | status.unmounted).items():
        _print_line(f"{files:9,}  {folder}{notes.get(folder, '')}")
    for folder in status.forgotten:
        _print_line(f"left out: {folder}")
    for folder, patterns in status.excluded.items():
        _print_line(f"left out of {folder}: {', '.join(patterns)}")
    for cause, number in status.failures.items():
        print(f"unreadable: {_count(number, 'file')} ({cause})")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _print_line(text: str):
    """Print a line; a path keeps its bytes, UTF-8 or not, but a terminal gets no control characters to obey."""
    if sys.stdout.isatty():
        text = "".join(f"\\x{ord(each) & 0xFF:02x}" if category(each) in CONTROLS else each for each in text)
    if is_utf8(sys.stdout):
        sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]  # a text file, here and under test
    print(text)


@contextmanager
def _notes_printed() -> Iterator[None]:
    """Print the warnings about a query as notes on stderr."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", QueryWarning)
        yield
    for each in caught:
        kind = "note" if issubclass(each.category, QueryWarning) else "warning"
        print(f"{PROGRAM}: {kind}: {each.message}", file=sys.stderr)


class _progress:
    """Progress line on a terminal: number done, rate and time left."""

    def __init__(self, noun: str):
        self.noun, self.is_shown = noun, sys.stderr.isatty()
        self.began = self.drawn = time.monotonic()

    def __enter__(self) -> "_progress":
        return self

    def __exit__(self, *error: object):
        if self.is_shown:
            print(end="\r\033[K", file=sys.stderr, flush=True)

    def __call__(self, done: int, total: int):
        now = time.monotonic()
        if not self.is_shown or (now - self.drawn < REDRAW_S and done < total):
            return
        self.drawn = now
        rate = done / max(now - self.began, 1e-9)
        minutes, seconds = divmod(round((total - done) / max(rate, 1e-9)), 60)
        left = f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"
        line = f"{done:,} of {total:,} {self.noun}, {rate:,.{0 if rate >= 100 else 1}f} a second, {left} left"
        print(f"\r{line}\033[K", end="", file=sys.stderr, flush=True)
