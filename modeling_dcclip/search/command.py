"""Search your photographs and label images, in Chinese and English, without PyTorch.

dcclip ~/Photos
dcclip index ~/Photos
dcclip search 海边的日落
dcclip search a dog in the snow --not people --after 2023
dcclip serve --open
dcclip status
dcclip index --upgrade NEW_MODEL
dcclip label image.png 狐狸 狗 猫 --template "一张{}的图片" --json
"""

import argparse
import codecs
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from modeling_dcclip import __version__
from modeling_dcclip.search.messages import (
    PROGRAM,
    Message,
    TranslatedParser,
    message_of,
    print_error,
    translate,
)

BROKEN_PIPE = 141  # exit code of a program whose reader, such as `head`, has ended: 128 + SIGPIPE
# of the extra `search`
PACKAGES = (
    "PIL",
    "filelock",
    "holidays",
    "numpy",
    "onnxruntime",
    "safetensors",
    "starlette",
    "tokenizers",
    "tqdm",
    "uvicorn",
)
DEFAULT_MODEL = "the variable DCCLIP_MODEL, else the bundled model of photographs"


def _path(name: str) -> Path:
    """A path of the command line. An empty one, such as of a variable that is not set, would be the current folder."""
    if not name:
        raise argparse.ArgumentTypeError(translate("the name is empty"))
    return Path(name)


