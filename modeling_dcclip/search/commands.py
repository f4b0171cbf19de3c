"""What the `dcclip` command runs: index folders of photographs, search and serve an index, list duplicates, show the
status, and label an image.
"""

import argparse
import errno
import io
import json
import os
import sys
import time
import warnings
import webbrowser
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from modeling_dcclip.search.duplicates import find_duplicates
from modeling_dcclip.search.index import Hit, Index, open_model
from modeling_dcclip.search.indexing import Progress, Report, count_extensions, require_folders
from modeling_dcclip.search.lance import LanceIndex, is_lance
from modeling_dcclip.search.messages import (
    Message,
    UserError,
    joined,
    message_of,
    print_error,
    print_line,
    print_note,
    say,
    translate,
)
from modeling_dcclip.search.photos import UnreadablePhotoError, make_thumbnail, read_example
from modeling_dcclip.search.query import Filter, QueryWarning, understand
from modeling_dcclip.search.settings import BusyError, has_index, read_settings
from modeling_dcclip.search.texts import NAME, TextReader, Texts, find, is_available
from modeling_dcclip.search.upgrade import upgrade_index

SHOWN_FAILURES = 3  # of each cause
LISTED = 10  # photographs that a search lists at least, the most similar ones if fewer fit
THUMBNAIL_LINES = 8  # of the terminal
# seconds between two updates of a watch; if an update that found no change takes long, this many times its duration
WATCH_S = 60.0
WATCH_SHARE = 20
PORT = 8420
PORTS = 20  # how many are tried from `PORT` on if it is taken
SEES_PHOTOGRAPHS = "everyone who reaches this address sees the photographs of the index"
USES_MODEL = "everyone who reaches this address can use the model"


def run_index(options: argparse.Namespace):
    """Index folders, remove one, or embed all photographs again, and print what was done."""
    names = ("folders", "model", "exclude", "forget", "upgrade", "watch")
    given = [name for name in names if getattr(options, name)]
    if len(given) > 1 and {"forget", "upgrade"} & {*given}:
        raise UserError("index: {} cannot be combined. Run two commands.", ", ".join(given))
    if options.forget is not None:
        with Index.open(options.index) as index:
            removed = index.forget(options.forget)
            if (options.index / NAME).exists():
                with closing(Texts(options.index)) as texts:
                    texts.remove_missing(index.catalog)
        if options.json:
            print(json.dumps({"removed": removed}))
        else:
            say("{} removed", _files(removed))
        return
    with _open_to_add(options) if options.upgrade is None else Index.open(options.index) as index:
        with _progress("images") as show:
            if options.upgrade is None:
                report = index.add(*options.folders, progress=show, exclude=options.exclude)
            else:
                report = upgrade_index(
                    index,
                    options.upgrade,
                    progress=show,
                    model_id=options.model_id,
                    truncate_dim=options.truncate_dim,
                )
        _print_report(report, len(index), options)
        if options.watch:
            with suppress(KeyboardInterrupt):  # how a user ends it
                _watch(index, options)
        elif report.missing:
            sys.exit(1)


def _watch(index: Index, options: argparse.Namespace):
    """Update the index again and again, and print what has changed."""
    wait_s = WATCH_S
    failure = ""
    while True:
        time.sleep(wait_s)
        try:
            report = index.add()
        except BusyError:  # another process writes to the index
            continue
        except (ValueError, OSError) as error:  # such as a disk that is not mounted
            message = message_of(error)
            if message != failure:  # printed once, not at every update
                print_error(message)
            failure = message
            continue
        failure = ""
        if report.embedded + report.copies + report.moved + report.removed:
            _print_report(report, len(index), options)
            sys.stdout.flush()
        else:
            wait_s = max(WATCH_S, WATCH_SHARE * report.seconds)


