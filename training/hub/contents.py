"""List the files of a folder that may be published. Files that match no pattern are never uploaded."""

import configparser
import json
import re
import shutil
import tempfile
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from training.hub.cards.notice import write_notice
from training.hub.layouts.table import LAYOUTS
from training.hub.self_check import SELF_CHECK_FILE
from training.utils.files import REPO_ROOT, write_text
from training.utils.results import RESULTS_FILE

# the code that travels with a model; everything else in modeling_dcclip/ belongs to the wheel alone
CODE = (
    "configuration_dcclip.py",
    "handler.py",
    "image_dcclip.py",
    "modeling_dcclip.py",
    "processing_dcclip.py",
    "runtime_dcclip.py",
)
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
EARLIER_FILES = tuple(f"recipe_{number:02}.yaml" for number in range(1, 21))  # recipes of the latest earlier runs
# every file of a finished model, which a training run writes
MODEL_FILES = (
    *REQUIRED,
    "recipe.yaml",
    *EARLIER_FILES,
    "special_tokens_map.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
OPTIONAL = (
    "recipe.yaml",
    "recipe_*.yaml",  # earlier stages
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
    "litert/*.tflite",
    # a pattern for each file of the layouts of training/hub/layouts/table.py that others cannot make from this folder
    "immich/config.json",
    "immich/*/model.onnx",
    "immich/*/*.json",
)
# what exports and measurements add to a finished model
DERIVED = (RESULTS_FILE, *sorted({pattern.partition("/")[0] for pattern in OPTIONAL if "/" in pattern} | {*LAYOUTS}))
# published only if the card shows them
IMAGES = ("*.png", "*.jpg")
# texts that are sent as they are: code, and the vocabulary, whose pieces may look like paths
SENT_AS_THEY_ARE = (".py", "tokenizer.json")
# absolute paths of a machine: in quotes, as a file URL, under Windows, of a home folder, and plain with any characters
# that a shell word may have
PATH_PART = r"[^\s/\\\"'`,;()<>|]+"
LOCAL_PATHS = (
    re.compile(r"""(?<=['"])(?:file://)?/(?:[^'"\n/\\]+/)+([^'"\n/\\]+)/*(?=['"])"""),
    re.compile(rf"file://(?:/{PATH_PART})*/({PATH_PART})/*"),
    re.compile(rf"(?<![\w])[A-Za-z]:(?:\\+{PATH_PART})*\\+({PATH_PART})"),
    re.compile(rf"(?<![\w.:/])~\w*(?:/{PATH_PART})*/({PATH_PART})"),
    re.compile(rf"(?<![\w.:/])(?:/{PATH_PART})+/({PATH_PART})"),
)
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
    if any(part.startswith(".") for part in path.split("/")):
        return False
    depth = path.count("/")  # `*` of fnmatch also matches `/`
    listed = any(fnmatchcase(path, pattern) and pattern.count("/") == depth for pattern in (*REQUIRED, *OPTIONAL))
    return listed or (not depth and any(fnmatchcase(path, pattern) for pattern in IMAGES) and _names(card, path))


def _names(card: str, path: str) -> bool:
    """Whether a text names a file, and not only one whose name holds this name."""
    return re.search(rf"(?<![\w.-]){re.escape(path)}(?![\w.-]*\w)", card) is not None


def list_contents(folder: str | Path) -> list[Content]:
    """The files of a folder that may be published, sorted by path.

    Raises:
        ValueError: A required file is missing or damaged, a file has a secret in it, or it is a link that leaves the
            folder.
    """
    # not at the top, because only publishing needs the package detect-secrets
    from training.hub.secret_scan import find_secret

    folder = Path(folder)
    if missing := [name for name in REQUIRED if not (folder / name).is_file()]:
        raise ValueError(
            f"{folder} is not a finished Hub folder: it has no {', '.join(missing)}. training/distill.py and "
            "training/align.py write one to output_dir, and one for each checkpoint."
        )
    card = (folder / "README.md").read_text(encoding="utf-8")
    paths = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    for path in paths:
        if is_publishable(path, card) and not (folder / path).resolve().is_relative_to(folder.resolve()):
            raise ValueError(
                f"{path} is a link to {(folder / path).resolve()}, outside the folder. Replace it by a copy."
            )
    contents = [_content(folder, path) for path in paths if is_publishable(path, card)]
    for content in contents:
        if secret := find_secret(content.file):
            raise ValueError(f"{content.path} seems to have a secret in it ({secret}). Remove it before publishing.")
    return contents


def _content(folder: Path, path: str) -> Content:
    file = folder / path
    if not _is_text(path) or path.endswith(SENT_AS_THEY_ARE):
        return Content(path, file)
    try:
        text = file.read_text(encoding="utf-8")
        if path.endswith(".json"):
            json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}). Copy or write the folder again.") from error
    # the self-check holds an image in base64, which may look like paths
    cleaned = text if path == SELF_CHECK_FILE else without_local_paths(text)
    if left := [place for place in _private_places() if place in cleaned]:
        raise ValueError(f"{path} names the folder {left[0]!r} of this machine. Remove it before publishing.")
    return Content(path, file, None if cleaned == text else cleaned)


