"""Build a static web page, or Space, that labels and searches images in the browser with an exported model.

python -m training.edge.web                                                the model of photographs, free photographs
python -m training.edge.web --model runs/demo/edge --images MY_IMAGES --output_dir site
"""

import json
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.utils.cli import hide_library_bars, parse_options, user_errors
from training.utils.files import (
    REPO_ROOT,
    holds_files,
    recover_folder,
    replace_folder,
    scratch_folder,
)
from training.utils.output import check_replaceable, claim_folder, record_tree

if TYPE_CHECKING:
    from training.teachers import DualEncoder

PAGE = REPO_ROOT / "model_cards" / "web"
PAGE_FILES = ("index.html", "style.css", "app.js", "encoder.js", "resize.js", "search.js")
# the modules in the import map of index.html, and the kernels. The build without WebGPU is half as large and loads
# faster
LIBRARIES = {
    "transformers.js": "@huggingface/transformers/dist/transformers.web.min.js",
    "ort.mjs": "onnxruntime-web/dist/ort.wasm.bundle.min.mjs",
    "ort-wasm-simd-threaded.wasm": "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
}
MODEL_FILES = ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")
TOWERS = ("vision_model", "text_model")
# number formats by their names in transformers.js, the preferred one first: a file in int8 exists only if it is faster
# than fp32 and passed the accuracy gate
SUFFIXES = {"q8": "_quantized", "fp32": ""}
EXAMPLES = ("example.jpg", "example.png")
# makes the folder a static Space of the Hub
SPACE_CARD = """---
title: {title}
emoji: 🐈
colorFrom: blue
colorTo: gray
sdk: static
license: {license}
short_description: Label and search images in Chinese and English
tags: [dcclip, zero-shot-image-classification]
---

The model runs in the browser. This folder was made by `python -m training.edge.web`.
"""
MAX_SIZE = 192  # longer edge of the written images, in pixels


@dataclass(frozen=True, kw_only=True)
class WebOptions:
    """What the page shows.

    Args:
        model: Model folder with `onnx/`, as `training/export.py` writes it.
        images: Images to search: a folder of images, a parquet file, a Hub id, or `module:function`. By default, free
            photographs from pip packages.
        allow_paths: Whether image files outside the folder of a data set, which it names by path, are opened.
            Otherwise it is refused.
        output_dir: Folder for the finished page, which any web server can serve. An older page is replaced.
        node_modules: Folder of the libraries that npm installed.
    """

    model: str = "model_cards/dcclip-tiny-photo"
    images: str = "training.corpus.free_photos:load_images"
    allow_paths: bool = False
    output_dir: str = "runs/web"
    node_modules: str = str(PAGE / "node_modules")


def main(argv: list[str] | None = None):
    """Parse the options and write the page."""
    options = parse_options(
        WebOptions, argv, prog="python -m training.edge.web", description=__doc__ or ""
    )
    with user_errors("web", extra="photos"):
        hide_library_bars()
        failures = write_page(options)
    for name, cause in failures:
        print(f"left out {name}: {cause}")
    print(f"{options.output_dir}: the page is complete; any web server can serve this folder")
    print(
        f"\nNext:\n  python -m http.server --bind 127.0.0.1 --directory {shlex.quote(options.output_dir)}"
    )


def write_page(options: WebOptions) -> list[tuple[str, str]]:
    """Write page, libraries, exported model and images to the output folder, atomically.

    Returns:
        Name and cause of each image that does not decode; the page has the others.

    Raises:
        ValueError: Libraries, model files or exported towers are missing, or the folder holds other files.
    """
    # after parsing, so that --help answers without PyTorch
    from training.teachers import DualEncoder

    folder, output_dir, node_modules = (
        Path(options.model),
        Path(options.output_dir),
        Path(options.node_modules),
    )
    recover_folder(output_dir)
    _check(folder, output_dir, node_modules)
    with claim_folder(output_dir, (), command="web"), scratch_folder(output_dir) as scratch:
        for name in PAGE_FILES:
            shutil.copy(PAGE / name, scratch)
        (scratch / "vendor").mkdir()
        for name, source in LIBRARIES.items():
            shutil.copy(node_modules / source, scratch / "vendor" / name)
        site = _copy_model(folder, scratch / "model")
        if example := next((name for name in EXAMPLES if (folder / name).is_file()), None):
            shutil.copy(folder / example, scratch)
            site["example"] = example
        failures = _write_images(DualEncoder.from_pretrained(folder), options, scratch / "images")
        card = SPACE_CARD.format(
            title=json.dumps(site["name"], ensure_ascii=False), license=site.pop("license")
        )
        (scratch / "README.md").write_text(card, encoding="utf-8")
        # written last: a folder with this file is complete
        (scratch / "site.json").write_text(json.dumps(site, indent=1), encoding="utf-8")
        record_tree(scratch, "web")
        replace_folder(scratch, output_dir)
    return failures


