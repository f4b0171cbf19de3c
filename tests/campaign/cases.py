"""The cases: tables of bad inputs, by class."""

import io
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from modeling_dcclip.handler import parse_request
from modeling_dcclip.image_dcclip import open_image
from tests.campaign.named_images import named_images
from tests.campaign.outcome import CLEAR, EITHER, RIGHT, Case, Hole, Lost
from tests.campaign.permissions import permissions
from tests.training.utils.test_results import DAMAGED
from training.config import (
    LIMITS,
    AlignRecipe,
    AugmentConfig,
    DataConfig,
    DistillRecipe,
    StudentConfig,
    TrainingRecipe,
)
from training.config import recipe_from_args as parse
from training.data.captions import usable_captions
from training.data.images import CellRules, decode_image
from training.data.sources import check_split, load_source
from training.demo.folders import claim_demo_folder
from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.templates import read_templates
from training.hub.contents import without_local_paths
from training.utils.output import claim_folder
from training.utils.results import Results

FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
FOREIGN_FORMATS = ("EPS", "PDF", "PCX", "TGA", "DDS", "SGI")
DAMAGED_PER_FORMAT = 24
EDGES = (-1, 0, 1, 2, -0.5, 0.5, math.nan, math.inf, -math.inf, 10**30, 1e-300)
WRONG_TYPES: tuple[Any, ...] = ("word", [[1]], {"a": 1}, None)


def all_cases() -> list[Case]:
    """Every case, in the order of the table."""
    groups = (
        _numbers, _types, _recipe_files, _options, _images, _image_modes, _cells, named_images, _endpoint, _captions,
        _class_names, _results, _templates, _folders, _sources, _local_paths, permissions,
    )  # fmt: skip
    return [case for group in groups for case in group()]


def _recipe(folder: Path, recipe_class: type[TrainingRecipe], content: dict[str, Any]) -> TrainingRecipe:
    """Parse a recipe file as the commands do."""
    needed = {"output_dir": "x", "data": {"train": "x.parquet"}}
    needed |= {"teacher": "x", "student": {}} if recipe_class is DistillRecipe else {"student": "x"}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(_merge(needed, content)), encoding="utf-8")
    return parse(recipe_class, ["--config", str(path)])