def _option(*names: str, **settings: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Arguments of `ArgumentParser.add_argument`."""
    return names, settings


def _model(default: str):
    return _option(
        "--model",
        metavar="FOLDER",
        type=_path,
        help=Message("Folder of an exported model, with onnx/. Default: {}.", Message(default)),
    )


INDEX = _option(
    "--index",
    metavar="DIR",
    type=_path,
    help="Folder of the index. Default: the variable DCCLIP_INDEX, else ~/.local/share/dcclip/index.",
)
MODEL_ID = _option(
    "--model_id",
    metavar="NAME",
    help="Hub id of the model; its students and their indexes are recognized by it. Default: the folder.",
)
# summary and options of each command
COMMANDS = {
    "index": (
        "Index folders of photographs, or bring the index up to date with them.",
        [
            INDEX,
            MODEL_ID,
            _model("the model of the index; for a new index the default model"),
            _option(
                "folders",
                metavar="FOLDER",
                nargs="*",
                type=_path,
                help="Folders of photographs, searched recursively. Default: the folders that the index has.",
            ),
            _option(
                "--truncate_dim",
                metavar="N",
                type=int,
                help="Number of leading dimensions that a new index stores. The model was trained for the `prefixes` "
                "in its config. Default: all.",
            ),
            _option(
                "--upgrade",
                metavar="MODEL",
                type=_path,
                help="Embed all photographs again with a new exported model, or with a new --truncate_dim. Searches "
                "use the old vectors until the new ones are complete.",
            ),
            _option(
                "--exclude",
                metavar="PATTERN",
                action="append",
                help="Leave out files and folders by name, such as *.png or private. A pattern with a slash is "
                "compared with the path below FOLDER, such as 2019/work/*, or from the root, such as "
                "~/Photos/private. May be repeated. Later runs leave them out as well, until FOLDER is named with "
                "new patterns, or with ''.",
            ),
            _option(
                "--watch",
                action="store_true",
                help="Keep running, and update the index once a minute.",
            ),
            _option(
                "--forget",
                metavar="FOLDER",
                type=_path,
                help="Remove an indexed folder from the index instead. No photograph is touched.",
            ),
            _option(
                "--json",
                action="store_true",
                help="Print a JSON object with all counts and failures.",
            ),
        ],
    ),
    "search": (
        "Find photographs by texts in Chinese or English, or by an example image.",
        [
            INDEX,
            MODEL_ID,
            _model("the model of the index"),
            _option(
                "texts",
                metavar="TEXT",
                nargs="*",
                help="What the photograph shows. Default: the newest photographs.",
            ),
            _option(
                "--not",
                dest="without",
                metavar="TEXT",
                action="append",
                default=[],
                help="What the photograph should not show. May be repeated.",
            ),
            _option(
                "--image",
                dest="images",
                metavar="FILE",
                type=_path,
                action="append",
                default=[],
                help="Example image, added to the query. May be repeated.",
            ),
            _option(
                "--all",
                action="store_true",
                help="Also list less likely photographs. JSON output always includes them.",
            ),
            _option(
                "--top",
                metavar="N",
                type=int,
                default=20,
                help="Maximum number of results. Default: 20.",
            ),
            _option(
                "--after",
                metavar="DATE",
                help="First date, as YYYY, YYYY-MM or YYYY-MM-DD.",
            ),
            _option("--before", metavar="DATE", help="Last date, in the same form."),
            _option(
                "--path",
                metavar="PATTERN",
                help="Part of the path, or a pattern of the whole path with * and ?, such as */2021/*.",
            ),
            _option("--json", action="store_true", help="Print a JSON list of results."),
            _option(
                "--paths",
                action="store_true",
                help="Print nothing but the paths of the photographs that fit, one a line.",
            ),
        ],
    ),
    "serve": (
        "Search an index on a local web page.",
        [
            INDEX,
            MODEL_ID,
            _model("the model of the index"),
            _option(
                "--host",
                default="127.0.0.1",
                help="Address to listen on; 0.0.0.0 for all devices in the network. Everyone who has the printed "
                "address with its token sees the photographs of the index. Default: 127.0.0.1.",
            ),
            _option(
                "--port",
                metavar="N",
                type=int,
                help="Port, 0 for a free one. Default: 8420, or the next free one.",
            ),
            _option("--open", action="store_true", help="Open the page in the browser."),
            _option(
                "--api",
                action="store_true",
                help="Serve embeddings and labels to other programs at /api instead of the page; no index is needed.",
            ),
        ],
    ),
    "status": (
        "Show the folders, model and size of an index, and what it left out.",
        [INDEX, _option("--json", action="store_true", help="Print a JSON object.")],
    ),
    "mcp": (
        "Let an assistant search the photographs, by the Model Context Protocol over stdin and stdout.",
        [INDEX, MODEL_ID, _model("the model of the index")],
    ),
    "label": (
        "Rank labels for an image.",
        [
            _model(DEFAULT_MODEL),
            _option("image", metavar="IMAGE", type=_path, help="Image file."),
            _option(
                "labels",
                metavar="LABEL",
                nargs="+",
                help="Labels in Chinese or English. Scores sum to 1, even if none fits.",
            ),
            _option(
                "--template",
                default="{}",
                help="Text around each label, with {} for the label. Default: {}.",
            ),
            _option("--json", action="store_true", help="Print a JSON list of labels and scores."),
        ],
    ),
}


def build_parser() -> argparse.ArgumentParser:
    """Build the parser; `options.command` is the name of the subcommand, `options.error` its parser's method."""
    summary, _, examples = (__doc__ or "").partition("\n\n")
    parser = TranslatedParser(prog=PROGRAM, description=translate(summary), epilog=examples)
    parser.add_argument(
        "--version",
        action="version",
        version=f"{PROGRAM} {__version__}",
        help=translate("show program's version number and exit"),
    )
    commands = parser.add_subparsers(
        title=translate("commands"),
        description="",  # argparse translates its default, None
        dest="command",
        required=True,
        metavar="COMMAND",
    )
    for name, (summary, options) in COMMANDS.items():
        text = translate(summary)
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(error=command.error, index=None, json=False)
        for names, settings in options:
            command.add_argument(*names, **settings | {"help": translate(settings["help"])})
    return parser


def main(argv: list[str] | None = None) -> None:
    """Parse and run; exit with code 2 and one line on stderr after a user error, and in silence after a closed pipe.

    A folder in place of a command is indexed and searched on the page of `serve`, with the options of both commands.

    Args:
        argv: Command-line arguments. Default: the arguments of the process.
    """
    warnings.filterwarnings("ignore", module="PIL")  # warnings about truncated metadata
    # paths may have bytes that are not UTF-8; on Windows, a pipe cannot take every character
    is_utf8 = codecs.lookup(sys.stdout.encoding or "ascii").name == "utf-8"
    errors = "surrogateescape" if is_utf8 else "backslashreplace"
    sys.stdout.reconfigure(errors=errors)  # type: ignore[union-attr]  # a text file, here and under test
    arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    parser = build_parser()
    if arguments[0] in COMMANDS or arguments[0].startswith("-"):
        options, unknown = parser.parse_known_args(arguments)
    elif os.path.isdir(arguments[0]):  # dcclip ~/Photos
        options, others = parser.parse_known_args(["index", *arguments])
        if options.watch:
            unknown = others  # it watches until it is stopped, and serves nothing
        else:
            served, unknown = parser.parse_known_args(["serve", "--open", *others])
            vars(options).update(vars(served) | vars(options) | {"command": "browse"})
    else:
        message = Message(
            "{!r} is neither a folder nor a command ({})", arguments[0], ", ".join(COMMANDS)
        )
        parser.error(translate(message))
    if unknown:
        message = Message("unrecognized arguments: {}", " ".join(unknown))
        if arguments[0] == "search":
            message = Message(
                '{}. To leave something out, write "beach -people" in quotes', message
            )
        options.error(translate(message))
    _run(options)


def _default_index() -> Path:
    if name := os.environ.get("DCCLIP_INDEX"):
        return Path(name)
    return Path.home() / ".local" / "share" / "dcclip" / "index"


def _run(options: argparse.Namespace):
    options.index = options.index or _default_index()
    try:
        # imported here, because --help must work, and fast, without the packages of the runtime
        from modeling_dcclip.search import commands

        commands.RUN[options.command](options)
        sys.stdout.flush()  # here, because a closed pipe is not a user error
    except BrokenPipeError:
        # for what Python flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BROKEN_PIPE)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in PACKAGES:
            raise
        text = '{} is not installed; it comes with the extra `search`. Run: pip install "dcclip[search]"'
        _exit(Message(text, error.name))
    except (ValueError, OSError) as error:
        _exit(message_of(error))
    except KeyboardInterrupt:
        print(file=sys.stderr)
        print_error(
            "stopped. The same command goes on where it stopped."
            if options.command in ("index", "browse")
            else "stopped."
        )
        sys.exit(130)


def _exit(message: str) -> None:
    print_error(message)
    sys.exit(2)


if __name__ == "__main__":
    main()