def _check(folder: Path, output_dir: Path, node_modules: Path):
    for source in LIBRARIES.values():
        if not (node_modules / source).is_file():
            raise ValueError(
                f"node_modules: {source} is not in {str(node_modules)!r}. Run "
                "`npm ci --ignore-scripts --prefix model_cards/web`."
            )
    for name in MODEL_FILES:
        if not (folder / name).is_file():
            raise ValueError(
                f"model: {name} is not in {str(folder)!r}. Name a finished model folder, such as runs/demo/model."
            )
    for tower in TOWERS:
        _dtype(folder, tower)
    if holds_files(output_dir) and not (output_dir / "site.json").is_file():
        raise ValueError(
            f"output_dir: {str(output_dir)!r} holds other files, which would be deleted. Name a new folder."
        )
    check_replaceable(output_dir)


def _dtype(folder: Path, tower: str) -> str:
    """Number format of the tower's file that the page runs, by its name in transformers.js."""
    for dtype, suffix in SUFFIXES.items():
        if (folder / "onnx" / f"{tower}{suffix}.onnx").is_file():
            return dtype
    raise ValueError(
        f"model: {str(folder)!r} has no onnx/{tower}.onnx in any number format. Run "
        f"`python training/export.py {folder} --output_dir DIR`, then name DIR."
    )


def _copy_model(model: Path, folder: Path) -> dict[str, Any]:
    """Copy the model files; return the contents of `site.json`."""
    import torch
    from huggingface_hub import metadata_load
    from safetensors import safe_open

    (folder / "onnx").mkdir(parents=True)
    for name in MODEL_FILES:
        shutil.copy(model / name, folder)
    dtypes = {tower: _dtype(model, tower) for tower in TOWERS}
    for tower, dtype in dtypes.items():
        shutil.copy(model / "onnx" / f"{tower}{SUFFIXES[dtype]}.onnx", folder / "onnx")
    with safe_open(model / "model.safetensors", framework="pt") as weights:
        logit_scale = weights.get_tensor("logit_scale")
    path = model / "README.md"
    card = path.read_text(encoding="utf-8") if path.is_file() else ""
    heading = re.search(r"^# (.+)$", card, re.M)
    return {
        "license": (metadata_load(path) or {}).get("license", "unknown") if card else "unknown",
        "name": heading.group(1) if heading else model.resolve().name,
        "bytes": sum(path.stat().st_size for path in (folder / "onnx").iterdir()),
        "dtypes": dtypes,
        "logit_scale": float(torch.exp(logit_scale.float())),
    }


def _write_images(model: "DualEncoder", options: WebOptions, folder: Path) -> list[tuple[str, str]]:
    """Write the images as `00000.webp` and so on, and their embeddings to `index.safetensors`.

    `embeddings` is (N, D) float16, L2-normalised. The metadata has the titles by language, from the columns `en` and
    `zh` or else the file names, and the credit line.
    """
    from safetensors.torch import save_file
    from tqdm.auto import tqdm

    from modeling_dcclip.image_dcclip import ImageError
    from training.data import (
        load_source,
        open_image,
        require_allowed,
        require_columns,
        rules_for,
        usable_captions,
    )
    from training.text.writing_systems import LANGUAGES

    source = options.images
    rows = require_columns(
        load_source(source, field="images"), ["image"], source, "Rename yours.", "images"
    )
    rules = rules_for(source, options.allow_paths)
    rows = require_allowed(rows, "image", rules, source, "images")
    folder.mkdir(parents=True)
    kept: list[int] = []
    names: list[str] = []
    failures: list[tuple[str, str]] = []
    for number, row in enumerate(tqdm(rows, desc="write images", unit="image", leave=False)):
        cell = row["image"] or {}  # not decoded
        path = cell.get("path")
        try:
            image = open_image(cell)
        except (ImageError, OSError, KeyError) as error:
            cause = "no image" if isinstance(error, KeyError) else str(error)
            failures.append((path or f"row {number + 1}", cause))
            continue
        image.thumbnail((MAX_SIZE, MAX_SIZE))
        image.save(folder / f"{len(kept):05}.webp", quality=85)
        kept.append(number)
        names.append(Path(path).stem if path else f"image {number + 1}")
    if not kept:
        raise ValueError(
            f"images: none of the {len(rows)} images of {source!r} decodes. Name another source."
        )
    rows, credit = rows.select(kept), rows.info.description
    languages = [language for language in LANGUAGES if language in rows.column_names]
    cells = rows.select_columns(languages) if languages else []
    titles = [
        {key: found[0] for key in row if (found := usable_captions(row[key])[0])} for row in cells
    ]
    titles = titles or [{"en": name} for name in names]
    metadata = {"titles": json.dumps(titles, ensure_ascii=False), "credit": credit}
    save_file(
        {"embeddings": model.encode_images(rows).half()}, folder / "index.safetensors", metadata
    )
    return failures


if __name__ == "__main__":
    main()
