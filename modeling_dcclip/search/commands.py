"""The commands of `dcclip` on an index: index, search, serve, duplicates and status."""

import argparse
import os
import sys
import warnings
import webbrowser
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from unicodedata import category

from modeling_dcclip.command import PROGRAM, default_model, is_utf8, print_json, print_note
from modeling_dcclip.messages import translate
from modeling_dcclip.search.duplicates import find_duplicates
from modeling_dcclip.search.index import Index, open_model
from modeling_dcclip.search.indexing import Progress, Report, count_extensions, require_folders
from modeling_dcclip.search.query import QueryWarning, split_query
from modeling_dcclip.search.settings import has_index, read_settings
from modeling_dcclip.search.upgrade import upgrade_index
from modeling_dcclip.search.watch import load_watchfiles, watch

SHOWN_FAILURES = 3  # of each cause
SHOWN_MISFITS = 3  # if no photograph fits
CONTROLS = ("Cc", "Cs")  # Unicode categories: control characters, and bytes that are not UTF-8


def run_index(options: argparse.Namespace):
    """Index folders, remove one, or embed all photographs again, and print what was done."""
    exists = has_index(options.index)
    given = {
        name
        for name in ("folders", "model", "exclude", "forget", "upgrade", "watch")
        if getattr(options, name)
    }
    for name in {"forget", "upgrade"} & given:
        if others := given - {name}:
            raise ValueError(
                f"{name}: cannot be combined with {', '.join(sorted(others))}. Run two commands."
            )
    if options.forget is not None:
        with Index.open(options.index) as index:
            removed = index.forget(options.forget)
        print_json({"removed": removed}) if options.json else _say(f"{_files(removed)} removed")
        return
    if options.watch:
        load_watchfiles()  # a missing package is reported before the work
    limits = {"model_id": options.model_id, "truncate_dim": options.truncate_dim}
    if options.upgrade is not None:
        with Index.open(options.index) as index, _progress("images") as show:
            report = upgrade_index(index, options.upgrade, progress=show, **limits)
            files = len(index)
    else:
        if not exists and not options.folders:
            raise ValueError(
                f"folder: got none, and {str(options.index)!r} has no index. Name a folder."
            )
        # before a model is loaded, and folders without images before an index is created
        require_folders(options.folders, None if exists else options.exclude or ())
        with (
            Index.open(options.index, _model(options), create=True, **limits) as index,
            _progress("images") as show,
        ):
            report = index.add(*options.folders, progress=show, exclude=options.exclude)
            files = len(index)
    _print_report(report, files, options)
    if report.missing:
        raise SystemExit(1)
    if options.watch:
        with (
            Index.open(options.index, _model(options)) as index,
            suppress(KeyboardInterrupt),
        ):  # how a user ends it
            for update in watch(index):
                changed = update.embedded + update.copies + update.moved + update.removed
                if changed or update.failures != report.failures:
                    _print_report(update, len(index), options)
                    sys.stdout.flush()
                report = update


def _model(options: argparse.Namespace) -> Path | None:
    """Model to open an index with; None for the model that the index names.

    Where that folder is gone, such as with an old virtual environment, the default model is tried: it has to fit.
    """
    if options.model is not None:
        return options.model
    if has_index(options.index):
        folder = Path(read_settings(options.index).model)
        if (folder / "config.json").is_file():
            return None
    return default_model()


def _print_report(report: Report, files: int, options: argparse.Namespace):
    if options.json:
        print_json(vars(report) | {"files": files, "index": str(options.index)})
        return
    parts = ["1 image embedded" if report.embedded == 1 else f"{report.embedded:,} images embedded"]
    parts += [f"{report.unchanged:,} unchanged"]
    parts += (
        [f"{report.copies:,} copies of others"]
        if report.copies > 1
        else ["1 copy of others"] * report.copies
    )
    parts += [f"{report.moved:,} moved"] if report.moved else []
    parts += [f"{report.removed:,} removed"] if report.removed else []
    parts += [f"{len(report.failures):,} unreadable"] if report.failures else []
    _say(
        f"{_files(files)} in the index: {translate(', ').join(map(translate, parts))} ({report.seconds:.1f} s)"
    )
    if report.lost:
        _say(f"the index was damaged, and all its photographs were embedded again: {report.lost}")
    for cause, number in Counter(cause for _, cause in report.failures).most_common():
        _say(f"unreadable: {_files(number)} ({cause})")
        for path in [path for path, each in report.failures if each == cause][:SHOWN_FAILURES]:
            _print_line(f"  {path}")
        if number > SHOWN_FAILURES:
            _say(f"  and {number - SHOWN_FAILURES:,} more; --json lists all of them")
    for folder in report.unreadable:
        _say(f"cannot be read: {str(folder)!r} (its indexed photographs are kept)")
    for folder in report.missing:
        _say(
            f"missing folder: {str(folder)!r} (its indexed photographs are kept; mount its disk, or pass --forget)"
        )
    if report.others:
        _say(f"files of other types are not indexed: {count_extensions(report.others)}")


