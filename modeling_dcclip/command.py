"""Search your photographs and label images, in Chinese and English, without PyTorch.

dcclip ~/Photos
dcclip index ~/Photos
dcclip search 海边的日落
dcclip search "a dog" 雪^0.5 --not people --after 2023
dcclip serve --open
dcclip duplicates
dcclip status
dcclip index --upgrade NEW_MODEL
dcclip label image.png 狐狸 狗 猫 --template "一张{}的图片" --json
"""

import argparse
import codecs
import importlib
import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from modeling_dcclip import __version__
from modeling_dcclip.messages import TranslatedParser, translate

PROGRAM = "dcclip"
COMMANDS = ("index", "search", "serve", "duplicates", "status", "label")
BROKEN_PIPE = 141  # exit code of a program whose reader, such as `head`, has ended: 128 + SIGPIPE
# packages of the extra `runtime`, by the name that an import error gives
RUNTIME_PACKAGES = {
    "numpy": "numpy",
    "onnxruntime": "onnxruntime",
    "PIL": "pillow",
    "tokenizers": "tokenizers",
    "tqdm": "tqdm",
}


def build_parser() -> argparse.ArgumentParser:
    """Build the parser. A subcommand is a parser with three defaults.

    `run` is a function of the options; `resumes` tells whether the next run continues an interrupted one; `error` is
    the method of the subcommand's parser.
    """
    summary, _, examples = (__doc__ or "").partition("\n\n")
    parser = TranslatedParser(prog=PROGRAM, description=summary, epilog=examples)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_index(commands)
    _add_search(commands)
    serve = _add_command(
        commands, "serve", _on_index("run_serve"), "Search an index on a local web page.", "index"
    )
    serve.add_argument(
        "--host",
        default="127.0.0.1",
        help="Address to listen on. Everyone who reaches it sees the photographs of the index. Default: 127.0.0.1.",
    )
    serve.add_argument(
        "--port", metavar="N", type=int, default=8000, help="Port, 0 for a free one. Default: 8000."
    )
    serve.add_argument("--open", action="store_true", help="Open the page in the browser.")
    text = "Serve embeddings and labels to other programs at /api instead of the page; no index is needed."
    serve.add_argument("--api", action="store_true", help=text)
    summary = "List near duplicates in an index."
    duplicates = _add_command(commands, "duplicates", _on_index("run_duplicates"), summary, None)
    duplicates.add_argument(
        "--threshold",
        metavar="COSINE",
        type=float,
        default=0.945,
        help="Lowest cosine similarity to the first photograph of a group, above 0, at most 1. Default: 0.945, which "
        "finds copies that a messenger has compressed.",
    )
    duplicates.add_argument("--json", action="store_true", help="Print a JSON list of groups.")
    summary = "Show the folders, model and size of an index, and what it left out."
    status = _add_command(commands, "status", _on_index("run_status"), summary, None)
    status.add_argument("--json", action="store_true", help="Print a JSON object.")
    label = _add_command(commands, "label", run_label, "Rank labels for an image.", "label")
    label.add_argument("image", metavar="IMAGE", type=_path, help="Image file.")
    label.add_argument(
        "labels",
        metavar="LABEL",
        nargs="+",
        help="Labels in Chinese or English. Scores sum to 1, even if none fits.",
    )
    label.add_argument(
        "--template",
        default="{}",
        help="Text around each label, with {} for the label. Default: {}.",
    )
    label.add_argument(
        "--json", action="store_true", help="Print a JSON list of labels and scores."
    )
    return parser


def _add_command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], None],
    summary: str,
    model: str | None,
) -> argparse.ArgumentParser:
    """Add a subcommand with the options for its index and its model: of the `index`, for a `label`, or None."""
    command = commands.add_parser(name, help=summary, description=summary)
    command.set_defaults(run=run, resumes=False, error=command.error)
    if model is not None:
        default = "the variable DCCLIP_MODEL, else the bundled model of photographs"
        if model == "index":
            default = (
                f"the model of the index; for a new index {default}"
                if name == "index"
                else "the model of the index"
            )
            command.add_argument(
                "--model_id",
                metavar="NAME",
                help="Hub id of the model; its students and their indexes are recognised by it. Default: the folder.",
            )
        text = f"Folder of an exported model, with onnx/. Default: {default}."
        command.add_argument("--model", metavar="FOLDER", type=_path, help=text)
    if model != "label":
        text = "Folder of the index. Default: the variable DCCLIP_INDEX, else ~/.local/share/dcclip/index."
        command.add_argument(
            "--index", metavar="DIR", type=_path, default=default_index(), help=text
        )
    return command


