"""What the `dcclip` command runs: index folders of photographs, search and serve an index, show the status, and label
an image.
"""

import argparse
import errno
import os
import sys
import time
import warnings
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from modeling_dcclip.search.index.index import Hit, Index, may_fit, open_model
from modeling_dcclip.search.index.indexing import Progress, Report, count_files, require_folders
from modeling_dcclip.search.index.lance import LanceIndex, is_lance
from modeling_dcclip.search.index.settings import BusyError, has_index, read_settings
from modeling_dcclip.search.index.upgrade import upgrade_index
from modeling_dcclip.search.messages import (
    Message,
    UserError,
    cause_of,
    joined,
    message_of,
    print_error,
    print_json,
    print_line,
    print_note,
    say,
    translate,
)
from modeling_dcclip.search.photos.photos import read_example
from modeling_dcclip.search.query.query import Filter, QueryWarning, understand
from modeling_dcclip.search.serve.report import fields_of, find, status_of

SHOWN_FAILURES = 3  # failures shown for each cause
LISTED = 10  # photographs that a search lists at least, the most similar ones if fewer fit
# seconds between two updates of a watch; if an update that found no change takes long, this many times its duration
WATCH_S = 60.0
WATCH_SHARE = 20
PORT = 8420
PORTS = 20  # how many are tried from `PORT` on if it is taken
SEES_PHOTOGRAPHS = (
    "everyone who has this address, with its token, sees the photographs of the index"
)
USES_MODEL = "everyone who reaches this address can use the model"


def run_index(options: argparse.Namespace):
    """Index folders, remove one, or embed all photographs again, and print what was done."""
    names = ["folders", "model", "exclude", "forget", "upgrade", "watch"]
    if options.forget is not None:
        names += ["model_id", "truncate_dim"]
    given = [name for name in names if getattr(options, name)]
    if len(given) > 1 and {"forget", "upgrade"} & {*given}:
        raise UserError("index: {} cannot be combined. Run two commands.", ", ".join(given))
    if options.forget is not None:
        with Index.open(options.index) as index:
            removed = index.forget(options.forget)
        if options.json:
            print_json({"removed": removed})
        else:
            say("{} removed", count_files(removed))
        return
    with _open_to_add(options) if options.upgrade is None else Index.open(options.index) as index:
        with _progress() as show:
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
        print_json(vars(report) | {"files": files, "index": str(options.index)})
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
    say("{} in the index: {} ({:.1f} s)", count_files(files), joined(counts), report.seconds)
    if report.lost:
        say(
            "the old index could not be used ({}), and all photographs were embedded again",
            Message(report.lost),
        )
    for message, paths in report.left_out():
        say(message)
        for path in paths[:SHOWN_FAILURES]:
            print_line(f"  {path}")
        if len(paths) > SHOWN_FAILURES:
            say("  and {:,} more; --json lists all of them", len(paths) - SHOWN_FAILURES)


def run_search(options: argparse.Namespace):
    """Print the photographs that fit, most similar first, and some others if few do."""
    if options.top < 1:
        raise UserError("top: got {}, expected at least 1.", options.top)
    with open_to_search(options) as index, _notes_printed():
        query = " ".join(options.texts)  # without quotation marks: a dog in the snow
        limits = Filter(options.after, options.before, options.path)
        text, without, chosen, dates = understand(query, limits)
        if dates is not None and dates.every is not None:
            print_note(
                "{!r} is understood as dates, of every year unless it names one", dates.words
            )
        elif dates is not None and dates.after == dates.before:
            print_note("{!r} is understood as the date {}", dates.words, dates.after)
        elif dates is not None:
            print_note(
                "{!r} is understood as the dates {} to {}",
                dates.words,
                dates.after or "…",
                dates.before or "…",
            )
        without += options.without
        images = [read_example(path, index.runtime.edge) for path in options.images]
        hits = find(index, text, without, images, chosen=chosen, top=options.top)
        total = len(hits) if len(hits) < options.top else index.count(chosen)
        if not len(index):
            print_note("the index has no photographs. Run dcclip index FOLDER")
        elif not hits:
            print_note("no photograph passes the filters (of {:,} in the index)", len(index))
    if options.json:
        print_json([fields_of(hit) for hit in hits[: options.top]])
        return
    number = sum(options.all or hit.fits for hit in hits[: options.top])
    if options.paths:
        for hit in hits[:number]:
            print_line(hit.path)
        return
    shown = hits[: max(number, min(options.top, LISTED))]
    for place, hit in enumerate(shown):
        if place == number:
            if place:
                say("less likely:")
            elif may_fit(hits):
                say("perhaps these; nothing is sure:")
            else:
                say("nothing like it was found; the most similar ones:")
        _print_hit(hit)
    if (hidden := total - len(shown)) > 0 and hits:
        print_note("{:,} more; --top N and --all list more of them", hidden)


