"""What a card says about a model: facts from its config, its recipes and its results."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open

from training.config import RECIPE_FILE, AlignRecipe, DistillRecipe, read_recipe
from training.teachers.lineage import OTHER_LICENSE, UNKNOWN, card_license, split_licenses
from training.text.writing_systems import LANGUAGE_NAMES
from training.utils.files import portable
from training.utils.ranges import EmbeddingWidth, Pixels, TextLength
from training.utils.reading import read_mapping
from training.utils.results import Results

WEIGHTS_FILE, CONFIG_NAME = "model.safetensors", "config.json"
EARLIER_RECIPES = "recipe_*.yaml"
BUFFERS = re.compile(r"running_|num_batches_tracked|^rotation$")
OWN_LICENSE = "apache-2.0"
# full texts of licences that restrict use and must be passed on to every recipient
OPENRAIL_TEXTS = {
    "creativeml-openrail-m": "https://huggingface.co/spaces/CompVis/stable-diffusion-license",
    "bigscience-openrail-m": "https://huggingface.co/spaces/bigscience/license",
    "openrail++": "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/blob/main/LICENSE.md",
}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
FILE_SUFFIXES = (
    ".parquet",
    ".tar",
    ".csv",
    ".tsv",
    ".jsonl",
    ".ndjson",
    ".json",
    ".txt",
    ".zip",
    ".arrow",
)
DEFAULTS = {entry.name: entry.default for entry in fields(DistillRecipe)}
DISTILL_ONLY = {entry.name for entry in fields(DistillRecipe)} - {
    entry.name for entry in fields(AlignRecipe)
}
ALIGN_ONLY = {entry.name for entry in fields(AlignRecipe)} - {
    entry.name for entry in fields(DistillRecipe)
}
DISTILL, ALIGN = "feature-map distillation", "contrastive alignment"
KIND = {"images": "images", "texts": "captions"}  # of the measured cosines


def is_hub_id(name: str) -> bool:
    """Whether a name can be a repo id NAMESPACE/NAME on the Hub. Files and existing folders are not repo ids."""
    is_local = (
        name.startswith(("runs/", "training/"))
        or name.lower().endswith(FILE_SUFFIXES)
        or Path(name).exists()
    )
    return HUB_ID.fullmatch(name) is not None and not is_local


def data_terms(sources: Sequence[str]) -> str:
    """Sentences on the licences of training data, in Markdown.

    A licence is read from the card of a folder, or of a data set that was loaded from the Hub.
    """
    licenses = {source: _data_license(source) for source in sources}
    stated = [f"`{source}` is under `{license}`" for source, license in licenses.items() if license]
    text = f"Of the training data, {', '.join(stated)}. " if stated else ""
    if not all(licenses.values()):
        text += f"The terms of the {'other ' if stated else ''}training data, which the card lists, apply as well."
    return text.strip()


def _data_license(source: str) -> str | None:
    card: Any = Path(source, "README.md")
    if is_hub_id(source):
        card = try_to_load_from_cache(source, "README.md", repo_type="dataset")
    return card_license(Path(card)) if isinstance(card, (str, Path)) else None


def count_parameters(folder: str | Path) -> int:
    """Number of learnt parameters in `model.safetensors`, from its header.

    BatchNorm's running statistics and the rotation of the teacher's space do not count.
    """
    with safe_open(Path(folder) / WEIGHTS_FILE, framework="pt") as weights:
        names = [name for name in weights.keys() if not BUFFERS.search(name)]  # noqa: SIM118
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in names)


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Size, input, embedding space and origin of a model, from its folder.

    Args:
        parameters: Number of learnt parameters.
        bytes: Size of `model.safetensors` in bytes.
        image_size: Edge of the square input in pixels.
        max_text_length: Longest text in tokens.
        projection_dim: Width of the embeddings.
        languages: Languages of the training texts (ISO 639-1 codes).
        teacher: Hub id or name of the teacher; None if there was none.
        teacher_license: Licence identifiers of the teacher's weights, or of the model's own weights without a teacher;
            None if unknown.
        base_model: Hub id or name of the model that it was fine-tuned from; None if it was not fine-tuned.
        base_model_license: Licence identifiers of that model's weights; None if unknown.
        prefixes: Widths at which truncated embeddings were trained too.
        rotation: Digest of the rotation of the teacher's embedding space; None if there is none.
    """

    parameters: int
    bytes: int
    image_size: int
    max_text_length: int
    projection_dim: int
    languages: tuple[str, ...]
    teacher: str | None
    teacher_license: str | None
    base_model: str | None = None
    base_model_license: str | None = None
    prefixes: tuple[int, ...] = ()
    rotation: str | None = None

    @classmethod
    def from_folder(cls, folder: str | Path) -> "ModelFacts":
        """Read the facts of a finished model folder.

        Raises:
            ValueError: config.json is damaged.
        """
        folder = Path(folder)
        config = read_mapping(
            folder / CONFIG_NAME,
            "config",
            image_size=Pixels,
            max_text_length=TextLength,
            projection_dim=EmbeddingWidth,
            languages=list[str],
            teacher=str | None,
            teacher_license=str | None,
        )
        base_model = config.get("base_model")
        return cls(
            parameters=count_parameters(folder),
            bytes=(folder / WEIGHTS_FILE).stat().st_size,
            image_size=config["image_size"],
            max_text_length=config["max_text_length"],
            projection_dim=config["projection_dim"],
            languages=tuple(config["languages"]),
            teacher=config["teacher"] and portable(config["teacher"]),
            teacher_license=config["teacher_license"],
            base_model=base_model and portable(base_model),
            base_model_license=config.get("base_model_license"),
            prefixes=tuple(config.get("prefixes", ())),
            rotation=config.get("rotation"),
        )

    @property
    def origin(self) -> str | None:
        """Name of the model that the weights come from: the base model, or else the teacher."""
        return self.base_model or self.teacher

    @property
    def licenses(self) -> list[str]:
        """Licences that apply to the weights, each once; `unknown` for an origin that states none."""
        stated = [self.base_model_license or UNKNOWN] if self.base_model else []
        if self.teacher_license or (self.teacher and not self.base_model):
            stated.append(self.teacher_license or UNKNOWN)
        return list(dict.fromkeys(part for name in stated for part in split_licenses(name))) or [
            OWN_LICENSE
        ]

    @property
    def license(self) -> str:
        """Identifier for the Hub, which has one for a model: the only licence that is not Apache-2.0, or `other`."""
        others = [name for name in self.licenses if name != OWN_LICENSE]
        if not others:
            return OWN_LICENSE
        return (
            others[0]
            if len(others) == 1 and not others[0].startswith((UNKNOWN, OTHER_LICENSE))
            else OTHER_LICENSE
        )

    @property
    def terms(self) -> str:
        """A paragraph on the origin and the licence of the weights, in Markdown."""
        text = f"The weights are {'fine-tuned' if self.base_model else 'distilled'} from `{self.origin}`."
        if not self.origin:
            text = "The weights were trained without a teacher."
        known = [
            name.removeprefix(f"{OTHER_LICENSE}: ") for name in self.licenses if name != UNKNOWN
        ]
        if known == [OWN_LICENSE] and len(self.licenses) == 1:
            return f"{text} They are licensed under the Apache License 2.0."
        if known:
            text += f" The terms of {' and of '.join(f'`{name}`' for name in known)} apply to them."
        if UNKNOWN in self.licenses:
            text += " An origin of the weights states no licence: ask its owner before you share or use them."
        for name in known:
            if "openrail" in name:
                text += _openrail(name, f"`{self.origin}`" if self.origin else "the original")
        return text


