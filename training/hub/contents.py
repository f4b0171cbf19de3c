"""List the files of a folder that may be published. Files that match no pattern are never uploaded."""

import configparser
import json
import re
import shutil
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from training.hub.cards.notice import write_notice
from training.hub.self_check import SELF_CHECK_FILE
from training.utils.files import REPO_ROOT, write_text

# the remote code of a folder; __init__.py only registers the classes inside the package
CODE = tuple(sorted(path.name for path in (REPO_ROOT / "modeling_dcclip").glob("*.py") if path.name != "__init__.py"))
REQUIRED = (
    "config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "README.md",
    "LICENSE",
    "NOTICE.md",
    "requirements.txt",
    SELF_CHECK_FILE,
    *CODE,
)
OPTIONAL = (
    "recipe.yaml",
    "results.json",
    "cross_model.json",
    "special_tokens_map.json",
    # for sentence-transformers
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    # a pattern for each export format of training/edge/formats.py
    "onnx/*.onnx",
    "onnx/*.onnx_data",
    "onnx/*.json",
    "executorch/*.pte",
)
# published only if the card shows them
IMAGES = ("*.png", "*.jpg")
# written by our scripts, so they may have paths of the local machine in them
WITH_PATHS = ("config.json", "recipe.yaml", "results.json", "cross_model.json")
LOCAL_PATH = re.compile(r"(?<![\w.:/])(?:/[\w.@+-]+)+/([\w.@+-]+)")
TOKEN = re.compile(rb"hf_[A-Za-z0-9]{20,}")
# sentence-transformers 6 loads both towers with these
MODULES = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}]
FEATURES = {
    "transformer_task": "feature-extraction",
    "modality_config": {
        "text": {"method": "get_text_features", "method_output_name": "pooler_output"},
        "image": {"method": "get_image_features", "method_output_name": "pooler_output"},
    },
    "module_output_name": "sentence_embedding",
}


@dataclass(frozen=True)
class Content:
    """One file to publish.

    Args:
        path: Path in the repo, with forward slashes.
        file: Path of the local file; its bytes are read during the upload.
        text: Text that is sent instead of the file, because local paths were removed. None sends the file.
    """

    path: str
    file: Path
    text: str | None = None

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.file.stat().st_size if self.text is None else len(self.text.encode())


def is_publishable(path: str, card: str = "") -> bool:
    """Whether a file of this name may be published.

    Args:
        path: Path in the folder, with forward slashes.
        card: Text of README.md; an image is published only if this text names it.
    """
    depth = path.count("/")  # `*` of fnmatch also matches `/`
    listed = any(fnmatchcase(path, pattern) and pattern.count("/") == depth for pattern in (*REQUIRED, *OPTIONAL))
    return listed or (not depth and path in card and any(fnmatchcase(path, pattern) for pattern in IMAGES))


def list_contents(folder: str | Path) -> list[Content]:
    """The files of a folder that may be published, sorted by path.

    Raises:
        ValueError: A required file is missing, or a file has an access token of the Hub in it.
    """
    folder = Path(folder)
    if missing := [name for name in REQUIRED if not (folder / name).is_file()]:
        raise ValueError(
            f"{folder} is not a finished Hub folder: it has no {', '.join(missing)}. training/distill.py and "
            "training/align.py write one to output_dir, and one for each checkpoint."
        )
    card = (folder / "README.md").read_text(encoding="utf-8")
    paths = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    contents = [_content(folder, path) for path in paths if is_publishable(path, card)]
    for content in contents:
        if _is_text(content.path) and TOKEN.search(content.file.read_bytes()):
            raise ValueError(f"{content.path} seems to have an access token of the Hub in it. Remove the token first.")
    return contents


def _content(folder: Path, path: str) -> Content:
    file = folder / path
    if path not in WITH_PATHS:
        return Content(path, file)
    text = file.read_text(encoding="utf-8")
    cleaned = without_local_paths(text)
    return Content(path, file, None if cleaned == text else cleaned)


def without_local_paths(text: str) -> str:
    """The text with each absolute local path cut to its last part. URLs and repo ids are kept."""
    return LOCAL_PATH.sub(r"\1", text)


def _is_text(path: str) -> bool:
    return Path(path).suffix in (".json", ".md", ".py", ".txt", ".yaml", "")


def complete_folder(folder: str | Path):
    """Add the files that transformers does not save: remote code, requirements, licences, sentence-transformers files.

    Args:
        folder: Folder with the model, its config and its processor.
    """
    folder = Path(folder)
    for name in CODE:
        shutil.copyfile(REPO_ROOT / "modeling_dcclip" / name, folder / name)
    shutil.copyfile(REPO_ROOT / "LICENSE", folder / "LICENSE")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_notice(folder, config["teacher"], config["teacher_license"])
    limit = {"max_seq_length": config["max_text_length"]}
    for name, content in (("modules.json", MODULES), ("sentence_bert_config.json", FEATURES | limit)):
        write_text(folder / name, json.dumps(content, indent=1) + "\n")
    write_text(folder / "requirements.txt", "\n".join(_requirements()) + "\n")


def _requirements() -> list[str]:
    """Requirements of the package, as declared in setup.cfg."""
    setup = configparser.ConfigParser()
    setup.read(REPO_ROOT / "setup.cfg", encoding="utf-8")
    return [line for line in setup["options"]["install_requires"].splitlines() if line]