def _print_hit(hit: Hit):
    parts = [] if hit.score is None else [f"{hit.score:.3f}"]
    parts += [hit.taken[:10], hit.path]
    if hit.words:
        parts.append(translate(Message("(name: {})", ", ".join(hit.words))))
    if hit.time:
        parts.append(translate(Message("(at {})", hit.time)))
    if hit.copies:
        parts.append(translate(Message("(copies: {})", len(hit.copies))))
    if not hit.is_current:
        parts.append(translate("(changed or gone)"))
    print_line("  ".join(parts))


def run_serve(options: argparse.Namespace):
    """Serve the page or the API until the process is stopped."""
    if options.api:
        from modeling_dcclip.search.serve.api import (
            ApiServer,  # the others start faster without a server
        )

        model = _model(options) or Path(read_settings(options.index).model)
        _serve(partial(ApiServer, open_model(model, threads=None)), USES_MODEL, options)
        return
    with Index.open(options.index, _model(options), model_id=options.model_id) as index:
        _ = index.runtime  # refuses a wrong model now
        _serve_index(index, options, [], None)


def run_browse(options: argparse.Namespace):
    """Serve the page at once, and index folders meanwhile."""
    if given := [name for name in ("forget", "upgrade", "api") if getattr(options, name)]:
        raise UserError(
            "{} does not apply to a folder that is indexed and served. Run dcclip index or dcclip serve.",
            ", ".join(given),
        )
    with _open_to_add(options) as index:
        _serve_index(index, options, options.folders, options.exclude)


def _serve_index(
    index: Index,
    options: argparse.Namespace,
    folders: Sequence[Path],
    exclude: Sequence[str] | None,
):
    """Serve the page and index folders, or have the server of this index do it until that one ends."""
    from modeling_dcclip.search.serve.access import add_folders, sole_server
    from modeling_dcclip.search.serve.local_server import LOOPBACK
    from modeling_dcclip.search.serve.page_server import Indexing, SearchServer

    def join():
        url = add_folders(options.index, folders, exclude)
        if options.host not in LOOPBACK or options.port not in (None, urlsplit(url).port):
            raise UserError(
                "port: another dcclip serves this index at {}. Stop it to choose a different --host or --port.",
                url,
            )
        print(url, flush=True)
        print_note("another dcclip serves this index; this one takes over when it ends")
        if options.open:
            webbrowser.open(url)

    report = partial(_print_report, options=options)
    with (
        suppress(KeyboardInterrupt),  # how a user ends it
        sole_server(options.index, join),
        Index.open(options.index, index.runtime) as searched,
        Indexing(index, report, _progress) as indexing,
    ):
        if folders:
            indexing.add(folders, exclude)
        _serve(partial(SearchServer, searched, indexing=indexing), SEES_PHOTOGRAPHS, options)
        if indexing.state()["running"]:
            print_error("stopped. The same command goes on where it stopped.")


