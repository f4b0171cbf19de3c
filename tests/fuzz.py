"""Feed random and damaged input to what reads other people's data, for a bounded time.

    python -m tests.fuzz --minutes 60
    python -m tests.fuzz --minutes 5 --targets image handler

The time is divided among the targets. Bytes of images come from atheris, which follows the code that an input reaches;
the other inputs come from hypothesis. A finding is any exception but a clear error, and is printed with its input. The
exit code is 1 if there is one. This needs `pip install atheris hypothesis`.
"""

import base64
import io
import json
import logging
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from modeling_dcclip.handler import parse_request
from modeling_dcclip.index_dcclip import Index
from modeling_dcclip.manifest_dcclip import FORMAT, MANIFEST, VERSION
from tests.campaign.cases import FORMATS
from tests.campaign.outcome import MAX_CHARACTERS, NAMED
from training.config import AlignRecipe, DataConfig, DistillRecipe, StudentConfig, recipe_from_args
from training.data import usable_captions
from training.data.images import decode_image
from training.data.shard_stream import Shards
from training.data.sources import open_stream
from training.evaluation.sets.class_names import ClassNames
from training.finetuning.tables import read_table
from training.utils.cli import parse_options
from training.utils.results import Results, Row

EXAMPLES_AT_ONCE = 200  # between two looks at the clock
LIMIT_S = 20  # of one input
MAX_BYTES = 8192  # of an input of atheris
MAX_MIB = 4096  # memory of a process
FOLLOWED = ("PIL.", "modeling_dcclip.image_dcclip", "training.data.")
GRACE_S = 1200  # for the start and the end of a process, on a machine with other work
TINY = Image.linear_gradient("L").resize((16, 12)).convert("RGB")


class Finding(Exception):
    """An input did not end well."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the fuzzing.

    Args:
        minutes: Time for all targets together.
        targets: Targets to feed. Default: all.
        worker: Feed only this target in this process; the command uses it for itself.
        seed: Seed of the random inputs.
    """

    minutes: float = 60.0
    targets: list[str] = field(default_factory=list)
    worker: str | None = None
    seed: int = 0


def expect_clear(run: Callable[[], object]):
    """Run a function. It may raise a clear error.

    Raises:
        Finding: It raises another exception, or its message is not clear.
    """
    try:
        run()
    except ValueError as error:
        message = str(error)
        if not NAMED.match(message) or len(message) > MAX_CHARACTERS:
            raise Finding(f"unclear error {message[:500]!r}") from error
    except Exception as error:
        raise Finding(f"{type(error).__name__}: {error}") from error


# inputs of bytes


def feed_image(content: bytes, folder: Path):
    """Decode an image of a training set: pixels, or the cause why it is skipped."""
    try:
        decode_image({"bytes": content, "path": None}, 32)
    except Exception as error:
        raise Finding(f"{type(error).__name__}: {error}") from error


def seeds_of_images() -> list[bytes]:
    """Valid images of every format, which atheris changes."""
    files = []
    for file_format in FORMATS:
        file = io.BytesIO()
        TINY.save(file, file_format)
        files.append(file.getvalue())
    return files


BYTES: dict[str, Callable[[bytes, Path], None]] = {"image": feed_image}


# inputs of hypothesis

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
ENCODED = st.binary(max_size=200).map(lambda content: base64.b64encode(content).decode())
REQUEST_FIELDS = ("inputs", "image", "parameters", "candidate_labels", "hypothesis_template")
REQUESTS = JSON | st.dictionaries(
    st.sampled_from(REQUEST_FIELDS),
    JSON | ENCODED | st.text() | st.dictionaries(st.sampled_from(REQUEST_FIELDS), JSON | ENCODED, max_size=3),
)
FIELDS = {
    recipe: sorted(recipe.__dataclass_fields__) for recipe in (DistillRecipe, AlignRecipe, DataConfig, StudentConfig)
}
NAMES = st.text(max_size=6) | st.sampled_from(["en", "zh", "a", ""])
CLASSES = JSON | st.lists(st.dictionaries(st.sampled_from(["en", "zh"]), NAMES | JSON, max_size=2), max_size=4)


def recipes() -> st.SearchStrategy[dict[str, Any]]:
    """Recipes of known fields with any values."""

    def section(recipe: type) -> st.SearchStrategy[dict[str, Any]]:
        return st.dictionaries(st.sampled_from(FIELDS[recipe]), JSON, max_size=2)

    return st.builds(
        lambda fields, data, student: (
            {"output_dir": "x", "teacher": "x"} | {"data": {"train": "x.parquet"} | data, "student": student} | fields
        ),
        section(DistillRecipe),
        section(DataConfig),
        section(StudentConfig),
    )