def _path(name: str) -> Path:
    """A path of the command line. An empty one, such as of a variable that is not set, would be the current folder."""
    if not name:
        raise argparse.ArgumentTypeError("the name is empty")
    return Path(name)


def _add_index(commands: Any):
    summary = "Index folders of photographs, or bring the index up to date with them."
    index = _add_command(commands, "index", _on_index("run_index"), summary, "index")
    index.set_defaults(resumes=True)
    text = "Folders of photographs, searched recursively. Default: the folders that the index has."
    index.add_argument("folders", metavar="FOLDER", nargs="*", type=_path, help=text)
    index.add_argument(
        "--truncate_dim",
        metavar="N",
        type=int,
        help="Number of leading dimensions that a new index stores. The model was trained for the `prefixes` in its "
        "config. Default: all.",
    )
    index.add_argument(
        "--upgrade",
        metavar="MODEL",
        type=_path,
        help="Embed all photographs again with a new exported model, or with a new --truncate_dim. Searches use the "
        "old vectors until the new ones are complete.",
    )
    index.add_argument(
        "--exclude",
        metavar="PATTERN",
        action="append",
        help="Leave out files and folders by name, such as *.png or private. A pattern with a slash is compared with "
        "the path below FOLDER, such as 2019/work/*, or from the root, such as ~/Photos/private. May be repeated. "
        "Later runs leave them out as well, until FOLDER is named with new patterns, or with ''.",
    )
    text = "Keep running, and update the index whenever a folder changes."
    index.add_argument("--watch", action="store_true", help=text)
    text = "Remove an indexed folder from the index instead. No photograph is touched."
    index.add_argument("--forget", metavar="FOLDER", type=_path, help=text)
    index.add_argument(
        "--json", action="store_true", help="Print a JSON object with all counts and failures."
    )


def _add_search(commands: Any):
    summary = "Find photographs by texts in Chinese or English, or by an example image."
    search = _add_command(commands, "search", _on_index("run_search"), summary, "index")
    text = "What the photograph shows. TEXT^WEIGHT adds a text with a weight, such as 雪^0.5."
    search.add_argument("texts", metavar="TEXT", nargs="*", help=text)
    repeated: dict[str, Any] = {"action": "append", "default": []}
    text = "What the photograph should not show, with weight 0.5 unless TEXT^WEIGHT gives one. May be repeated."
    search.add_argument("--not", dest="without", metavar="TEXT", help=text, **repeated)
    text = "Example image, added to the query. May be repeated."
    search.add_argument("--image", dest="images", metavar="FILE", type=_path, help=text, **repeated)
    text = "Also list less likely photographs. JSON output always includes them."
    search.add_argument("--all", action="store_true", help=text)
    text = "Maximum number of results. Default: 20."
    search.add_argument("--top", metavar="N", type=int, default=20, help=text)
    search.add_argument(
        "--after", metavar="DATE", help="First date, as YYYY, YYYY-MM or YYYY-MM-DD."
    )
    search.add_argument("--before", metavar="DATE", help="Last date, in the same form.")
    text = "Part of the path, or a pattern of the whole path with * and ?, such as */2021/*."
    search.add_argument("--path", metavar="PATTERN", help=text)
    search.add_argument("--json", action="store_true", help="Print a JSON list of results.")


def default_index() -> Path:
    """Return the folder of the index to use if none is given."""
    if name := os.environ.get("DCCLIP_INDEX"):
        return Path(name)
    return Path.home() / ".local" / "share" / "dcclip" / "index"


def default_model() -> Path:
    """Return the model folder to use if none is given: of the variable DCCLIP_MODEL, else the bundled model."""
    if name := os.environ.get("DCCLIP_MODEL"):
        return Path(name)
    package = Path(__file__).parent
    bundled = package / "model"  # in the wheel
    return bundled if bundled.is_dir() else package.parent / "model_cards" / "dcclip-tiny-photo"