def _openrail(license: str, origin: str) -> str:
    """What a licence of the OpenRAIL family requires of those who pass the weights on."""
    full_text = f" ([full text]({OPENRAIL_TEXTS[license]}))" if license in OPENRAIL_TEXTS else ""
    return (
        f" The use restrictions in the attachment of `{license}`{full_text} bind you and everyone who receives these "
        "weights, or weights derived from them, from you. Include this section and that licence with every copy, "
        "state your changes, and require users of a hosted service to accept the same restrictions. Changes from "
        f"{origin}: architecture and weights differ."
    )


@dataclass(frozen=True)
class TrainingRun:
    """One recipe on a card.

    Args:
        name: Name of the recipe, as shown on the card.
        recipe: Contents of the recipe file, as `read_recipe` returns them.
    """

    name: str
    recipe: dict[str, Any]

    @property
    def stage(self) -> str | None:
        """Name of the training stage; None if no field of the recipe belongs to one stage alone."""
        if ALIGN_ONLY & self.recipe.keys():
            return ALIGN
        if not DISTILL_ONLY & self.recipe.keys():
            return None
        if self._value("map_weight"):
            return DISTILL
        return f"distillation of {'embeddings' if self._value('embedding_weight') else 'logits'}"

    @property
    def description(self) -> str:
        """Stage, towers, steps, batch size over all processes and accumulated batches, and learning rate."""
        steps, batch_size, rate = (
            self._value(name) for name in ("max_steps", "batch_size", "learning_rate")
        )
        factors = {
            "processes": self.recipe.get("num_processes", 1),
            "batches": self._value("accumulate_steps"),
        }
        factors = {name: number for name, number in factors.items() if number > 1}
        parts = " x ".join(f"{number} {name}" for name, number in factors.items())
        of_each = f" ({parts} of {batch_size:,})" if factors else ""
        tower = {"vision": ", image tower", "text": ", text tower"}.get(
            self.recipe.get("tower", ""), ""
        )
        stage = f"{self.stage}{tower}; " if self.stage else ""
        done = self.recipe.get("num_steps")
        part = f"{done:,} of " if done is not None and done < steps else ""
        total = batch_size * math.prod(factors.values())
        return f"{stage}{part}{steps:,} steps, batch size {total:,}{of_each}, peak learning rate {rate}"

    @property
    def sources(self) -> list[str]:
        """Training data: one source, its shards, or all sources of a mixture."""
        data = self.recipe["data"]
        sources = [data.get("train"), *(source["train"] for source in data.get("sources") or [])]
        names = [
            name
            for source in sources
            if source
            for name in (source if isinstance(source, list) else [source])
        ]
        return [portable(name) for name in names]

    @property
    def initial_weights(self) -> list[str]:
        """Pretrained towers that a new student starts from."""
        student = self.recipe.get("student") or self.recipe.get("new_student")
        if not isinstance(student, dict):
            return []
        return [student[name] for name in ("vision_init", "text_init") if student.get(name)]

    def _value(self, name: str) -> Any:
        return self.recipe.get(name, DEFAULTS[name])