def feed_recipe(content: dict, folder: Path):
    """Parse a recipe file."""
    path = folder / "recipe.yaml"
    try:
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
    except UnicodeEncodeError:  # half a surrogate pair cannot be in a file
        return
    expect_clear(lambda: recipe_from_args(DistillRecipe, ["--config", str(path)]))


def feed_request(content: Any, folder: Path):
    """Parse a request of the endpoint, whose messages start with the field or a sentence."""
    try:
        parse_request(content)
    except ValueError as error:
        if not str(error) or len(str(error)) > MAX_CHARACTERS:
            raise Finding(f"unclear error {str(error)[:500]!r}") from error
    except Exception as error:
        raise Finding(f"{type(error).__name__}: {error}") from error


def feed_caption(cell: Any, folder: Path):
    """Take the captions of a cell."""
    texts, causes = usable_captions(cell)
    if not texts and not causes:
        raise Finding("neither captions nor causes")
    for text in texts:
        text.encode()


def feed_classes(content: Any, folder: Path):
    """Read a file of class names."""
    path = folder / "names.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    expect_clear(lambda: ClassNames.read(path))


def feed_table(content: bytes, folder: Path):
    """Read a CSV file of a user."""
    path = folder / "a.csv"
    path.write_bytes(content)
    expect_clear(lambda: read_table(path))


TABLES = st.binary(max_size=300) | st.lists(st.lists(st.text(max_size=8), max_size=4).map(",".join), max_size=6).map(
    lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass")
)


def feed_tar(content: bytes, folder: Path):
    """Read a tar shard to its end, as a stream."""
    path = folder / "0.tar"
    path.write_bytes(content)

    def read():
        shards = Shards(open_stream(str(path)), 0, str(path), "png", ["txt"])
        for number in range(len(shards)):
            for _ in shards.read(number, 0):
                pass

    expect_clear(read)


def feed_results(content: bytes, folder: Path):
    """Read a `results.json`, and render its table."""
    path = folder / "results.json"
    path.write_bytes(content)
    expect_clear(lambda: Results.read(path).table())


def feed_manifest(content: bytes, folder: Path):
    """Open an index whose manifest is damaged."""
    (folder / MANIFEST).write_bytes(content)
    expect_clear(lambda: Index.open(folder).close())


def tar_of(members: list[tuple[str, bytes]]) -> bytes:
    """Content of a tar shard."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def damaged(contents: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Contents of files of which some bytes are replaced, and the end is cut."""
    places = st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=12)), max_size=4)

    def change(content: bytes, changes: list[tuple[float, bytes]], kept: float) -> bytes:
        for place, piece in changes:
            start = round(place * len(content))
            content = content[:start] + piece + content[start + len(piece) :]
        return content[: round(kept * len(content))]

    return st.builds(change, contents, places, st.just(1.0) | st.floats(0, 1))


def json_files(fields: dict[str, Any], rows: str | None = None) -> st.SearchStrategy[bytes]:
    """JSON files like a valid one: as it is, with other values of its fields, or anything."""
    names = st.sampled_from(sorted(fields))
    changed = st.dictionaries(names, JSON, max_size=2).map(lambda changes: fields | changes)
    content = JSON | (changed if rows is None else changed.map(lambda row: {"meta": {}, rows: [fields, row]}))
    return damaged(content.map(lambda value: json.dumps(value).encode()))


MEMBERS = [
    (f"{number}.{extension}", content)
    for number in range(2)
    for extension, content in (("png", seeds_of_images()[0]), ("txt", b"a frog"), ("json", b'{"a": [1]}'))
]
TARS = damaged(
    st.just(tar_of(MEMBERS))
    | st.lists(st.tuples(st.text("01./aé", min_size=1, max_size=6), st.binary(max_size=40)), max_size=4)
    .map(lambda members: [(f"{name}.{kind}", content) for name, content in members for kind in ("png", "txt")])
    .map(tar_of)
)
ROW = asdict(Row(model="a", metric="top1", value=0.5, set="b", language="en", interval=(0.4, 0.6)))
INDEX = {
    "format": FORMAT, "version": VERSION, "created": "2026-01-01", "data": "data-1", "dtype": "float16", "maps": {},
    "engine": "scan", "model_folder": "model",
    "space": {"model": "a", "weights": "b", "dimension": 8, "teacher": None, "preprocessing": {}},
}  # fmt: skip
VALUES: dict[str, tuple[Callable[[Any, Path], None], st.SearchStrategy]] = {
    "recipe": (feed_recipe, recipes()),
    "handler": (feed_request, REQUESTS),
    "captions": (feed_caption, JSON | st.binary()),
    "class_names": (feed_classes, CLASSES),
    "table": (feed_table, TABLES),
    "tar": (feed_tar, TARS),
    "results": (feed_results, json_files(ROW, "rows")),
    "manifest": (feed_manifest, json_files(INDEX)),
}