def _open_to_add(options: argparse.Namespace) -> Index:
    """Open the index, or create it, after a look at the folders to add."""
    if not options.folders and not has_index(options.index):
        raise UserError(
            "folder: got none, and {!r} has no index. Name a folder.", str(options.index)
        )
    require_folders(options.folders)  # before a model is loaded and an index created
    return Index.open(
        options.index,
        _model(options),
        create=True,
        model_id=options.model_id,
        truncate_dim=options.truncate_dim,
    )


def _default_model() -> Path:
    """Model folder to use if none is given: of the variable DCCLIP_MODEL, else the bundled model."""
    if name := os.environ.get("DCCLIP_MODEL"):
        return Path(name)
    package = Path(__file__).parents[1]
    bundled = package / "model"  # in the wheel
    return bundled if bundled.is_dir() else package.parent / "model_cards" / "dcclip-tiny-photo"


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
    return _default_model()


def open_to_search(options: argparse.Namespace) -> Index | LanceIndex:
    """Open the index of photographs, or the collection in Lance, that the options name."""
    if is_lance(options.index):
        return LanceIndex(options.index, options.model, options.model_id)
    return Index.open(options.index, _model(options), model_id=options.model_id)


def _print_report(report: Report, files: int, options: argparse.Namespace):
    if options.json:
        print(json.dumps(vars(report) | {"files": files, "index": str(options.index)}))
        return
    parts = {
        "{:,} embedded": report.embedded,
        "{:,} unchanged": report.unchanged,
        "{:,} copied": report.copies,
        "{:,} moved": report.moved,
        "{:,} removed": report.removed,
        "{:,} unreadable": len(report.failures),
    }
    counts = [Message(text, number) for text, number in parts.items() if number]
    say("{} in the index: {} ({:.1f} s)", _files(files), joined(counts), report.seconds)
    if report.lost:
        say(
            "the index was damaged ({}), and all its photographs were embedded again",
            Message(report.lost),
        )
    failed = defaultdict(list)
    for path, cause in report.failures:
        failed[cause].append(path)
    for cause, paths in sorted(failed.items(), key=lambda item: -len(item[1])):
        say("unreadable: {} ({})", _files(len(paths)), Message(cause))
        for path in paths[:SHOWN_FAILURES]:
            print_line(f"  {path}")
        if len(paths) > SHOWN_FAILURES:
            say("  and {:,} more; --json lists all of them", len(paths) - SHOWN_FAILURES)
    for folder in report.unreadable:
        say("cannot be read: {!r} (its indexed photographs are kept)", folder)
    for folder in report.missing:
        say(
            "missing folder: {!r} (its indexed photographs are kept; mount its disk, or pass --forget)",
            folder,
        )
    if report.others:
        say("files of other types are not indexed: {}", count_extensions(report.others))


def run_search(options: argparse.Namespace):
    """Print the photographs that fit, most similar first, and some others if few do."""
    show = _load_thumbnails() if options.thumbnails else None
    if options.top < 1:
        raise UserError("top: got {}, expected at least 1.", options.top)
    with open_to_search(options) as index, _notes_printed():
        query = " ".join(options.texts)  # without quotation marks: a dog in the snow
        limits = Filter(options.after, options.before, options.path)
        text, without, chosen, dates = understand(query, limits)
        if dates is not None:
            print_note(
                "{!r} is understood as the dates {} to {}",
                dates.words,
                dates.after or "…",
                dates.before or "…",
            )
        without += options.without
        images = [read_example(path, index.runtime.edge) for path in options.images]
        hits = find(index, text, without, images, chosen=chosen, top=options.top)
        total = len(hits)  # a recompressed copy is part of the hit of its photograph
        if total >= options.top:
            total = index.count(chosen)
        if not len(index):
            print_note("the index has no photographs. Run dcclip index FOLDER")
        elif not hits:
            print_note("no photograph passes the filters (of {:,} in the index)", len(index))
    if options.json:
        print(json.dumps([_fields(hit) for hit in hits[: options.top]]))
        return
    number = sum(options.all or hit.fits for hit in hits[: options.top])
    if options.paths:
        for hit in hits[:number]:
            print_line(hit.path)
        return
    shown = hits[: max(number, min(options.top, LISTED))]
    for place, hit in enumerate(shown):
        if place == number:
            say("less likely:" if place else "no photograph seems to fit; the most similar ones:")
        _print_hit(hit, show)
    if (hidden := total - len(shown)) > 0 and hits:
        print_note("{:,} more; --top N and --all list more of them", hidden)