def read_runs(folder: Path) -> list[TrainingRun]:
    """The training runs of a folder in order."""
    paths = [*sorted(folder.glob(EARLIER_RECIPES)), folder / RECIPE_FILE]
    return [TrainingRun(path.name, read_recipe(path)) for path in paths if path.exists()]


def teacher_space(runs: Sequence[TrainingRun]) -> str:
    """Whether the embeddings of a distilled model can be compared with the teacher's."""
    matched = "trained to match the teacher's embeddings"
    last, distilled = runs[-1].recipe if runs else {}, [run for run in runs if run.stage != ALIGN]
    if last.get("anchor_weight"):
        return matched
    # a loss of stage 1 compared embeddings, and not feature maps alone
    compared = [
        run.recipe
        for run in distilled
        if run.recipe.get("logits_weight") or run.recipe.get("embedding_weight", 1)
    ]
    towers = {recipe.get("tower", "both") for recipe in compared}
    if last.get("new_student") or (distilled and not towers):
        return "not comparable with the teacher's"
    if towers in ({"vision"}, {"text"}):
        matched = f"only for {'images' if 'vision' in towers else 'texts'} {matched}"
    if not runs or runs[-1].stage != ALIGN:
        return matched
    return f"{matched} before the alignment, which had no anchor to them"


def finetuning_facts(
    facts: ModelFacts, runs: Sequence[TrainingRun], results: Results | None
) -> dict[str, Any] | None:
    """What a card says about a fine-tuned model; every sentence follows from its config, its recipe or its results.

    Returns:
        `summary`, `space`, `measured`, `interpolation` (False if the run has not chosen a point), `data` and
        `languages`, in words; None if the model was not fine-tuned from a finished model.
    """
    if facts.base_model is None or len(runs) != 1:  # a later stage has recipes of its own
        return None
    base, recipe = facts.base_model, runs[-1].recipe
    measured: Mapping[str, Any] = results.meta.get("finetune", {}) if results else {}
    languages = [
        LANGUAGE_NAMES.get(language, language) for language in recipe["data"]["caption_columns"]
    ]
    is_stated = facts.base_model_license not in (None, UNKNOWN)
    license = f"licence `{facts.base_model_license}`" if is_stated else "no licence stated"
    anchored = bool(recipe.get("anchor_weight"))
    space = (
        f"held close to the embeddings of `{base}`"
        if anchored
        else f"not comparable with the embeddings of `{base}`"
    )
    cosines = [
        f"{value:.3f} for {KIND[kind]}"
        for kind, value in measured.get("cosine_to_start", {}).items()
    ]
    interpolation = "weight" in measured and (
        f"The weights have {measured['weight']:.2f} of the change in training (WiSE-FT, "
        "[arXiv 2109.01903](https://arxiv.org/abs/2109.01903)), chosen on the validation split."
    )
    return {
        "summary": (
            f"Fine-tuned with DC-CLIP from `{base}` ({license}) on images with {' and '.join(languages)} captions: "
            f"contrastive alignment, {'with' if anchored else 'without'} an anchor to the embeddings of that model."
        ),
        "space": f"{space} (mean cosine {', '.join(cosines)} of the validation split)"
        if cosines
        else space,
        "measured": ", on ".join(["a validation split of the data", *measured.get("kept", [])]),
        "interpolation": interpolation,
        "data": portable(measured.get("data", runs[-1].sources[0])),
        "languages": languages,
    }