def run_search(options: argparse.Namespace):
    """Print scores and paths, most similar first."""
    limits = {
        "top": options.top,
        "after": options.after,
        "before": options.before,
        "path": options.path,
    }
    with (
        Index.open(options.index, _model(options), model_id=options.model_id) as index,
        _notes_printed(),
    ):
        terms, texts, without = list[str](), list[str](), [*options.without]
        for each in options.texts:
            if os.path.isfile(each):
                print_note(f"{each!r} is a file. To search by an image, pass --image {each!r}.")
            is_next = (
                terms and "^" not in terms[-1] + each
            )  # of a text without quotation marks: a dog in the snow
            terms.append(f"{terms.pop()} {each}" if is_next else each)
        for each in terms:  # beach -people, as on the page
            text, left_out = split_query(each)
            texts += [text] if text or not left_out else []
            without += left_out
        hits = index.search(*texts, without=without, images=options.images, **limits)
        if not hits:
            cause = f"no photograph passes the filters (of {len(index):,} in the index)"
            print_note(cause if len(index) else "the index is empty: dcclip index FOLDER")
    if options.json:
        print_json(
            [
                {
                    "path": hit.path,
                    "score": round(hit.score, 6),
                    "date": hit.taken,
                    "copies": list(hit.copies),
                }
                | {"is_current": hit.is_current, "fits": hit.fits}
                | ({} if hit.fit is None else {"fit": round(hit.fit, 3)})
                | ({} if hit.seconds is None else {"seconds": hit.seconds})
                for hit in hits
            ]
        )
    else:
        shown = hits if options.all else [hit for hit in hits if hit.fits]
        if hits and not shown:
            shown = hits[:SHOWN_MISFITS]
            print_note("no photograph seems to fit; these are the most similar ones")
        elif len(shown) < len(hits):
            print_note("less likely photographs are left out; --all lists them")
        for hit in shown:
            number = len(hit.copies)
            marks = [hit.time] if hit.time else []
            marks += [f"(+{number} copies)" if number > 1 else "(+1 copy)"] if number else []
            marks += (
                [] if hit.is_current else ["(changed)" if os.path.exists(hit.path) else "(gone)"]
            )
            _print_line(
                "  ".join([f"{hit.score:.3f}", hit.taken[:10], hit.path, *map(translate, marks)])
            )


def run_serve(options: argparse.Namespace):
    """Serve the page or the API until the process is stopped."""
    from modeling_dcclip.search.api import ApiServer  # the others start faster without a server
    from modeling_dcclip.search.serve import SearchServer

    if not 0 <= options.port < 65536:
        raise ValueError(f"port: got {options.port}, expected 0 to 65535.")
    if options.api and options.open:
        raise ValueError("open: cannot be combined with api, which has no page. Leave one out.")
    if options.api:
        model = _model(options) or Path(read_settings(options.index).model)
        _serve(partial(ApiServer, open_model(model, threads=None)), "can use the model", options)
        return
    with Index.open(options.index, _model(options), model_id=options.model_id) as index:
        _ = index.runtime  # refuses a wrong model now
        _serve(partial(SearchServer, index), "sees the photographs of the index", options)


