"""A finished model folder: the files it has, and how a training run writes them."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from torch.distributed import get_world_size, is_initialized
from transformers import CONFIG_NAME

from modeling_dcclip import DCCLIPConfig, DCCLIPModel, DCCLIPProcessor
from training.config import RECIPE_FILE, TrainingRecipe, save_recipe
from training.hub.cards.facts import read_config
from training.hub.files import (
    CODE,
    EARLIER_FILES,
    EARLIER_RECIPES,
    HIDDEN,
    MODULES_FILE,
    PUBLISHED,
    README,
    REQUIRED,
    published,
    requirements,
)
from training.hub.leaks import check_content
from training.text.tokenizers import reset_call_state
from training.utils.files import REPO_ROOT, write_json, write_text
from training.utils.output import recorded_names
from training.utils.ranges import TextLength
from training.utils.reading import read_mapping
from training.utils.results import RESULTS_FILE

PACKAGE = REPO_ROOT / "modeling_dcclip"
EXPORTER = "export"  # command that writes what belongs to one set of weights
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
):
    """Write a finished model folder: weights, config, remote code, processor, tokenizer, recipes and license.

    `training.hub.write_card` adds the model card.

    Args:
        folder: Folder to write to; it is created if it is missing.
        student: Model to save.
        processor: Processor of the model.
        recipe: Recipe of the run.
        earlier: Texts of the recipes of earlier runs that the weights come from, as `earlier_recipes` returns them.
        num_steps: Number of steps that the run has done. Default: all steps of the recipe.
    """
    folder = Path(folder)
    student.save_pretrained(folder)
    write_json(folder / CONFIG_NAME, read_config(folder))
    reset_call_state(processor.tokenizer)
    processor.save_pretrained(folder)
    save_recipe(recipe, folder, get_world_size() if is_initialized() else 1, num_steps)
    for name, text in zip(EARLIER_FILES, earlier, strict=False):
        write_text(folder / name, text)
    complete_folder(folder)


def complete_folder(folder: str | Path):
    """Add what transformers does not save: remote code, requirements, license, files of sentence-transformers."""
    folder = Path(folder)
    for name in CODE:
        shutil.copyfile(PACKAGE / name, folder / name)
    shutil.copyfile(REPO_ROOT / "LICENSE", folder / "LICENSE")
    config = read_mapping(folder / CONFIG_NAME, "config", max_text_length=TextLength)
    features = FEATURES | {"max_seq_length": config["max_text_length"]}
    write_json(folder / MODULES_FILE, MODULES)
    write_json(folder / "sentence_bert_config.json", features)
    write_text(folder / "requirements.txt", "\n".join(requirements()) + "\n")


def changed_code(folder: str | Path) -> list[str]:
    """Names of the code files of a folder that differ from this package's, and of other classes that configs name."""
    folder = Path(folder)
    changed = []
    for name in CODE:
        path = folder / name
        if path.exists() and path.read_bytes() != (PACKAGE / name).read_bytes():
            changed.append(name)
    for path in sorted(folder.glob("*config.json")):
        classes = read_mapping(path, "folder").get("auto_map") or {}
        if not isinstance(classes, dict):
            raise ValueError(f"folder: {path} has the auto_map {classes!r}. Copy the file again.")
        for value in classes.values():
            for name in value if isinstance(value, list) else [value]:
                if name and f"{str(name).rpartition('.')[0]}.py" not in CODE:
                    changed.append(name)
    path = folder / MODULES_FILE
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != MODULES:
        changed.append(MODULES_FILE)
    return changed


def earlier_recipes(starts: Iterable[str | None]) -> tuple[str, ...]:
    """Recipes of the runs that the weights of a new run come from, so that its card names all data.

    Args:
        starts: Models that the run starts from. Only the folder of a finished model has recipes.

    Returns:
        Texts of the recipes, the earliest first, each once.
    """
    texts = []
    for start in starts:
        if start is not None and _is_finished(folder := Path(start)):
            paths = [*sorted(folder.glob(EARLIER_RECIPES)), folder / RECIPE_FILE]
            refuse_links(folder, paths)
            texts += [path.read_text(encoding="utf-8") for path in paths]
    return tuple(dict.fromkeys(texts))[-len(EARLIER_FILES) :]


def refuse_links(folder: Path, paths: Iterable[Path]):
    """Refuse links that leave a folder, except to the Hub's cache: what is copied from it may be published."""
    root = folder.resolve()
    allowed = (root, root.parent.parent / "blobs")
    for path in paths:
        if not any(path.resolve().is_relative_to(each) for each in allowed):
            raise ValueError(
                f"{path} is a link to a file outside the folder. Replace it with a copy."
            )


def _is_finished(folder: Path) -> bool:
    """Whether a folder is a finished model of this package; other tools write a different kind of `recipe.yaml`."""
    if not (folder / RECIPE_FILE).is_file() or not (folder / CONFIG_NAME).is_file():
        return False
    return read_mapping(folder / CONFIG_NAME, "config").get("model_type") == DCCLIPConfig.model_type


def derived_names(folder: Path) -> list[str]:
    """Names in a folder that belong to its weights: results, exports, and recipes of earlier runs.

    Raises:
        ValueError: `results.json`, which names the exports, is damaged.
    """
    names = {RESULTS_FILE, *EARLIER_FILES}
    names |= {name for name, by in recorded_names(folder).items() if by == EXPORTER}
    if (folder / RESULTS_FILE).exists():
        meta = read_mapping(folder / RESULTS_FILE, "output_dir", meta=dict)["meta"]
        verdicts = meta.get("export", {}).get("verdicts", [])
        names |= {verdict["file"].partition("/")[0] for verdict in verdicts}
    return [name for name in sorted(names) if (folder / name).exists()]


def list_files(folder: str | Path) -> list[str]:
    """Paths of the files of a folder that may be published, sorted, with forward slashes.

    Raises:
        ValueError: A required file is missing, a JSON file is damaged, a text has a token or names a folder of this
            machine, or a file is a link that leaves the folder.
    """
    folder = Path(folder)
    if missing := [name for name in REQUIRED if not (folder / name).is_file()]:
        raise ValueError(
            f"{folder} is not a finished model folder: it has no {', '.join(missing)}. training/distill.py and "
            "training/align.py write one to output_dir, and one for each checkpoint."
        )
    files = []
    for file in folder.rglob("*"):
        path = file.relative_to(folder).as_posix()
        if file.is_file():
            files.append(path)
        # what is behind a link would not be found, and an upload would delete it from the repo
        elif path in PUBLISHED or (file.is_symlink() and not HIDDEN.search(path)):
            raise ValueError(
                f"{file} is a folder, or a link to a folder or to nothing. Replace it with a copy, or remove it."
            )
    card = (folder / README).read_text(encoding="utf-8") if README in files else ""
    paths = published(files, card)
    refuse_links(folder, (folder / path for path in paths))
    for path in paths:
        if path.endswith((".yaml", ".json")) and path != MODULES_FILE:
            read_mapping(folder / path, "folder")
        check_content(folder, path)
    return paths