def work_on_values(target: str, until: float, first_seed: int, folder: Path) -> int:
    """Feed values of hypothesis to a target until a time, and return their number."""
    feed, strategy = VALUES[target]
    total, number = 0, first_seed

    while time.monotonic() < until:

        @seed(number)
        @settings(
            max_examples=EXAMPLES_AT_ONCE,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink),
        )
        @given(strategy)
        def run(value: Any):
            nonlocal total
            total += 1
            feed(value, folder)

        run()
        number += 1
    return total


def work_on_bytes(target: str, seconds: float, first_seed: int, folder: Path):
    """Feed bytes of atheris to a target. libFuzzer ends the process."""
    import atheris

    corpus, scratch = folder / "corpus", folder / "scratch"
    corpus.mkdir()
    scratch.mkdir()
    for number, content in enumerate(seeds_of_images()):
        (corpus / str(number)).write_bytes(content)
    options = {
        "max_total_time": max(1, round(seconds)), "timeout": LIMIT_S, "rss_limit_mb": MAX_MIB, "seed": first_seed + 1,
        "max_len": MAX_BYTES, "artifact_prefix": f"{folder}/found-", "verbosity": 0, "print_final_stats": 1,
    }  # fmt: skip
    arguments = [sys.argv[0], *(f"-{name}={value}" for name, value in options.items()), str(corpus)]
    atheris.Setup(arguments, lambda content: BYTES[target](content, scratch))
    for function in followed_functions():
        atheris.instrument_func(function)
    atheris.Fuzz()


def followed_functions() -> list[FunctionType]:
    """Functions of Pillow and this project, whose code atheris follows; PyTorch would take minutes."""
    Image.init()
    modules = [module for name, module in sys.modules.items() if name.startswith(FOLLOWED) and name != __name__]
    owners = [*modules, *(each for module in modules for each in vars(module).values() if isinstance(each, type))]
    functions = {each for owner in owners for each in vars(owner).values() if isinstance(each, FunctionType)}
    return [each for each in functions if each.__module__ and each.__module__.startswith(FOLLOWED)]


def run_target(target: str, minutes: float, first_seed: int) -> str | None:
    """Feed a target in a process of its own.

    Returns:
        The end of its output if there is a finding.
    """
    command = [sys.executable, "-m", "tests.fuzz", "--worker", target, "--minutes", str(minutes)]
    limit_s = 60 * minutes + GRACE_S + LIMIT_S
    try:
        run = subprocess.run(
            [*command, "--seed", str(first_seed)], capture_output=True, text=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer after {limit_s:.0f} s"
    output = run.stdout + run.stderr
    counts = [line for line in output.splitlines() if "number_of_executed_units" in line or line.startswith("fed ")]
    print(f"{target}: {' '.join(counts[-1].split()[-1:]) if counts else 'unknown'} inputs", flush=True)
    return output[-3000:] if run.returncode else None


def work(options: Options) -> int:
    """Feed one target in this process."""
    logging.disable(logging.WARNING)  # a tar file without an end mark is one for each input
    target = str(options.worker)
    with tempfile.TemporaryDirectory(prefix="dcclip-fuzz-") as folder:
        if target in BYTES:
            work_on_bytes(target, 60 * options.minutes, options.seed, Path(folder))
            return 0
        until = time.monotonic() + 60 * options.minutes
        try:
            print(f"fed {work_on_values(target, until, options.seed, Path(folder))}")
        except Exception:
            traceback.print_exc()
            return 1
    return 0


def main(argv: list[str] | None = None) -> int:
    """Parse the options, feed the targets one after the other, and return the number of targets with a finding."""
    options = parse_options(Options, argv, prog="python -m tests.fuzz", description=__doc__ or "")
    if options.worker is not None:
        return work(options)
    known = [*BYTES, *VALUES]
    if unknown := sorted(set(options.targets) - set(known)):
        raise SystemExit(f"fuzz: targets: {unknown} are not among {', '.join(known)}. Name some of these.")
    targets = options.targets or known
    findings = 0
    for target in targets:
        if (found := run_target(target, options.minutes / len(targets), options.seed)) is not None:
            findings += 1
            print(f"{target}: FINDING\n{found}", flush=True)
    print(f"{findings} of {len(targets)} targets have a finding")
    return findings


if __name__ == "__main__":
    sys.exit(bool(main()))
