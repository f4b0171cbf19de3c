"""Write the model card of a folder: render it once, and refresh its generated blocks afterwards."""

import json
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import ModelCard, ModelCardData

from training.hub.cards.facts import (
    ModelFacts,
    data_license,
    matches_teacher,
    public_name,
    read_runs,
)
from training.hub.cards.metadata import front_matter
from training.hub.cards.tables import accuracy_table, export_table, protocols, size_table
from training.hub.files import README, published, requirements
from training.text.writing_systems import LANGUAGE_NAMES
from training.utils.files import portable, write_text
from training.utils.results import RESULTS_FILE, Results

TEMPLATE = Path(__file__).with_name("template.jinja")
BLOCK = re.compile(r"<!-- generated: (\w+) -->\n.*?<!-- end -->", re.DOTALL)
GENERATED = ("metrics", "model-index")  # metadata of results, which a model may have no longer
DEFAULT_LABELS = {"en": ["a cat", "a dog"], "zh": ["猫", "狗"]}


@dataclass(frozen=True, kw_only=True)
class CardDetails:
    """The part of a card that a program cannot know. It is rendered once; edit README.md to change it later.

    Args:
        summary: Purpose of the model, in a sentence or two.
        data: Description of the training data, its owners and its licenses, in Markdown.
        limits: Known limits of the model, in a sentence or two each.
    """

    summary: str = ""
    data: str = ""
    limits: list[str] = field(default_factory=list)


def write_card(
    folder: str | Path,
    details: CardDetails | None = None,
    repo_id: str | None = None,
    revision: str | None = None,
    title: str | None = None,
):
    """Write `README.md` from the config, the recipes and the results in a folder.

    An existing card is refreshed: its metadata and its generated blocks are replaced, everything else stays. A card
    without such a block was written by hand and stays as it is.

    Args:
        folder: A finished model folder.
        details: Words for a new card, which replaces an existing one. None refreshes the existing card.
        repo_id: Id of the repo that the folder is published to. Default: the title.
        revision: Revision that the examples pin.
        title: Title of the card. Default: the title of the existing card, or the name of the run's output folder.

    Raises:
        ValueError: `results.json` or the metadata of the existing card is damaged.
    """
    folder = Path(folder)
    path = folder / README
    if details is not None or not path.exists():
        write_text(path, _render(folder, details or CardDetails(), repo_id, revision, title))
        return
    old = path.read_text(encoding="utf-8")
    if BLOCK.search(old) is None:
        return
    heading = re.search(r"^# (.+)$", old, re.MULTILINE)
    new = _render(folder, CardDetails(), repo_id, revision, title or (heading and heading[1]))
    blocks = {match[1]: match[0] for match in BLOCK.finditer(new)}
    try:
        kept = ModelCard(old)
        fresh = ModelCard(new)
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ValueError(
            f"{README}: the metadata is damaged ({error}). Repair it, or remove the file."
        ) from error
    own = {name: value for name, value in kept.data.to_dict().items() if name not in GENERATED}
    data = ModelCardData(**(own | fresh.data.to_dict()), ignore_metadata_errors=True)
    body = BLOCK.sub(lambda match: blocks.get(match[1], match[0]), kept.text.lstrip("\n"))
    write_text(path, f"---\n{data.to_yaml()}\n---\n\n{body}")


def _render(
    folder: Path, details: CardDetails, repo_id: str | None, revision: str | None, title: str | None
) -> str:
    results = Results.read(folder / RESULTS_FILE) if (folder / RESULTS_FILE).exists() else None
    meta = results.meta if results is not None else {}
    facts = ModelFacts.from_folder(folder)
    runs = read_runs(folder)
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    example = {"image": "image.png", "labels": DEFAULT_LABELS, "answers": {}}
    example |= meta.get("example", {})
    finetuned = None
    sources = list(dict.fromkeys(name for run in runs for name in run.sources))
    if facts.base_model is not None and len(runs) == 1:  # a later stage has recipes of its own
        finetuned = {"kept": []} | meta.get("finetune", {})
        sources = [portable(finetuned.get("data", sources[0]))]
    recipe = runs[-1].recipe if runs else {}
    if title is None:
        title = Path(recipe.get("output_dir", folder)).name or "DC-CLIP"
    data = front_matter(
        facts, runs, results, title, sources, example if "example" in meta else None, repo_id
    )
    captions = recipe.get("data", {}).get("caption_columns", {})
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    environment.filters["literal"] = partial(json.dumps, ensure_ascii=False)
    content = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        card_data=data.to_yaml(),
        facts=facts,
        details=details,
        languages=[LANGUAGE_NAMES.get(language, language) for language in facts.languages],
        caption_languages=[LANGUAGE_NAMES.get(language, language) for language in captions],
        example=example,
        title=title,
        repo_id=repo_id or title,
        revision=revision or "main",
        requirements=requirements(),
        finetuned=finetuned,
        anchored=bool(recipe.get("anchor_weight")),
        runs=runs,
        stages=list(dict.fromkeys(run.stage for run in runs if run.stage)),
        matches_teacher=matches_teacher(runs),
        data_licenses={public_name(source): data_license(source) for source in sources},
        meta={"commit": None, "seed": None, "date": ""} | meta,
        accuracy=results and accuracy_table(results),
        protocols=protocols(results) if results is not None else [],
        size=results and size_table(results),
        exports=results and export_table(results, published(files)),
    )
    return content.rstrip() + "\n"


def classify_example(
    folder: str | Path, image: str, labels: dict[str, list[str]]
) -> dict[str, Any]:
    """Classify the example image of a card in each language.

    Args:
        folder: A finished model folder that has the image in it.
        image: File name of the image.
        labels: Candidate labels for each language, without commas; the first one is correct.

    Returns:
        The value of `meta["example"]` in results: image, labels, and answers by language, the highest score first.
    """
    from transformers import pipeline  # cards are rendered without PyTorch

    classify = pipeline("zero-shot-image-classification", model=str(folder))
    path = str(Path(folder) / image)
    answers = {}
    for language, names in labels.items():
        found = classify(path, candidate_labels=names, hypothesis_template="{}")
        answers[language] = [
            {"label": answer["label"], "score": round(answer["score"], 4)} for answer in found
        ]
    return {"image": image, "labels": labels, "answers": answers}
