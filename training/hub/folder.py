"""A finished model folder: the files it has, and how a training run writes them."""

import configparser
import json
import re
import shutil
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from torch import Tensor
from torch.distributed import get_world_size, is_initialized
from transformers import CONFIG_NAME

from modeling_dcclip import DCCLIPConfig, DCCLIPModel, DCCLIPProcessor
from training.config import RECIPE_FILE, TrainingRecipe, save_recipe
from training.hub.cards.facts import EARLIER_RECIPES
from training.text.tokenizers import reset_call_state
from training.utils.files import REPO_ROOT, portable, write_text
from training.utils.reading import read_mapping
from training.utils.results import RESULTS_FILE

PACKAGE = REPO_ROOT / "modeling_dcclip"
# the code that travels with a model; everything else in modeling_dcclip/ belongs to the wheel alone
CODE = ("configuration_dcclip.py", "handler.py", "image_dcclip.py", "modeling_dcclip.py", "processing_dcclip.py",
        "runtime_dcclip.py")  # fmt: skip
README, MODULES_FILE = "README.md", "modules.json"
SENTENCE_FILES = (MODULES_FILE, "sentence_bert_config.json")
REQUIRED = ("config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json",
            "LICENSE", "requirements.txt", *CODE)  # fmt: skip
EARLIER_FILES = tuple(
    f"recipe_{number:02}.yaml" for number in range(1, 21)
)  # recipes of the latest earlier runs
# every file of a finished model, which a training run writes
MODEL_FILES = (
    *REQUIRED,
    README,
    "processor_config.json",
    RECIPE_FILE,
    *EARLIER_FILES,
    *SENTENCE_FILES,
)
# patterns of further files to publish; one for each export format of training/edge/formats.py but open_clip
OPTIONAL = (README, RECIPE_FILE, EARLIER_RECIPES, RESULTS_FILE, "processor_config.json", *SENTENCE_FILES,
            "config_sentence_transformers.json", "onnx/*.onnx", "onnx/*.onnx_data", "onnx/*.json", "executorch/*.pte",
            "immich/config.json", "immich/*/model.onnx", "immich/*/*.json")  # fmt: skip
# names that belong to one set of weights: what exports and measurements add, and recipes of earlier runs
DERIVED = (
    RESULTS_FILE,
    "onnx",
    "executorch",
    "open_clip",
    "open_clip_hub",
    "immich",
    *EARLIER_FILES,
)
IMAGES = ("*.png", "*.jpg")  # published only if the card shows them
# sentence-transformers 6 loads both towers with these
MODULES = [
    {
        "idx": 0,
        "name": "0",
        "path": "",
        "type": "sentence_transformers.base.modules.transformer.Transformer",
    }
]
FEATURES = {
    "transformer_task": "feature-extraction",
    "modality_config": {
        "text": {"method": "get_text_features", "method_output_name": "pooler_output"},
        "image": {"method": "get_image_features", "method_output_name": "pooler_output"},
    },
    "module_output_name": "sentence_embedding",
}


def save_model(
    folder: str | Path,
    student: DCCLIPModel,
    processor: DCCLIPProcessor,
    recipe: TrainingRecipe,
    earlier: Iterable[str] = (),
    num_steps: int | None = None,
    weights: dict[str, Tensor] | None = None,
):
    """Write a finished model folder: weights, config, remote code, processor, tokenizer, recipes and licence.

    `training.hub.write_card` adds the model card.

    Args:
        folder: Folder to write to; it is created if it is missing.
        student: Model to save.
        processor: Processor of the model.
        recipe: Recipe of the run.
        earlier: Texts of the recipes of earlier runs that the weights come from, as `earlier_recipes` returns them.
        num_steps: Number of steps that the run has done. Default: all steps of the recipe.
        weights: Weights to save instead of the student's, by parameter name, such as an average.
    """
    folder = Path(folder)
    student.save_pretrained(folder, state_dict=weights)
    config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    config |= {
        name: portable(config[name]) for name in ("teacher", "base_model") if config.get(name)
    }
    write_text(folder / CONFIG_NAME, json.dumps(config, indent=2, sort_keys=True) + "\n")
    reset_call_state(processor.tokenizer)
    processor.save_pretrained(folder)
    save_recipe(recipe, folder, get_world_size() if is_initialized() else 1, num_steps)
    for name, text in zip(EARLIER_FILES, earlier, strict=False):
        write_text(folder / name, text)
    complete_folder(folder)


def complete_folder(folder: str | Path):
    """Add what transformers does not save: remote code, requirements, licence, files of sentence-transformers."""
    folder = Path(folder)
    for name in CODE:
        shutil.copyfile(PACKAGE / name, folder / name)
    shutil.copyfile(REPO_ROOT / "LICENSE", folder / "LICENSE")
    limit = {
        "max_seq_length": read_mapping(folder / CONFIG_NAME, "config", max_text_length=int)[
            "max_text_length"
        ]
    }
    for name, content in ((MODULES_FILE, MODULES), ("sentence_bert_config.json", FEATURES | limit)):
        write_text(folder / name, json.dumps(content, indent=1) + "\n")
    setup = configparser.ConfigParser()
    setup.read(REPO_ROOT / "setup.cfg", encoding="utf-8")
    declared = (setup["options"]["install_requires"], setup["options.extras_require"]["torch"])
    requirements = sorted(
        line for text in declared for line in text.splitlines() if line and line[0] != "#"
    )
    write_text(folder / "requirements.txt", "\n".join(requirements) + "\n")


