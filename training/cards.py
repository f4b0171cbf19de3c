"""The model card of a Hub folder, from what the folder itself holds."""

import json
import math
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open

from training.config import RECIPE_FILE
from training.results import Results

TEMPLATE = Path(__file__).parents[1] / "model_cards" / "cards" / "template.md"
WEIGHTS_FILE = "model.safetensors"


def write_card(
    folder: str | Path, results: Results | None = None, title: str | None = None, attribution: str | None = None
):
    """Write `README.md`.

    Args:
        folder: a finished Hub folder with config.json, recipe.yaml and model.safetensors.
        results: of this model; without them the card says that there are none.
        title: default: the folder's name.
        attribution: whose data it was trained on, in Markdown.
    """
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    recipe = yaml.safe_load((folder / RECIPE_FILE).read_text(encoding="utf-8"))
    title = title or Path(recipe["output_dir"]).name
    data = ModelCardData(
        language=list(config["languages"]),
        license=config["teacher_license"] or "apache-2.0",
        library_name="transformers",
        pipeline_tag="zero-shot-image-classification",
        tags=["dcclip", "clip", "bilingual", "distillation"],
        model_name=title,
        eval_results=_eval_results(results),
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=title,
        repo_id=title,
        teacher=config["teacher"],
        teacher_license=config["teacher_license"],
        languages=list(config["languages"]),
        parameters=count_parameters(folder),
        bytes=(folder / WEIGHTS_FILE).stat().st_size,
        image_size=config["image_size"],
        max_text_length=config["max_text_length"],
        projection_dim=config["projection_dim"],
        results=results and results.table(),
        data=recipe["data"]["train"],
        attribution=attribution,
    )
    (folder / "README.md").write_text(card.content, encoding="utf-8")


def count_parameters(folder: str | Path) -> int:
    """Parameters in `model.safetensors`, read off its header; running statistics of BatchNorm are none."""
    with safe_open(Path(folder) / WEIGHTS_FILE, framework="pt") as weights:
        names = [name for name in weights.keys() if "running_" not in name and "num_batches_tracked" not in name]  # noqa: SIM118
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in names)


def _eval_results(results: Results | None) -> list[EvalResult] | None:
    if results is None:
        return None
    rows = [
        row for row in results.rows if row.model == "student" and row.stage == "aligned" and row.language is not None
    ]
    return [
        EvalResult(
            task_type="zero-shot-image-classification",
            dataset_type=row.set,
            dataset_name=f"{row.set} ({row.language})",
            dataset_config=row.language,  # rows that differ in nothing else would be merged into one result
            metric_type=row.metric,
            metric_value=round(row.value, 4),
        )
        for row in rows
    ]
