"""Page, libraries, exported model and images in one folder."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from training.edge.web.images import write_images
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.utils.files import REPO_ROOT, holds_files, scratch_folder

PAGE = REPO_ROOT / "model_cards" / "web"
NODE_MODULES = PAGE / "node_modules"
PAGE_FILES = ("index.html", "style.css", "app.js", "encoder.js", "resize.js", "search.js")
# what the import map of index.html names, and the kernels; the build without WebGPU is half as large and starts sooner
LIBRARIES = {
    "transformers.js": "@huggingface/transformers/dist/transformers.web.min.js",
    "ort.mjs": "onnxruntime-web/dist/ort.wasm.bundle.min.mjs",
    "ort-wasm-simd-threaded.wasm": "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
}
MODEL_FILES = ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")
TOWERS = ("vision_model", "text_model")
# by transformers.js's names, the one to take first: int8 is written only where it is faster and as good
SUFFIXES = {"q8": "_quantized", "fp32": "", "fp16": "_fp16"}
EXAMPLE = "example.png"


@dataclass(frozen=True)
class Site:
    """What goes into the folder.

    Args:
        model: folder with `onnx/`, as `training/export.py` leaves it.
        images: what can be searched, as `load_source` takes it.
        node_modules: where npm put the libraries.
    """

    model: Path
    images: str
    node_modules: Path = NODE_MODULES

    def assemble(self, output_dir: Path):
        """Write the folder, whole or not at all; an older one is replaced.

        Raises:
            ValueError: libraries, model files or exported towers are missing, or the folder holds something else.
        """
        self._check(output_dir)
        with scratch_folder(output_dir.with_name(f".{output_dir.name}.building")) as scratch:
            for name in PAGE_FILES:
                shutil.copy(PAGE / name, scratch)
            (scratch / "vendor").mkdir()
            for name, source in LIBRARIES.items():
                shutil.copy(self.node_modules / source, scratch / "vendor" / name)
            site = self._copy_model(scratch / "model")
            if (self.model / EXAMPLE).is_file():
                shutil.copy(self.model / EXAMPLE, scratch)
                site["example"] = EXAMPLE
            write_images(ZeroShotModel.from_pretrained(self.model), self.images, scratch / "images")
            # last: a folder with it is a whole one
            (scratch / "site.json").write_text(json.dumps(site, indent=1), encoding="utf-8")
            shutil.rmtree(output_dir, ignore_errors=True)
            scratch.rename(output_dir)

    def _check(self, output_dir: Path):
        for source in LIBRARIES.values():
            if not (self.node_modules / source).is_file():
                raise ValueError(
                    f"node_modules: {source} is not in {str(self.node_modules)!r}. Run "
                    "`npm install --ignore-scripts --prefix model_cards/web`."
                )
        for name in MODEL_FILES:
            if not (self.model / name).is_file():
                raise ValueError(
                    f"model: {name} is not in {str(self.model)!r}. Name a finished model folder, such as "
                    "runs/demo/model."
                )
        for tower in TOWERS:
            self._dtype(tower)
        if holds_files(output_dir) and not (output_dir / "site.json").is_file():
            raise ValueError(
                f"output_dir: {str(output_dir)!r} holds other files, which would be lost. Name a new folder."
            )

    def _dtype(self, tower: str) -> str:
        """Which of the exported variants of a tower the page runs, in transformers.js's words."""
        for dtype, suffix in SUFFIXES.items():
            if (self.model / "onnx" / f"{tower}{suffix}.onnx").is_file():
                return dtype
        raise ValueError(
            f"model: {str(self.model)!r} has no onnx/{tower}.onnx in any precision. Run "
            f"`python training/export.py {self.model} --output_dir DIR`, then name DIR."
        )

    def _title(self) -> str:
        """What the card calls the model; without a card, the folder's name."""
        card = self.model / "README.md"
        found = re.search(r"^# (.+)$", card.read_text(encoding="utf-8"), re.M) if card.is_file() else None
        return found.group(1) if found else self.model.resolve().name

    def _copy_model(self, folder: Path) -> dict:
        """Copy what the page reads; return what the page must know of it."""
        (folder / "onnx").mkdir(parents=True)
        for name in MODEL_FILES:
            shutil.copy(self.model / name, folder)
        dtypes = {tower: self._dtype(tower) for tower in TOWERS}
        for tower, dtype in dtypes.items():
            shutil.copy(self.model / "onnx" / f"{tower}{SUFFIXES[dtype]}.onnx", folder / "onnx")
        with safe_open(self.model / "model.safetensors", framework="pt") as weights:
            logit_scale = weights.get_tensor("logit_scale")
        return {
            "name": self._title(),
            "bytes": sum(path.stat().st_size for path in (folder / "onnx").iterdir()),
            "dtypes": dtypes,
            "logit_scale": float(torch.exp(logit_scale.float())),
        }
