"""What a card says about a model, from its config, recipes and results. The words are in the template."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open

from training.config import RECIPE_FILE, AlignRecipe, DistillRecipe, read_recipe
from training.hub.files import EARLIER_RECIPES, WEIGHTS_FILE
from training.teachers.lineage import OTHER_LICENSE, UNKNOWN, card_license, split_licenses
from training.utils.files import expanded, portable
from training.utils.ranges import EmbeddingWidth, Pixels, TextLength
from training.utils.reading import check_value, read_mapping

CONFIG_NAME = "config.json"
BUFFERS = re.compile(r"running_|num_batches_tracked|^rotation$")
HEADING = re.compile(r"^# (.+)$", re.MULTILINE)
APACHE = "apache-2.0"
MIT = "mit"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
FILE = re.compile(r"\.(parquet|tar|csv|tsv|jsonl|ndjson|json|txt|zip|arrow)$", re.IGNORECASE)
LOCAL_FOLDERS = ("runs/", "training/")
DISTILL_FIELDS = {entry.name: entry.default for entry in fields(DistillRecipe)}
ALIGN_FIELDS = {entry.name for entry in fields(AlignRecipe)}
DISTILL = "feature-map distillation"
ALIGN = "contrastive alignment"


def is_hub_id(name: str) -> bool:
    """Whether a name can be a repo id NAMESPACE/NAME on the Hub. Files and existing folders are not repo ids."""
    is_local = name.startswith(LOCAL_FOLDERS) or FILE.search(name) is not None
    return HUB_ID.fullmatch(name) is not None and not is_local and not Path(name).exists()


def public_name(name: str) -> str:
    """Name of data or of a model without the folders of the run that used it; a Hub id is returned unchanged."""
    return Path(name).name if name.startswith(LOCAL_FOLDERS) else portable(name)


def model_name(name: str) -> str:
    """Name of a model for other people: its Hub id, or the title of its card, or else the name of its folder."""
    card = expanded(name) / "README.md"
    heading = HEADING.search(card.read_text(encoding="utf-8")) if card.is_file() else None
    return heading[1] if heading is not None else public_name(name)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json, with the names of teacher and base model for other people.

    Raises:
        ValueError: config.json is damaged.
    """
    config = read_mapping(folder / CONFIG_NAME, "config")
    for name in ("teacher", "base_model"):
        config[name] = config.get(name) and model_name(config[name])
    return config


def data_license(source: str) -> str | None:
    """License of training data, from the card of a folder, or of a data set that was loaded from the Hub."""
    card: Any = Path(source, "README.md")
    if is_hub_id(source):
        card = try_to_load_from_cache(source, "README.md", repo_type="dataset")
    return card_license(Path(card)) if isinstance(card, (str, Path)) else None