def _fields(hit: Hit) -> dict[str, Any]:
    """JSON of a result."""
    return {
        "path": hit.path,
        "score": round(hit.score, 6),
        "fit": hit.fit,
        "fits": hit.fits,
        "date": hit.taken,
        "seconds": hit.seconds,
        "copies": hit.copies,
        "is_current": hit.is_current,
    }


def _load_thumbnails() -> Callable[[Hit], None]:
    """A function that shows a photograph in the terminal."""
    try:
        from rich.console import Console
        from textual_image.renderable import Image
    except ImportError as error:
        raise UserError(
            "thumbnails: textual-image is not installed. Run: pip install textual-image"
        ) from error

    def show(hit: Hit):
        with suppress(UnreadablePhotoError):  # its line says that it is gone or has changed
            content = io.BytesIO(make_thumbnail(hit.path, seconds=hit.seconds or 0))
            Console().print(Image(content, width="auto", height=THUMBNAIL_LINES))

    return show


def _print_hit(hit: Hit, show: Callable[[Hit], None] | None):
    parts = [f"{hit.score:.3f}", hit.taken[:10], hit.path]
    if hit.time:
        parts.append(translate(Message("(at {})", hit.time)))
    if hit.copies:
        parts.append(translate(Message("(copies: {})", len(hit.copies))))
    if not hit.is_current:
        parts.append(translate("(changed or gone)"))
    print_line("  ".join(parts))
    if show is not None:
        show(hit)


def run_serve(options: argparse.Namespace):
    """Serve the page or the API until the process is stopped."""
    from modeling_dcclip.search.api import ApiServer  # the others start faster without a server
    from modeling_dcclip.search.serve import SearchServer

    if options.api:
        model = _model(options) or Path(read_settings(options.index).model)
        _serve(partial(ApiServer, open_model(model, threads=None)), USES_MODEL, options)
        return
    with Index.open(options.index, _model(options), model_id=options.model_id) as index:
        _ = index.runtime  # refuses a wrong model now
        _serve(partial(SearchServer, index), SEES_PHOTOGRAPHS, options)


def run_browse(options: argparse.Namespace):
    """Serve the page at once, and index folders meanwhile."""
    from modeling_dcclip.search.serve import Indexing, SearchServer

    report = partial(_print_report, options=options)
    with (
        _open_to_add(options) as index,
        Index.open(options.index, index.runtime) as searched,
        Indexing(index, options.folders, options.exclude, report) as indexing,
    ):
        _serve(partial(SearchServer, searched, indexing=indexing), SEES_PHOTOGRAPHS, options)
        if indexing.state()["running"]:
            print_error("stopped. The same command goes on where it stopped.")


def _serve(make: Callable[..., Any], risk: str, options: argparse.Namespace):
    from modeling_dcclip.search.local_server import LOOPBACK

    ports = [*range(PORT, PORT + PORTS)] if options.port is None else [options.port]
    for port in ports:
        try:
            server = make(host=options.host, port=port)
            break
        except (OSError, OverflowError, UnicodeError) as error:  # of an address, port or name
            if port != ports[-1] and getattr(error, "errno", None) == errno.EADDRINUSE:
                continue
            raise UserError(
                "port: cannot listen on {}:{} ({}). Choose a different --host or --port.",
                options.host,
                port,
                Message(getattr(error, "strerror", None) or str(error)),
            ) from error
    with server, ExitStack() as stack, suppress(KeyboardInterrupt):  # how a user ends it
        if hasattr(server, "index") and is_available():
            stack.enter_context(TextReader(server.index, server.is_busy))
        print(server.url, flush=True)
        if port != ports[0]:
            print_note("port {} is taken, so the page is at port {}", ports[0], port)
        if options.host not in LOOPBACK:
            print_note(risk)
        if options.open:
            webbrowser.open(server.url)
        server.serve_forever()