def changed_code(folder: str | Path) -> list[str]:
    """Names of the code files of a folder that differ from this package's, and of other classes that configs name."""
    files = [path for path in Path(folder).glob("*.py") if path.name in CODE]
    changed = sorted(
        path.name for path in files if path.read_bytes() != (PACKAGE / path.name).read_bytes()
    )
    for path in sorted(Path(folder).glob("*config.json")):
        for value in (read_mapping(path, "folder").get("auto_map") or {}).values():
            classes = value if isinstance(value, list) else [value]
            changed += [
                each
                for each in classes
                if each and f"{str(each).rpartition('.')[0]}.py" not in CODE
            ]
    if (path := Path(folder, MODULES_FILE)).exists() and json.loads(
        path.read_text(encoding="utf-8")
    ) != MODULES:
        changed.append(MODULES_FILE)
    return changed


def earlier_recipes(starts: Iterable[str | None]) -> tuple[str, ...]:
    """Recipes of the runs that the weights of a new run come from, so that its card names all data.

    Args:
        starts: Models that the run starts from. Only the folder of a finished model has recipes.

    Returns:
        Texts of the recipes, the earliest first, each once.
    """
    folders = [Path(start) for start in starts if start is not None and _is_finished(Path(start))]
    paths = [
        path
        for folder in folders
        for path in (*sorted(folder.glob(EARLIER_RECIPES)), folder / RECIPE_FILE)
    ]
    for folder in folders:
        refuse_links(folder, (path for path in paths if path.parent == folder))
    return tuple(dict.fromkeys(path.read_text(encoding="utf-8") for path in paths))[
        -len(EARLIER_FILES) :
    ]


def refuse_links(folder: Path, paths: Iterable[Path]):
    """Refuse links that leave a folder, except to the Hub's cache: what is copied from it may be published."""
    root = folder.resolve()
    for path in paths:
        if not any(
            path.resolve().is_relative_to(each) for each in (root, root.parent.parent / "blobs")
        ):
            raise ValueError(
                f"{path} is a link to a file outside the folder. Replace it with a copy."
            )


def _is_finished(folder: Path) -> bool:
    """Whether a folder is a finished model of this package; other tools write a different kind of `recipe.yaml`."""
    if not (folder / RECIPE_FILE).is_file() or not (folder / CONFIG_NAME).is_file():
        return False
    return read_mapping(folder / CONFIG_NAME, "config").get("model_type") == DCCLIPConfig.model_type


def is_publishable(path: str, card: str = "") -> bool:
    """Whether a file of this name may be published.

    Args:
        path: Path in the folder, with forward slashes.
        card: Text of README.md; an image is published only if this text names it.
    """
    if any(part.startswith(".") for part in path.split("/")):
        return False
    depth = path.count("/")  # `*` of fnmatch also matches `/`
    if any(
        fnmatchcase(path, pattern) and pattern.count("/") == depth
        for pattern in (*REQUIRED, *OPTIONAL)
    ):
        return True
    is_image = not depth and any(fnmatchcase(path, pattern) for pattern in IMAGES)
    # the whole name: `private.png` is not named by `not_private.png`
    return is_image and re.search(rf"(?<![\w.-]){re.escape(path)}(?![\w.-]*\w)", card) is not None


def list_files(folder: str | Path) -> list[str]:
    """Paths of the files of a folder that may be published, sorted, with forward slashes.

    Raises:
        ValueError: A required file is missing, a JSON file is damaged, a text names a folder of this machine, or a
            file is a link that leaves the folder.
    """
    folder = Path(folder)
    if missing := [name for name in REQUIRED if not (folder / name).is_file()]:
        raise ValueError(
            f"{folder} is not a finished model folder: it has no {', '.join(missing)}. training/distill.py and "
            "training/align.py write one to output_dir, and one for each checkpoint."
        )
    card = (folder / README).read_text(encoding="utf-8") if (folder / README).is_file() else ""
    paths = sorted(
        file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()
    )
    paths = [path for path in paths if is_publishable(path, card)]
    for path in paths:
        if not (folder / path).resolve().is_relative_to(folder.resolve()):
            raise ValueError(
                f"{path} is a link to a file outside the folder. Replace it with a copy."
            )
        if path.endswith((".json", ".yaml", ".md")) and path.count("/") == 0:
            _check_text(folder, path)
    return paths


def _check_text(folder: Path, path: str):
    """Refuse a damaged JSON or YAML file, and a text that names a folder of this machine."""
    if path.endswith(".yaml") or (path.endswith(".json") and path != MODULES_FILE):
        read_mapping(folder / path, "folder")
    text = (folder / path).read_text(encoding="utf-8", errors="replace")
    # the pieces of a vocabulary may look like paths
    private = (
        {Path.home(), Path.cwd(), folder.absolute().parent} if path != "tokenizer.json" else set()
    )
    for place in sorted(f"{place}/" for place in private if len(place.parts) > 1):
        if place in text:
            raise ValueError(
                f"{path} names {place!r}, a folder of this machine. Replace the path with the name of the file or "
                "folder before publishing."
            )