def without_local_paths(text: str) -> str:
    """The text with each absolute local path cut to its last part. URLs and repo ids are kept."""
    for pattern in LOCAL_PATHS:
        text = pattern.sub(r"\1", text)
    return text


def _private_places() -> set[str]:
    """Folders of this machine that no published text may name."""
    places = {Path.home(), Path.cwd(), REPO_ROOT, Path(tempfile.gettempdir())}
    return {f"{place}/" for place in places if len(place.parts) > 1}


def changed_code(folder: str | Path) -> list[str]:
    """Names of the code files of a folder that differ from those of this package. They run on the user's machine."""
    package = REPO_ROOT / "modeling_dcclip"
    files = [path for path in Path(folder).glob("*.py") if is_publishable(path.name)]
    return sorted(path.name for path in files if path.read_bytes() != (package / path.name).read_bytes())


def _is_text(path: str) -> bool:
    return Path(path).suffix in (".json", ".md", ".py", ".txt", ".yaml", "")


def complete_folder(folder: str | Path):
    """Add the files that transformers does not save: remote code, requirements, licences, and files of other tools.

    Args:
        folder: Folder with the model, its config and its processor.
    """
    folder = Path(folder)
    for name in CODE:
        shutil.copyfile(REPO_ROOT / "modeling_dcclip" / name, folder / name)
    shutil.copyfile(REPO_ROOT / "LICENSE", folder / "LICENSE")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    # models that were written before there was fine-tuning have no base model
    base = (config.get("base_model"), config.get("base_model_license"))
    write_notice(folder, config["teacher"], config["teacher_license"], *base)
    limit = {"max_seq_length": config["max_text_length"]}
    for name, content in (("modules.json", MODULES), ("sentence_bert_config.json", FEATURES | limit)):
        write_text(folder / name, json.dumps(content, indent=1) + "\n")
    write_text(folder / "special_tokens_map.json", json.dumps(_special_tokens(folder), indent=1) + "\n")
    write_text(folder / "requirements.txt", "\n".join(_requirements()) + "\n")


def _special_tokens(folder: Path) -> dict[str, str]:
    """The named special tokens, which fastembed before 0.9 reads from a file that transformers no longer writes."""
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    return {name: token for name, token in config.items() if name.endswith("_token") and isinstance(token, str)}


def _requirements() -> list[str]:
    """Requirements of the package with the extra `torch`, as declared in setup.cfg."""
    setup = configparser.ConfigParser()
    setup.read(REPO_ROOT / "setup.cfg", encoding="utf-8")
    declared = [setup["options"]["install_requires"], setup["options.extras_require"]["torch"]]
    return sorted(line for text in declared for line in text.splitlines() if line)
