"""Write page, libraries, exported model and images to one folder."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from training.edge.web.images import write_images
from training.evaluation.zero_shot_model import ZeroShotModel
from training.utils.files import REPO_ROOT, holds_files, recover_folder, replace_folder, scratch_folder
from training.utils.output import check_replaceable, claim_folder, record_tree

PAGE = REPO_ROOT / "model_cards" / "web"
NODE_MODULES = PAGE / "node_modules"
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
SUFFIXES = {"q8": "_quantized", "fp32": "", "fp16": "_fp16"}
EXAMPLES = ("example.jpg", "example.png")


@dataclass(frozen=True)
class Site:
    """The parts of the page.

    Args:
        model: Model folder with `onnx/`, as `training/export.py` writes it.
        images: Images to search, as `load_source` accepts them.
        node_modules: Folder in which npm installed the libraries.
        allow_urls: Whether the source may name images by URL.
        allow_paths: Whether the source may name image files outside its folder.
    """

    model: Path
    images: str
    node_modules: Path = NODE_MODULES
    allow_urls: bool = False
    allow_paths: bool = False

    def assemble(self, output_dir: Path) -> list[tuple[str, str]]:
        """Write the folder atomically. An older page is replaced.

        Args:
            output_dir: Folder for the finished page.

        Returns:
            Name and cause of each image that does not decode; the page has the others.

        Raises:
            ValueError: Libraries, model files or exported towers are missing, or the folder holds other files.
        """
        recover_folder(output_dir)
        self._check(output_dir)
        with claim_folder(output_dir, (), command="web"), scratch_folder(output_dir) as scratch:
            for name in PAGE_FILES:
                shutil.copy(PAGE / name, scratch)
            (scratch / "vendor").mkdir()
            for name, source in LIBRARIES.items():
                shutil.copy(self.node_modules / source, scratch / "vendor" / name)
            site = self._copy_model(scratch / "model")
            if example := next((name for name in EXAMPLES if (self.model / name).is_file()), None):
                shutil.copy(self.model / example, scratch)
                site["example"] = example
            model = ZeroShotModel.from_pretrained(self.model)
            allowed = (self.allow_urls, self.allow_paths)
            failures = write_images(model, self.images, scratch / "images", *allowed)
            # written last: a folder with this file is complete
            (scratch / "site.json").write_text(json.dumps(site, indent=1), encoding="utf-8")
            record_tree(scratch, "web")
            replace_folder(scratch, output_dir)
        return failures

    def _check(self, output_dir: Path):
        for source in LIBRARIES.values():
            if not (self.node_modules / source).is_file():
                raise ValueError(
                    f"node_modules: {source} is not in {str(self.node_modules)!r}. Run "
                    "`npm ci --ignore-scripts --prefix model_cards/web`."
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
                f"output_dir: {str(output_dir)!r} holds other files, which would be deleted. Name a new folder."
            )
        check_replaceable(output_dir)

    def _dtype(self, tower: str) -> str:
        """Number format of the tower's file that the page runs, by its name in transformers.js."""
        for dtype, suffix in SUFFIXES.items():
            if (self.model / "onnx" / f"{tower}{suffix}.onnx").is_file():
                return dtype
        raise ValueError(
            f"model: {str(self.model)!r} has no onnx/{tower}.onnx in any number format. Run "
            f"`python training/export.py {self.model} --output_dir DIR`, then name DIR."
        )

    def _title(self) -> str:
        """Title of the card, or the folder's name if there is no card."""
        card = self.model / "README.md"
        heading = re.search(r"^# (.+)$", card.read_text(encoding="utf-8"), re.M) if card.is_file() else None
        return heading.group(1) if heading else self.model.resolve().name

    def _copy_model(self, folder: Path) -> dict:
        """Copy the model files; return the contents of `site.json`."""
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