def _serve(make: Callable[[str, int], Any], risk: str, options: argparse.Namespace):
    from modeling_dcclip.search.local_server import LOOPBACK

    try:
        server = make(options.host, options.port)
    except (OSError, TypeError, UnicodeError) as error:  # of an address, or of an invalid name
        cause = getattr(error, "strerror", None) or error
        raise OSError(
            f"port: cannot listen on {options.host}:{options.port} ({cause}). Choose a different --host or --port."
        ) from error
    with server, suppress(KeyboardInterrupt):  # how a user ends it
        print(server.url, flush=True)
        if options.host not in LOOPBACK:
            print_note(f"everyone who reaches this address {risk}")
        if options.open:
            webbrowser.open(server.url)
        server.serve_forever()


def run_duplicates(options: argparse.Namespace):
    """Print groups of near duplicates, each with the similarity to its first photograph, and what they take."""
    with Index.open(options.index) as index, _notes_printed():
        with _progress("pairs") as show:
            groups = find_duplicates(index, options.threshold, show)
        if not groups:
            print_note(
                f"no near duplicates among {_files(len(index))} at a cosine of {options.threshold}"
            )
    if options.json:
        fields = [
            [each._asdict() | {"score": round(each.score, 6)} for each in group] for group in groups
        ]
        print_json(fields)
        return
    for group in groups:
        for each in group:
            _print_line(f"{each.score:.3f}  {each.path}")
        print()
    if groups:
        spare = sum(
            sum(sizes) - max(sizes)
            for sizes in ([each.bytes for each in group] for group in groups)
        )
        count = f"{len(groups):,} groups" if len(groups) > 1 else "1 group"
        _say(
            f"{count} of {sum(map(len, groups)):,} files: keeping the largest file of each group frees "
            f"{spare / 1e6:,.1f} MB"
        )


def run_status(options: argparse.Namespace):
    """Print what an index has, and what it left out."""
    with Index.open(options.index) as index:
        catalog, model, folders = index.catalog, Path(index.settings.model), index.folders
        status: dict[str, Any] = {
            "index": str(options.index),
            "files": len(index),
            "bytes": catalog.num_rows * index.store.bytes_per_row,
            "model": str(model),
            "has_model": (model / "config.json").is_file(),
            "dimension": index.space.dimension,
            "folders": {str(folder): catalog.count_below(folder) for folder in folders},
            "missing": [str(folder) for folder in folders if not os.path.isdir(folder)],
            "excluded": {str(folder): patterns for folder, patterns in folders.items() if patterns},
            "failures": dict(Counter(cause for _, cause in catalog.failures()).most_common()),
        }
    if options.json:
        print_json(status)
        return
    missing = translate(" (missing)")
    _say(
        f"{str(options.index)!r}: {_files(status['files'])}, {status['bytes'] / 1e6:,.1f} MB of vectors"
    )
    mark = "" if status["has_model"] else missing
    _say(f"model: {str(model)!r}{mark}; vectors: int8, {status['dimension']} dimensions")
    for folder, files in status["folders"].items():
        _print_line(f"{files:9,}  {folder}{missing if folder in status['missing'] else ''}")
    for folder, patterns in status["excluded"].items():
        _say(f"left out of {folder!r}: {', '.join(map(repr, patterns))}")
    for cause, number in status["failures"].items():
        _say(f"unreadable: {_files(number)} ({cause})")


def _files(number: int) -> str:
    return "1 file" if number == 1 else f"{number:,} files"


def _say(message: str):
    """Print a message in the user's language."""
    _print_line(translate(message))


def _print_line(text: str):
    """Print one line. Paths keep their bytes, UTF-8 or not, but line breaks, and in a terminal all control characters,
    are escaped.
    """
    controls = CONTROLS if sys.stdout.isatty() else ()
    text = "".join(
        f"\\x{ord(each) & 0xFF:02x}" if each in "\n\r" or category(each) in controls else each
        for each in text
    )
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
        is_note = issubclass(each.category, QueryWarning)
        message = f"note: {each.message}" if is_note else f"warning: {each.message}"
        print(f"{PROGRAM}: {translate(message)}", file=sys.stderr)


@contextmanager
def _progress(unit: str) -> Iterator[Progress]:
    """A progress bar, if stderr is a terminal, as a function of the number done and the number to do."""
    from tqdm import tqdm  # a search shows no bar

    with tqdm(unit=f" {translate(unit)}", disable=None, leave=False) as bar:

        def show(done: int, total: int):
            bar.total = total
            bar.update(done - bar.n)

        yield show