def run_label(options: argparse.Namespace) -> None:
    """Print the labels with their scores, highest first."""
    # imported here, because --help must work, and fast, without the packages of the runtime
    from modeling_dcclip.search.index import open_model
    from modeling_dcclip.search.photos import read_example

    labels = list(dict.fromkeys(label.strip() for label in options.labels))
    if not all(labels):
        raise ValueError(
            "label: one is empty. Name what the image may show, in Chinese or English."
        )
    for label in filter(os.path.isfile, labels):
        print_note(f"{label!r} is a file, and read as a label: label takes one image.")
    runtime = open_model(options.model or default_model(), threads=None)
    scores = runtime.zero_shot(
        read_example(options.image, runtime.preprocess.edge), labels, options.template
    )
    if len(labels) == 1:
        print_note(
            "a single label always has the score 1. To compare several, separate them with spaces."
        )
    for label in labels:
        if unknown := runtime.unknown_parts(label):
            print_note(
                f"{label!r} contains {', '.join(unknown)}, which is not in the model's vocabulary"
            )
    if options.json:
        print_json([{"label": label, "score": round(score, 6)} for label, score in scores])
    else:
        print("\n".join(f"{score:.3f}  {label}" for label, score in scores))


def is_utf8(stream: TextIO) -> bool:
    """Whether a stream can print every character; on Windows a file or a pipe often cannot."""
    return codecs.lookup(stream.encoding or "ascii").name == "utf-8"


def print_note(text: str):
    """Print a note on stderr, in the user's language."""
    print(f"{PROGRAM}: {translate(f'note: {text}')}", file=sys.stderr)


def print_json(content: Any) -> None:
    """Print JSON; bytes of a path that are not UTF-8 become escapes, which JSON readers turn into surrogates."""
    if is_utf8(sys.stdout):
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a text file, here and under test
    print(json.dumps(content, ensure_ascii=not is_utf8(sys.stdout)))


def _on_index(name: str) -> Callable[[argparse.Namespace], None]:
    """A function of search/commands.py, imported when it runs: --help must work without the runtime's packages."""

    def run(options: argparse.Namespace):
        getattr(importlib.import_module("modeling_dcclip.search.commands"), name)(options)

    return run


def main(argv: list[str] | None = None) -> None:
    """Parse and run; exit with code 2 and one line on stderr after a user error, and in silence after a closed pipe.

    A folder in place of a command is indexed, and then searched on the page of `serve`, whose options may follow it.

    Args:
        argv: Command-line arguments. Default: the arguments of the process.
    """
    warnings.filterwarnings("ignore", module="PIL")  # of metadata that are cut short
    for stream in (sys.stdout, sys.stderr):
        if not is_utf8(stream):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a text file, here and under test
    arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    parser = build_parser()
    if arguments[0] not in COMMANDS and not arguments[0].startswith("-"):  # dcclip ~/Photos
        if not Path(arguments[0]).is_dir():
            parser.error(
                f"{arguments[0]!r} is neither a folder nor a command ({', '.join(COMMANDS)})"
            )
        options, rest = parser.parse_known_args(["index", *arguments])
        runs = [(options, rest)]  # it watches until it is stopped, or else
        if not options.watch:
            served = ["serve", "--open", "--port", "0", "--index", str(options.index), *rest]
            runs = [(options, []), parser.parse_known_args(served)]
    else:
        runs = [parser.parse_known_args(arguments)]
    for _, unknown in runs:
        if unknown:
            message = f"unrecognized arguments: {' '.join(unknown)}"
            if arguments[0] == "search":
                message = f'{message}. To leave something out, write "beach -people" in quotes'
            runs[0][0].error(message)
    for options, _ in runs:
        _run(options)


def _run(options: argparse.Namespace):
    try:
        options.run(options)
        sys.stdout.flush()  # here, because a closed pipe is not a user error
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # for what Python flushes at its end
        raise SystemExit(BROKEN_PIPE) from None
    except ModuleNotFoundError as error:
        package = RUNTIME_PACKAGES.get((error.name or "").partition(".")[0])
        if package is None:
            raise
        _exit(f"{package} is not installed. Run: pip install {' '.join(RUNTIME_PACKAGES.values())}")
    except (ValueError, OSError) as error:
        _exit(str(error))
    except KeyboardInterrupt:
        message = (
            "stopped. The same command goes on where it stopped." if options.resumes else "stopped."
        )
        print(f"\n{PROGRAM}: {translate(message)}", file=sys.stderr)
        raise SystemExit(130) from None


def _exit(message: str) -> None:
    print(f"{PROGRAM}: {translate(message)}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