def count_parameters(folder: str | Path) -> int:
    """Number of learned parameters in `model.safetensors`, from its header.

    BatchNorm's running statistics and the rotation of the teacher's space do not count.
    """
    with safe_open(Path(folder) / WEIGHTS_FILE, framework="pt") as weights:
        names = [name for name in weights.keys() if not BUFFERS.search(name)]  # noqa: SIM118
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in names)


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Size, input, embedding space and origin of a model, from its folder.

    Args:
        parameters: Number of learned parameters.
        bytes: Size of `model.safetensors` in bytes.
        image_size: Edge of the square input in pixels.
        max_text_length: Longest text in tokens.
        projection_dim: Width of the embeddings.
        languages: Languages of the training texts (ISO 639-1 codes).
        teacher: Hub id or name of the teacher; None if there was none.
        teacher_license: License identifiers of the teacher's weights, or of the model's own weights without a teacher;
            None if unknown.
        base_model: Hub id or name of the model that it was fine-tuned from; None if it was not fine-tuned.
        base_model_license: License identifiers of that model's weights; None if unknown.
        prefixes: Widths at which truncated embeddings were trained too.
        rotation: Digest of the rotation of the teacher's embedding space; None if there is none.
    """

    parameters: int
    bytes: int
    image_size: Pixels
    max_text_length: TextLength
    projection_dim: EmbeddingWidth
    languages: list[str]
    teacher: str | None
    teacher_license: str | None
    base_model: str | None = None
    base_model_license: str | None = None
    prefixes: list[EmbeddingWidth] | None = None
    rotation: str | None = None

    @classmethod
    def from_folder(cls, folder: str | Path) -> "ModelFacts":
        """Read the facts of a finished model folder.

        Raises:
            ValueError: config.json is damaged.
        """
        folder = Path(folder)
        config = read_config(folder)
        size = (folder / WEIGHTS_FILE).stat().st_size
        config |= {"parameters": count_parameters(folder), "bytes": size}
        return check_value(cls, config, CONFIG_NAME)

    @property
    def origin(self) -> str | None:
        """Name of the model that the weights come from: the base model, or else the teacher."""
        return self.base_model or self.teacher

    @property
    def licenses(self) -> list[str]:
        """Licenses that apply to the weights, each once; `unknown` for an origin that states none."""
        names = []
        if self.base_model:
            names += split_licenses(self.base_model_license or UNKNOWN)
        if self.teacher_license or (self.teacher and not self.base_model):
            names += split_licenses(self.teacher_license or UNKNOWN)
        return list(dict.fromkeys(name.removeprefix(f"{OTHER_LICENSE}: ") for name in names))

    @property
    def license(self) -> str | None:
        """Identifier for the Hub, which has one for a model: the only license stricter than MIT, or `other`.

        None if the weights come from no other model: their owner chooses a license.
        """
        named = "".join(filter(None, (self.teacher_license, self.base_model_license)))
        others = [name for name in self.licenses if name not in (MIT, APACHE)]
        if not others:
            return MIT if MIT in self.licenses else APACHE if self.licenses else None
        is_listed = len(others) == 1 and UNKNOWN not in others and OTHER_LICENSE not in named
        return others[0] if is_listed else OTHER_LICENSE


@dataclass(frozen=True)
class TrainingRun:
    """One recipe on a card.

    Args:
        name: Name of the recipe, as shown on the card.
        recipe: Contents of the recipe file, as `read_recipe` returns them.
    """

    name: str
    recipe: dict[str, Any]

    def value(self, name: str) -> Any:
        """Value of a field, or its default."""
        return self.recipe.get(name, DISTILL_FIELDS[name])

    @property
    def stage(self) -> str | None:
        """Name of the training stage; None if no field of the recipe belongs to one stage alone."""
        if (ALIGN_FIELDS - DISTILL_FIELDS.keys()) & self.recipe.keys():
            return ALIGN
        if not (DISTILL_FIELDS.keys() - ALIGN_FIELDS) & self.recipe.keys():
            return None
        if self.value("map_weight"):
            return DISTILL
        return f"distillation of {'embeddings' if self.value('embedding_weight') else 'logits'}"

    @property
    def sources(self) -> list[str]:
        """Training data: one source, its shards, or all sources of a mixture."""
        data = self.recipe["data"]
        found = [data.get("train"), *(source["train"] for source in data.get("sources") or [])]
        names: list[str] = []
        for source in found:
            if isinstance(source, list):
                names += source
            elif source:
                names.append(source)
        return [portable(name) for name in names]

    @property
    def initial_weights(self) -> list[str]:
        """Pretrained towers that a new student starts from."""
        student = self.recipe.get("student")
        if not isinstance(student, dict):
            return []
        return [student[name] for name in ("vision_init", "text_init") if student.get(name)]


def read_runs(folder: Path) -> list[TrainingRun]:
    """The training runs of a folder in order."""
    paths = [*sorted(folder.glob(EARLIER_RECIPES)), folder / RECIPE_FILE]
    return [TrainingRun(path.name, read_recipe(path)) for path in paths if path.exists()]


def matches_teacher(runs: Sequence[TrainingRun]) -> bool:
    """Whether the embeddings of images and texts were trained to match the teacher's, and nothing moved them later."""
    if not runs:
        return True
    towers = set()
    for run in runs:
        if run.stage == ALIGN:
            towers = {"both"} if run.recipe.get("anchor_weight") else set()
        # a loss of stage 1 compared embeddings, and not feature maps alone
        elif run.value("logits_weight") or run.value("embedding_weight"):
            towers.add(run.value("tower"))
    return "both" in towers or {"vision", "text"} <= towers