def _serve(make: Callable[..., Any], risk: str, options: argparse.Namespace):
    from tqdm import tqdm

    from modeling_dcclip.search.serve.local_server import LOOPBACK

    ports = [*range(PORT, PORT + PORTS)] if options.port is None else [options.port]
    for port in ports:
        try:
            server = make(host=options.host, port=port)
            break
        except (
            OSError,
            OverflowError,
            UnicodeError,
        ) as error:  # the address, port or name cannot be used
            if port != ports[-1] and getattr(error, "errno", None) == errno.EADDRINUSE:
                continue
            raise UserError(
                "port: cannot listen on {}:{} ({}). Choose a different --host or --port.",
                options.host,
                port,
                Message(cause_of(error)),
            ) from error
    with server, suppress(KeyboardInterrupt):  # how a user ends it
        with tqdm.external_write_mode():  # not in the line of the bar
            print(server.url, flush=True)
            if port != ports[0]:
                print_note("port {} is taken, so the page is at port {}", ports[0], port)
            if options.host not in LOOPBACK:
                print_note(risk)
            print_note("press Ctrl+C to stop")
        if options.open:
            webbrowser.open(server.url)
        server.serve_forever()


def run_status(options: argparse.Namespace):
    """Print what an index has, and what it left out."""
    is_collection = is_lance(options.index)
    with LanceIndex(options.index) if is_collection else Index.open(options.index) as index:
        status = status_of(index)
    if options.json:
        print_json(status)
        return
    for name, value in status.items():
        if isinstance(value, list):
            value = dict.fromkeys(value, "")
        entries = value if isinstance(value, dict) else {"": value}
        for key, each in entries.items():
            shown = ", ".join(each) if isinstance(each, list) else str(each)
            print_line(": ".join(filter(None, [translate(name), translate(key), shown])))


def run_mcp(options: argparse.Namespace):
    """Serve the index to an assistant, over stdin and stdout, until it ends."""
    try:
        from modeling_dcclip.search.serve.mcp import make_server
    except ModuleNotFoundError as error:
        if error.name not in ("mcp", "mcp_types", "pydantic"):
            raise
        raise UserError("mcp: its SDK is not installed. Run: pip install mcp") from error
    with open_to_search(options) as index:
        _ = index.runtime  # refuses a wrong model now
        make_server(index).run("stdio")


def run_label(options: argparse.Namespace) -> None:
    """Print the labels with their scores, highest first."""
    labels = list(dict.fromkeys(map(str.strip, options.labels)))
    runtime = open_model(options.model or _default_model(), threads=None)
    image = read_example(options.image, runtime.edge)
    scores = runtime.zero_shot(image, labels, options.template)
    if unknown := runtime.unknown_parts(" ".join(labels)):
        print_note("not in the model's vocabulary: {}", ", ".join(unknown))
    if options.json:
        print_json([{"label": label, "score": round(score, 6)} for label, score in scores])
    else:
        print("\n".join(f"{score:.3f}  {label}" for label, score in scores))


@contextmanager
def _notes_printed() -> Iterator[None]:
    """Print the warnings about a query as notes on stderr."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", QueryWarning)
        warnings.showwarning = lambda message, *others: print_note(message_of(message))
        yield


@contextmanager
def _progress() -> Iterator[Progress]:
    """A progress bar, if stderr is a terminal, as a function of the number done and the number to do."""
    from tqdm import tqdm  # a search shows no bar

    unit = translate("images")
    layout = "{l_bar}{bar}| {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}{postfix}]"
    with tqdm(unit=unit, disable=None, leave=False, bar_format=layout) as bar:

        def show(done: int, total: int):
            bar.total = total
            rate = done / max(bar.format_dict["elapsed"], 1e-3)
            bar.set_postfix_str(translate(Message("{:.1f} {}/s", rate, unit)), False)
            bar.update(done - bar.n)

        yield show


# `browse` is a folder in place of a command
RUN = {
    "index": run_index,
    "search": run_search,
    "serve": run_serve,
    "browse": run_browse,
    "status": run_status,
    "mcp": run_mcp,
    "label": run_label,
}
