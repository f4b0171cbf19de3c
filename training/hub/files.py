"""Which files a finished model folder has, what loading them needs, and which of them may be published."""

import configparser
import re
from collections.abc import Iterable

from training.config import RECIPE_FILE
from training.utils.files import REPO_ROOT
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
README = "README.md"
BANK_FILE = "bank.safetensors"  # captions by which the photo search corrects its ranking
WEIGHTS_FILE = "model.safetensors"
MODULES_FILE = "modules.json"
SENTENCE_FILES = (MODULES_FILE, "sentence_bert_config.json")
REQUIRED = (
    "config.json",
    WEIGHTS_FILE,
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "LICENSE",
    "requirements.txt",
    *CODE,
)
EARLIER_RECIPES = "recipe_*.yaml"
# recipes of the latest earlier runs
EARLIER_FILES = tuple(f"recipe_{number:02}.yaml" for number in range(1, 21))
# every file of a finished model, which a training run writes
MODEL_FILES = (
    *REQUIRED,
    README,
    "processor_config.json",
    RECIPE_FILE,
    *EARLIER_FILES,
    *SENTENCE_FILES,
)
PUBLISHED = {*MODEL_FILES, RESULTS_FILE, BANK_FILE, "config_sentence_transformers.json"}
HIDDEN = re.compile(r"(^|/)\.")  # matches a hidden file, or a file in a hidden folder
# exported files, in any subfolder, whose JSON files belong to them
EXPORTS = (".onnx", ".onnx_data", ".pte")
IMAGES = (".png", ".jpg")  # published only if the card shows them
BINARY = (".safetensors", *EXPORTS, *IMAGES)


def requirements() -> list[str]:
    """Packages that loading a model with transformers needs, with their versions."""
    setup = configparser.ConfigParser()
    setup.read(REPO_ROOT / "setup.cfg", encoding="utf-8")
    declared = [setup["options"]["install_requires"], setup["options.extras_require"]["torch"]]
    lines = "\n".join(declared).splitlines()
    return sorted(line for line in lines if line and not line.startswith("#"))


def published(paths: Iterable[str], card: str = "") -> list[str]:
    """Select the files that may be published, sorted.

    Args:
        paths: Paths in a folder, with forward slashes.
        card: Text of README.md. An image is published only if this text names it.
    """
    visible = [path for path in paths if not HIDDEN.search(path)]
    exported = {
        path.partition("/")[0] for path in visible if "/" in path and path.endswith(EXPORTS)
    }
    # a model of its own, such as the best checkpoint
    exported -= {path.partition("/")[0] for path in visible if path.endswith(f"/{WEIGHTS_FILE}")}
    # whole names: `private.png` is not named by `not_private.png`
    named = set(re.findall(r"[\w.-]*\w", card))
    return sorted(
        path
        for path in visible
        if path in PUBLISHED
        or (path.endswith(IMAGES) and path in named)
        or (path.partition("/")[0] in exported and path.endswith((*EXPORTS, ".json")))
    )