def run_duplicates(options: argparse.Namespace):
    """Print groups of near duplicates, each with the similarity to its first photograph, and what they take."""
    with Index.open(options.index) as index, _notes_printed(), _progress("pairs") as show:
        groups = find_duplicates(index, options.threshold, show)
    if options.json:
        print(json.dumps([[each._asdict() for each in group] for group in groups]))
        return
    freed = 0
    for group in groups:
        for each in group:
            print_line(f"{each.score:.3f}  {each.path}")
        print()
        sizes = [each.bytes for each in group]
        freed += sum(sizes) - max(sizes)
    say(
        "groups: {:,}. Keeping the largest file of each frees {:,.1f} MB.", len(groups), freed / 1e6
    )


def run_status(options: argparse.Namespace):
    """Print what an index has, and what it left out."""
    status: dict[str, Any] = {"index": str(options.index)}
    with Index.open(options.index) as index:
        catalog = index.catalog
        folders = index.folders
        status |= {
            "model": index.settings.model,
            "dimensions": index.space.dimension,
            "files": len(index),
            "bytes of vectors": catalog.num_rows * index.store.bytes_per_row,
            "folders": {str(folder): catalog.count_below(folder) for folder in folders},
            "missing folders": [str(folder) for folder in folders if not os.path.isdir(folder)],
            "left out": {str(folder): patterns for folder, patterns in folders.items() if patterns},
            "unreadable": dict(Counter(cause for _, cause in catalog.failures()).most_common()),
        }
    if (options.index / NAME).exists():
        with closing(Texts(options.index)) as texts:
            status["searched for text"] = len(texts)
    if options.json:
        print(json.dumps(status))
        return
    for name, value in status.items():
        if isinstance(value, list):
            value = dict.fromkeys(value, "")
        entries = value if isinstance(value, dict) else {"": value}
        for key, each in entries.items():
            print_line(": ".join(filter(None, [translate(name), translate(key), str(each)])))


def run_label(options: argparse.Namespace) -> None:
    """Print the labels with their scores, highest first."""
    labels = list(dict.fromkeys(map(str.strip, options.labels)))
    runtime = open_model(options.model or _default_model(), threads=None)
    image = read_example(options.image, runtime.edge)
    scores = runtime.zero_shot(image, labels, options.template)
    if unknown := runtime.unknown_parts(" ".join(labels)):
        print_note("not in the model's vocabulary: {}", ", ".join(unknown))
    if options.json:
        print(json.dumps([{"label": label, "score": round(score, 6)} for label, score in scores]))
    else:
        print("\n".join(f"{score:.3f}  {label}" for label, score in scores))


def _files(number: int) -> Message:
    return Message("1 file") if number == 1 else Message("{:,} files", number)


@contextmanager
def _notes_printed() -> Iterator[None]:
    """Print the warnings about a query as notes on stderr."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", QueryWarning)
        warnings.showwarning = lambda message, *others: print_note(message_of(message))
        yield


@contextmanager
def _progress(unit: str) -> Iterator[Progress]:
    """A progress bar, if stderr is a terminal, as a function of the number done and the number to do."""
    from tqdm import tqdm  # a search shows no bar

    layout = "{l_bar}{bar}| {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}{postfix}]"
    with tqdm(unit=translate(unit), disable=None, leave=False, bar_format=layout) as bar:

        def show(done: int, total: int):
            bar.total = total
            rate = done / max(bar.format_dict["elapsed"], 1e-3)
            bar.set_postfix_str(translate(Message("{:.1f} {}/s", rate, Message(unit))), False)
            bar.update(done - bar.n)

        yield show