def _merge(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    both = dict(first)
    for key, value in second.items():
        both[key] = _merge(both[key], value) if isinstance(both.get(key), dict) and isinstance(value, dict) else value
    return both


def _number_fields() -> Iterator[tuple[type, str]]:
    """Configuration class and name of every limited number."""
    for config in (DistillRecipe, AlignRecipe, DataConfig, AugmentConfig, StudentConfig):
        for option in fields(config):
            if option.name in LIMITS:
                yield config, option.name


def _numbers() -> Iterator[Case]:
    for config, name in _number_fields():
        for value in EDGES:
            # within the limits another rule may refuse it
            expected = EITHER if value in LIMITS[name] else CLEAR
            run = partial(_configure, config=config, name=name, value=value)
            yield Case("numbers of recipes", f"{config.__name__}.{name}={value}", run, expected)


def _configure(folder: Path, config: type, name: str, value: float):
    data = DataConfig(train="x.parquet")
    needed: dict[type, dict[str, Any]] = {
        DistillRecipe: {"output_dir": "x", "data": data, "teacher": "x", "student": StudentConfig()},
        AlignRecipe: {"output_dir": "x", "data": data, "student": "x"},
        DataConfig: {"train": "x.parquet"},
    }
    config(**needed.get(config, {}) | {name: value})


def _types() -> Iterator[Case]:
    for name in ("max_steps", "learning_rate", "betas", "data", "student.image_size", "augment.zoom"):
        for value in WRONG_TYPES:
            first, _, rest = name.partition(".")
            content = {first: {rest: value}} if rest else {first: value}
            run = partial(_recipe, recipe_class=DistillRecipe, content=content)
            expected = EITHER if value is None else CLEAR
            yield Case("types of recipes", f"{name}={value!r}", run, expected)


RECIPE_FILES = {
    "binary": b"\x00\xff\xfe", "latin-1": "teacher: café".encode("latin-1"),
    "empty": b"", "list": b"- a", "number": b"5",
    "open bracket": b"a: [1", "control character": b"a: \x07", "recursion": b"a: &a [*a]",
    "tag": b"output_dir: !!python/object/apply:os.system [exit]", "unknown field": b"learnign_rate: 1",
    "long": b"a: " + b"x" * 10_000_000,
}  # fmt: skip


def _recipe_files() -> Iterator[Case]:
    def run(folder: Path, content: bytes):
        (folder / "a.yaml").write_bytes(content)
        parse(DistillRecipe, ["--config", str(folder / "a.yaml")])

    for name, content in RECIPE_FILES.items():
        yield Case("recipe files", name, partial(run, content=content), CLEAR)


OPTIONS: tuple[tuple[type[TrainingRecipe], dict[str, Any], str], ...] = (
    (DistillRecipe, {"embedding_weight": 0, "map_weight": 0}, CLEAR),
    (DistillRecipe, {"embedding_weight": 0, "target": "embedding"}, CLEAR),
    (DistillRecipe, {"embedding_weight": 0, "target": "logits"}, RIGHT),
    (AlignRecipe, {"contrastive_weight": 0}, CLEAR),
    (AlignRecipe, {"language_weights": {"en": 0, "zh": 0}}, CLEAR),
    (AlignRecipe, {"language_weights": {"en": -1}}, CLEAR),
    (AlignRecipe, {"extra_weights": {"x": -1}}, CLEAR),
    (AlignRecipe, {"new_student": {}}, CLEAR),
    (DistillRecipe, {"eval_every": 5}, CLEAR),
    (DistillRecipe, {"push_to_hub": True}, CLEAR),
    (DistillRecipe, {"resume_with_changes": True}, CLEAR),
    (DistillRecipe, {"betas": [1, 1]}, CLEAR),
    (DistillRecipe, {"betas": [0.9]}, CLEAR),
    (DistillRecipe, {"data": {"train": None}}, CLEAR),
    (DistillRecipe, {"data": {"caption_columns": {}}}, CLEAR),
    (DistillRecipe, {"data": {"streaming": True, "in_memory": True}}, CLEAR),
    (DistillRecipe, {"data": {"train": "os:abort"}}, CLEAR),
    (DistillRecipe, {"data": {"train": "training.corpus.emoji:load_train"}}, RIGHT),
    (DistillRecipe, {"eval": {"data": "os:abort"}}, CLEAR),
    (DistillRecipe, {"student": {"image_mean": [0.5, 0.5]}}, CLEAR),
    (DistillRecipe, {"student": {"image_std": [0, 0, 0]}}, CLEAR),
    (DistillRecipe, {"student": {"image_std": [0.2, 0.2, 0.2]}}, RIGHT),
    (DistillRecipe, {"tower": "both of them"}, CLEAR),
    (DistillRecipe, {"schedule": "none"}, CLEAR),
    (DistillRecipe, {}, RIGHT),
    (AlignRecipe, {}, RIGHT),
)


def _options() -> Iterator[Case]:
    for recipe_class, content, expected in OPTIONS:
        run = partial(_recipe, recipe_class=recipe_class, content=content)
        yield Case("options of recipes", f"{recipe_class.__name__} {content}", run, expected)


def _encoded(file_format: str, image: Image.Image | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    (image or Image.fromarray(noise)).save(file, file_format, **options)
    return file.getvalue()


def _is_cause_or_pixels(folder: Path, content: bytes):
    """A damaged image is a counted skip in training, evaluation and endpoint, or decodes."""
    decode_image({"bytes": content, "path": None}, 32)


def _images() -> Iterator[Case]:
    for file_format in FORMATS:
        whole = _encoded(file_format)
        yield Case("damaged images", f"{file_format}, whole", partial(_is_cause_or_pixels, content=whole), RIGHT)
        generator = np.random.default_rng(len(file_format))
        for number in range(DAMAGED_PER_FORMAT):
            damaged = bytearray(whole[: int(generator.integers(4, len(whole)))] if number % 3 == 0 else whole)
            for position in generator.integers(0, len(damaged), 1 + number):
                damaged[position] = int(generator.integers(0, 256))
            run = partial(_is_cause_or_pixels, content=bytes(damaged))
            yield Case("damaged images", f"{file_format}, {number}", run, RIGHT)
    for name, content in {"empty": b"", "text": b"text", "zeros": bytes(1000)}.items():
        yield Case("damaged images", name, partial(_is_cause_or_pixels, content=content), RIGHT)
    for file_format in FOREIGN_FORMATS:
        run = partial(_must_not_open, content=_encoded(file_format))
        yield Case("formats that are not opened", file_format, run, RIGHT)


def _must_not_open(folder: Path, content: bytes):
    if not isinstance(decode_image({"bytes": content, "path": None}, 32), str):
        raise Hole("a format that nobody means was opened")


def _image_modes() -> Iterator[Case]:
    """Gradients of every type keep their mean and are neither white nor black."""
    for dtype, largest, file_format in (
        ("uint16", 65535, "PNG"), ("uint16", 65535, "TIFF"), ("int32", 65535, "TIFF"), ("int32", 255, "TIFF"),
        ("float32", 1, "TIFF"), ("float32", 255, "TIFF"), ("float32", 65535, "TIFF"), ("uint8", 255, "PNG"),
    ):  # fmt: skip
        values = (np.linspace(0, 1, 1024).reshape(32, 32) * largest).astype(dtype)
        run = partial(_keeps_mean, content=_encoded(file_format, Image.fromarray(values)))
        yield Case("pixel types", f"{dtype}, 0..{largest}, {file_format}", run, RIGHT)
    long = _encoded("PNG", Image.new("L", (200_000, 1)))
    yield Case("pixel types", "200,000 x 1", partial(_is_cause_or_pixels, content=long), RIGHT)


def _keeps_mean(folder: Path, content: bytes):
    mean = np.asarray(open_image(content), float).mean()
    if abs(mean - 127.5) > 2:
        raise AssertionError(f"the mean of a gradient is {mean}")


def _cells() -> Iterator[Case]:
    def run(folder: Path, cell: Any):
        (folder / "secret.png").write_bytes(_encoded("PNG"))
        cell = str(folder / cell) if cell == "secret.png" else cell
        if not isinstance(decode_image(CellRules()(cell), 32), str):
            raise Hole("a file or URL that the data name was opened")

    for cell in (
        "http://127.0.0.1:9/a.png", "https://169.254.169.254/latest", "file:///etc/passwd", "/etc/passwd",
        "secret.png",
        "../../etc/passwd", "~/.ssh/id_rsa",
        "hf://datasets/a/b/c.png", "", None, 5, {}, {"path": "/etc/passwd"},
        {"bytes": None, "path": None}, [1, 2],
    ):  # fmt: skip
        yield Case("cells of the data", repr(cell), partial(run, cell=cell), RIGHT)


ENDPOINT: tuple[tuple[Any, str], ...] = (
    (None, CLEAR), ([], CLEAR), ("text", CLEAR), (5, CLEAR), ({}, CLEAR), ({"inputs": None}, CLEAR),
    ({"inputs": 5}, CLEAR), ({"inputs": "http://127.0.0.1/a.png"}, CLEAR), ({"inputs": "not base64!"}, CLEAR),
    ({"inputs": b""}, CLEAR), ({"inputs": b"text"}, CLEAR), ({"inputs": "A" * 60_000_000}, CLEAR),
    ({"inputs": {"image": None}}, CLEAR), ({"parameters": []}, CLEAR), ({"parameters": "x"}, CLEAR),
    ({"candidate_labels": []}, CLEAR), ({"candidate_labels": [""]}, CLEAR), ({"candidate_labels": "，,"}, CLEAR),
    ({"candidate_labels": 5}, CLEAR), ({"candidate_labels": [5]}, CLEAR), ({"candidate_labels": [None]}, CLEAR),
    ({"candidate_labels": ["x"] * 1001}, CLEAR), ({"candidate_labels": ["x" * 10_000_000]}, CLEAR),
    ({"candidate_labels": "x" * 10_000_000}, CLEAR), ({"candidate_labels": ["\ud800"]}, CLEAR),
    ({"candidate_labels": {"a": 1}}, CLEAR), ({"hypothesis_template": "no place"}, CLEAR),
    ({"hypothesis_template": 5}, CLEAR), ({"hypothesis_template": "{}" * 100}, CLEAR),
    ({"hypothesis_template": "{}" + "x" * 5000}, CLEAR), ({"hypothesis_template": "{}\udfff"}, CLEAR),
    ({"hypothesis_template": "一张{}的图片"}, RIGHT), ({"candidate_labels": "狐狸，狗、猫"}, RIGHT), ({}, CLEAR),
)  # fmt: skip


def _endpoint() -> Iterator[Case]:
    image = Image.new("RGB", (8, 8))
    for number, (request, expected) in enumerate(ENDPOINT):
        if isinstance(request, dict) and request:
            request = {"inputs": image, "candidate_labels": ["a"]} | request
        yield Case("requests of the endpoint", str(number), partial(_request, request=request), expected)
    for name, content in {"bomb": Image.new("1", (9000, 9000)), "long": Image.new("1", (200_000, 1))}.items():
        payload = {"inputs": _encoded("PNG", content), "candidate_labels": ["a"]}
        expected = CLEAR if name == "bomb" else RIGHT
        yield Case("requests of the endpoint", name, partial(_request, request=payload), expected)


def _request(folder: Path, request: Any):
    parse_request(request)


def _captions() -> Iterator[Case]:
    cells = (
        None,
        [],
        "",
        " ",
        "\u3000",
        5,
        b"x",
        [None],
        [5],
        ["", None],
        {},
        "!?…",
        "。、",
        "\ud800",
        ["a", "\udfff"],
    )
    for cell in cells:
        yield Case("captions", repr(cell), partial(_caption, cell=cell, usable=int(cell == ["a", "\udfff"])), RIGHT)
    for cell in ("a fox", "狐狸", "2024", "№5", ["a", "b"], " x "):
        yield Case("captions", repr(cell), partial(_caption, cell=cell, usable=1 + isinstance(cell, list)), RIGHT)


def _caption(folder: Path, cell: Any, usable: int):
    texts, causes = usable_captions(cell)
    if len(texts) != usable or (not texts and not causes):
        raise AssertionError(f"{len(texts)} usable captions, causes {causes}")


def _class_names() -> Iterator[Case]:
    contents: dict[str, Any] = {
        "empty": b"", "binary": b"\xff\xfe", "no JSON": b"{", "number": 5, "null": None, "empty list": [], "dict": {},
        "numbers": [1, 2], "null name": [{"en": None}], "empty name": [{"en": ""}], "blank name": [{"en": " "}],
        "missing language": [{"en": "a", "zh": "b"}, {"en": "c"}], "no label language": [{"zh": "a"}],
        "same name": [{"en": "a"}, {"en": "a"}], "nested": [[["a"]]], "mixed": ["a", {"en": "b"}],
    }  # fmt: skip
    for name, content in contents.items():
        yield Case("class names", name, partial(_read_names, content=content), CLEAR)
    yield Case("class names", "right", partial(_read_names, content=[{"en": "a"}, {"en": "b"}]), RIGHT)
    yield Case("class names", "missing file", lambda folder: ClassNames.read(folder / "none.json"), CLEAR)


def _write(path: Path, content: Any) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def _read_names(folder: Path, content: Any):
    ClassNames.read(_write(folder / "names.json", content))


def _results() -> Iterator[Case]:
    for number, content in enumerate(DAMAGED):
        run = partial(_read_results, content=content)
        yield Case("results files", f"{number}: {content[:60]!r}", run, CLEAR)


def _read_results(folder: Path, content: bytes):
    Results.read(_write(folder / "results.json", content))


def _templates() -> Iterator[Case]:
    contents: dict[str, Any] = {
        "empty": b"", "binary": b"\xff", "list": [], "no language": {"zh": ["{}"]}, "no place": {"en": ["a photo"]},
        "two places": {"en": ["{} {}"]}, "named place": {"en": ["{name}"]}, "number": {"en": [5]},
        "null": {"en": None},
        "no templates": {"en": []}, "other set": {"en": {"other": ["{}"]}}, "open brace": {"en": ["{} {"]},
    }  # fmt: skip
    for name, content in contents.items():
        yield Case("prompt templates", name, partial(_read_templates, content=content), CLEAR)
    yield Case("prompt templates", "right", partial(_read_templates, content={"en": ["a {}"]}), RIGHT)


def _read_templates(folder: Path, content: Any):
    read_templates(str(_write(folder / "templates.json", content)), "en", "mnist")


NAMES = ("README.md", "LICENSE", "config.json", "handler.py", "requirements.txt", "model.safetensors", "log.jsonl")


def _folders() -> Iterator[Case]:
    """Files of the user are still there afterwards, whatever the command says."""
    for name in NAMES:
        yield Case("files of the user", name, partial(_claim_with, name=name), CLEAR)
    for name in ("log.tmp", ".cache.tmp", "config.tmp", ".model.tmp", "notes.txt", ".export.tmp", ".best.old"):
        yield Case("files of the user", name, partial(_claim_with, name=name), RIGHT)
    for name in ("model/notes.txt", "aligned/notes.txt", "model", "results.json"):
        yield Case("files of the user", f"demo: {name}", partial(_demo_with, name=name), CLEAR)
    for relation in ("equal", "link", "name"):
        yield Case("files of the user", f"input: {relation}", partial(_claim_input, relation=relation), CLEAR)


def _keeping(path: Path, run: Callable[[], None]):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine", encoding="utf-8")
    try:
        run()
    finally:
        if not path.exists() or path.read_text(encoding="utf-8") != "mine":
            raise Lost(f"{path.name} was changed or removed")


def _claim_with(folder: Path, name: str):
    def run():
        with claim_folder(folder, NAMES, command="distill"):
            for written in NAMES:
                (folder / written).write_text("ours", encoding="utf-8")

    _keeping(folder / name, run)


def _demo_with(folder: Path, name: str):
    def run():
        with claim_demo_folder(folder, ["aligned"], ["model"], ["results.json"]):
            pass

    _keeping(folder / name, run)


def _claim_input(folder: Path, relation: str):
    teacher = folder / "teacher"
    teacher.mkdir()
    output = {"equal": teacher, "link": folder / "link", "name": folder}[relation]
    if relation == "link":
        os.symlink(teacher, output)
    names = ["teacher"] if relation == "name" else ["config.json"]
    with claim_folder(output, names, command="distill", inputs={"teacher": str(teacher)}, overwrite=True):
        raise Lost("the teacher's folder would have been overwritten")


def _sources() -> Iterator[Case]:
    for name in (
        "{0..99999999}.parquet",
        "none.parquet",
        "none/*.tar",
        "os:no_such",
        "no.such.module:load",
        ":",
        "a:b:c",
        "",
    ):
        yield Case("sources", name, partial(_load, name=name), CLEAR)
    yield Case("sources", "split of files", lambda folder: check_split("a.parquet", "validation"), CLEAR)
    contents = {"empty": b"", "text": b"text", "truncated": b"PAR1" + bytes(100)}
    for name, content in contents.items():
        yield Case("sources", f"{name} parquet", partial(_load_file, content=content, suffix="parquet"), CLEAR)


def _load(folder: Path, name: str):
    load_source(name)


def _load_file(folder: Path, content: bytes, suffix: str):
    load_source(str(_write(folder / f"a.{suffix}", content)))


def _local_paths() -> Iterator[Case]:
    for text in (
        "--data /home/me/a.parquet", "SET=/home/me/a.parquet", "'/home/me/my images/a.parquet'", "file:///home/me/a",
        "/home/me/{0..9}.tar", "/home/me/*.tar", r"C:\\Users\\me\\a.parquet", "~me/a/b", "~/me/a.parquet",
        '"/home/me/a b/c.png"', "(/home/me/a.png)", "x=/home/me/a;y", "`/home/me/a`",
    ):  # fmt: skip
        yield Case("local paths in published texts", text, partial(_clean, text=text), RIGHT)


def _clean(folder: Path, text: str):
    cleaned = without_local_paths(text)
    if "home" in cleaned or "Users" in cleaned or "me/" in cleaned:
        raise Hole(f"{cleaned!r} is left")
