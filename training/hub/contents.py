"""What of a folder goes to the Hub: a list of what may, so that nothing else ever does."""

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

# the package's files that its folders carry; __init__ registers classes in-process and stays behind
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
    # sentence-transformers
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "onnx/*.onnx",
    "onnx/*.onnx_data",
    "onnx/*.json",
    "executorch/*.pte",
)
# these go along where the card shows them
IMAGES = ("*.png", "*.jpg")
# written by our scripts, and so perhaps with a path of the machine that they ran on
WITH_PATHS = ("config.json", "recipe.yaml", "results.json", "cross_model.json")
LOCAL_PATH = re.compile(r"(?<![\w.:/])(?:/[\w.@+-]+)+/([\w.@+-]+)")
TOKEN = re.compile(rb"hf_[A-Za-z0-9]{20,}")
# sentence-transformers 6 finds both towers with these
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
    """One file that goes up.

    Args:
        path: in the repo, with forward slashes.
        file: where it lies; its bytes are read when they are sent.
        text: what is sent in place of the file, where paths of this machine were taken out.
    """

    path: str
    file: Path
    text: str | None = None

    @property
    def size(self) -> int:
        """In bytes."""
        return self.file.stat().st_size if self.text is None else len(self.text.encode())


def may_go(path: str, card: str = "") -> bool:
    """Whether a file of this name is one of those that are published.

    Args:
        path: in the folder, with forward slashes.
        card: text of README.md; an image goes along if it is shown there.
    """
    depth = path.count("/")
    named = any(fnmatchcase(path, pattern) and pattern.count("/") == depth for pattern in (*REQUIRED, *OPTIONAL))
    return named or (not depth and path in card and any(fnmatchcase(path, pattern) for pattern in IMAGES))


def list_contents(folder: str | Path) -> list[Content]:
    """The files of a folder that are published, by path.

    Raises:
        ValueError: one that a complete folder has is missing, or one has a token of the Hub in it.
    """
    folder = Path(folder)
    if missing := [name for name in REQUIRED if not (folder / name).is_file()]:
        raise ValueError(
            f"{folder} is no finished Hub folder, it has no {', '.join(missing)}. training/distill.py and "
            "training/align.py leave one in their output_dir, and in each checkpoint."
        )
    card = (folder / "README.md").read_text(encoding="utf-8")
    paths = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    contents = [_content(folder, path) for path in paths if may_go(path, card)]
    for content in contents:
        if _is_text(content.path) and TOKEN.search(content.file.read_bytes()):
            raise ValueError(f"{content.path} holds what looks like an access token of the Hub. Remove it first.")
    return contents


def _content(folder: Path, path: str) -> Content:
    file = folder / path
    if path not in WITH_PATHS:
        return Content(path, file)
    text = file.read_text(encoding="utf-8")
    cleaned = without_local_paths(text)
    return Content(path, file, None if cleaned == text else cleaned)


def without_local_paths(text: str) -> str:
    """Each absolute path of this machine cut down to its last name; addresses and repo ids stay."""
    return LOCAL_PATH.sub(r"\1", text)


def _is_text(path: str) -> bool:
    return Path(path).suffix in (".json", ".md", ".py", ".txt", ".yaml", "")


def complete_folder(folder: str | Path):
    """Add what transformers does not save: the code that nothing imports, its requirements, licences, and what
    sentence-transformers reads.

    Args:
        folder: with the model, its config and its processor.
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
    """What the package itself needs, as setup.cfg declares it."""
    setup = configparser.ConfigParser()
    setup.read(REPO_ROOT / "setup.cfg", encoding="utf-8")
    return [line for line in setup["options"]["install_requires"].splitlines() if line]
