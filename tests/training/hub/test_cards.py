"""Model cards: facts, licences, metadata and tables, and how an existing card is refreshed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.constants import HF_HUB_CACHE

from modeling_dcclip import DCCLIPModel
from tests.tiny import MOBILENET, make_model, recipe_fields, student_config
from training.config import (
    AlignRecipe,
    DataConfig,
    DistillRecipe,
    parse_recipe,
    read_recipe,
    save_recipe,
)
from training.hub import CardDetails, earlier_recipes, save_model, write_card
from training.hub.cards.facts import (
    ModelFacts,
    TrainingRun,
    count_parameters,
    data_terms,
    finetuning_facts,
    teacher_space,
)
from training.hub.cards.metadata import eval_results
from training.hub.cards.tables import accuracy_table
from training.utils.results import Results, Row

FACTS = ModelFacts(
    parameters=1,
    bytes=4,
    image_size=64,
    max_text_length=32,
    projection_dim=16,
    languages=("en", "zh"),
    teacher=None,
    teacher_license=None,
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, processor):
    folder = tmp_path_factory.mktemp("card")
    fields = recipe_fields(
        folder / "dcclip-tiny",
        "some/images",
        teacher="t",
        student=student_config(vision_init="a/tower"),
    )
    teacher = {"teacher": "/folder/of/teacher", "teacher_license": "mit and cc-by-nc-4.0"}
    save_model(folder, make_model(MOBILENET, **teacher), processor, DistillRecipe(**fields))
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of the small files to write to."""
    for path in saved.iterdir():
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


def row(value: float, **fields) -> Row:
    defaults = {
        "model": "student",
        "stage": "aligned",
        "set": "a_set",
        "protocol": "class-names",
        "metric": "top1",
    }
    return Row(**defaults | {"language": "zh"} | fields, value=value)


def card_of(folder, results: Results | None = None, **fields) -> ModelCard:
    if results is not None:
        results.write(folder)
    write_card(folder, **fields)
    return ModelCard.load(folder / "README.md")


def test_a_new_card_has_the_facts_of_its_folder(folder):
    card = card_of(
        folder,
        details=CardDetails(summary="It *sees*.", data="Drawn by X.", limits=["Few images."]),
    )
    model = DCCLIPModel.from_pretrained(folder)
    assert count_parameters(folder) == model.num_parameters()
    assert f"| parameters | {model.num_parameters():,} |" in card.text
    assert f"| weights | {(folder / 'model.safetensors').stat().st_size:,} bytes |" in card.text
    assert "from the teacher `teacher`: feature-map distillation." in card.text
    assert "/folder/of" not in card.content + (folder / "config.json").read_text()
    assert all(
        words in card.text
        for words in ("# dcclip-tiny", "It *sees*.", "Drawn by X.", "- Few images.")
    )
    assert "Not evaluated yet." in card.text and not card.data.eval_results
    assert sorted(card.data.language) == ["en", "zh"] and card.data.base_model == ["a/tower"]
    assert (
        card.data.pipeline_tag == "zero-shot-image-classification"
        and card.data.library_name == "transformers"
    )
    assert card.data.license == "other" and card.data.datasets == ["some/images"]
    assert "The terms of the training data, which the card lists, apply as well." in card.text


def test_results_are_in_text_and_metadata_and_retrieval_has_its_own_task(folder):
    rows = [
        row(0.4321, metric="top5"),
        row(0.25, protocol="retrieval", metric="t2i_R@1", language="en"),
        row(0.9, protocol="retrieval", metric="has_photograph_auc", language="en"),
        row(5, set=None, protocol=None, language=None, metric="parameters"),
    ]
    results = Results({"command": "python measure.py", "seed": None}, rows)
    card = card_of(folder, results, revision="v1", repo_id="me/model")
    found = [
        (r.task_type, r.metric_type, r.metric_name, r.metric_value) for r in card.data.eval_results
    ]
    assert found == [
        ("zero-shot-image-classification", "accuracy", "top-5 accuracy", 0.4321),
        ("image-text-retrieval", "recall", "t2i R@1", 0.25),
        ("image-text-retrieval", "has_photograph_auc", "has photograph auc", 0.9),
    ]
    assert (
        "| student, aligned | 43.2 | 25.0 | 90.0 |" in card.text
        and "Command: `python measure.py`" in card.text
    )
    assert ", seed" not in card.text, "a measurement without a seed"
    calls = [line for line in card.text.splitlines() if "trust_remote_code=True" in line]
    assert len(calls) == 4 and all('revision="v1"' in line and "me/model" in line for line in calls)


def test_the_example_shows_predictions_and_says_when_they_are_wrong(folder):
    labels = {"en": ["fox", "dog"], "zh": ["狐狸", "狗"]}
    answers = {
        "en": [{"label": "fox", "score": 0.98765}, {"label": "dog", "score": 0.01235}],
        "zh": [{"label": "狗", "score": 0.6}, {"label": "狐狸", "score": 0.4}],
    }
    card = card_of(
        folder, Results({"example": {"image": "a.png", "labels": labels, "answers": answers}})
    )
    lines = card.text.splitlines()
    call = lines.index(
        'classify("a.png", candidate_labels=["fox", "dog"], hypothesis_template="{}")'
    )
    assert lines[call + 1] == "# fox 0.988, dog 0.012"
    assert lines[call + 3] == "# 狗 0.600, 狐狸 0.400 (wrong: the correct label is 狐狸)"
    assert [entry["src"] for entry in card.data.to_dict()["widget"]] == ["a.png", "a.png"]
    write_card(folder, repo_id="me/model")
    (english, chinese) = ModelCard.load(folder / "README.md").data.to_dict()["widget"]
    assert english["src"] == chinese["src"] == "https://huggingface.co/me/model/resolve/main/a.png"
    assert (english["candidate_labels"], chinese["candidate_labels"]) == ("fox, dog", "狐狸, 狗")


def test_a_refreshed_card_keeps_what_was_edited(folder):
    path = folder / "README.md"
    write_card(folder, CardDetails(summary="Old words."))
    text = (
        path.read_text(encoding="utf-8")
        .replace("Old words.", "My words.")
        .replace("# dcclip-tiny\n", "# Mine\n")
    )
    path.write_text(text.replace("library_name", "custom: kept\nlibrary_name", 1), encoding="utf-8")
    card = card_of(folder, Results({"command": "x"}, [row(0.25)]), repo_id="me/model")
    assert (
        "My words." in card.text
        and "Old words" not in card.text
        and card.data.to_dict()["custom"] == "kept"
    )
    assert "| student, aligned | 25.0 |" in card.text and 'model="me/model"' in card.text
    assert card.data.model_name == "Mine"
    before = path.read_bytes()
    write_card(folder, repo_id="me/model")
    assert path.read_bytes() == before
    (folder / "results.json").unlink()  # as a new run does
    assert not {"model-index", "metrics"} & card_of(folder).data.to_dict().keys()
    path.write_text("my words", encoding="utf-8")
    write_card(folder)
    assert path.read_text(encoding="utf-8") == "my words"
    path.write_text(
        f"---\na: [\n---\n{text.partition('---')[2].partition('---')[2]}", encoding="utf-8"
    )
    with pytest.raises(ValueError, match=r"README\.md"):
        write_card(folder)


def test_exported_files_have_a_table_and_their_rows_are_not_results_of_the_model(folder):
    kept = {
        "file": "onnx/a.onnx",
        "kept": True,
        "reasons": [],
        "bytes": 4_000_000,
        "ms": 1.25,
        "mean_cosine": 0.99,
    }
    kept["lost_points"] = {"en": -0.5, "zh": 0.75}
    refused = kept | {
        "file": "onnx/b.onnx",
        "kept": False,
        "reasons": ["It loses 2.00 points in zh."],
        "bytes": 0,
    }
    runs = [
        {
            "command": "python export.py",
            "commit": "c0ffee",
            "date": "2026-01-02",
            "data": "set",
            "files": [],
        }
    ]
    rows = [row(0.9, model=name, stage=None) for name in ("PyTorch", "onnx/a.onnx", "onnx/b.onnx")]
    unpublished = kept | {"file": "open_clip"}  # it works only where it was written
    meta = {
        "command": "python measure.py",
        "export": {"verdicts": [kept, refused, unpublished], "runs": runs},
    }
    card = card_of(folder, Results(meta, rows))
    assert "| `onnx/a.onnx` | 4.00 | 1.25 | 0.99000 | -0.50 | +0.75 |  |" in card.text
    assert "| `onnx/b.onnx` |  |  |  |  |  | refused: It loses 2.00 points in zh. |" in card.text
    assert "- `python export.py`, commit c0ffee, 2026-01-02, data: set\n" in card.text
    assert (
        "Not evaluated yet." in card.text
        and card.data.eval_results is None
        and "`open_clip`" not in card.text
    )


def test_results_of_the_final_student_alone_have_one_entry_for_each_language_and_protocol():
    rows = [
        row(0.5),
        row(0.4, language="en"),
        row(0.3, language="en", protocol="mine"),
        row(0.2, stage="distilled"),
    ]
    rows += [row(0.9, model="teacher", stage=None)]
    found = [(r.dataset_config, r.metric_value) for r in eval_results(Results({}, rows))]
    assert found == [("zh", 0.5), ("en, class-names", 0.4), ("en, mine", 0.3)]
    models = [{"name": "runs/mine"}, {"name": "some/other"}]
    rows = [
        row(value, model=name, stage=None)
        for name, value in (("runs/mine", 0.5), ("some/other", 0.9))
    ]
    assert [r.metric_value for r in eval_results(Results({"models": models}, rows))] == [0.5]


def test_a_set_of_elevater_is_shown_with_its_own_metric_for_each_model_and_protocol():
    fields = {"stage": None, "set": "oxford-iiit-pets"}
    rows = [row(0.9, **fields, metric=metric) for metric in ("top1", "top5")]
    rows += [
        row(0.5, **fields, metric="mean_per_class", model=model) for model in ("ours", "baseline")
    ]
    lines = accuracy_table(Results({}, rows)).splitlines()
    assert lines[0] == "| model | oxford-iiit-pets zh mean_per_class |"
    assert lines[2:] == ["| ours | 50.0 |", "| baseline | 50.0 |"]


@pytest.mark.parametrize(
    ("fields", "license", "terms"),
    [
        ({}, "apache-2.0", "without a teacher. They are licensed under the Apache"),
        ({"teacher": "a/b", "teacher_license": None}, "other", "states no licence"),
        (
            {"teacher": "a/b", "teacher_license": "mit and apache-2.0"},
            "mit",
            "terms of `mit` and of `apache-2.0`",
        ),
        (
            {"teacher": "a/b", "teacher_license": "other: tongyi"},
            "other",
            "The terms of `tongyi` apply",
        ),
        (
            {"teacher": "a/b", "teacher_license": "mit and unknown"},
            "other",
            "`mit` apply to them. An origin",
        ),
        (
            {"base_model": "a/b", "base_model_license": "mit", "teacher": "c/d"},
            "mit",
            "from `a/b`. The terms of `mit`",
        ),
        (
            {
                "base_model": "a/b",
                "base_model_license": "cc-by-nc-4.0",
                "teacher_license": "cc-by-nc-4.0",
            },
            "cc-by-nc-4.0",
            "The terms of `cc-by-nc-4.0` apply",
        ),
        (
            {"teacher": "a/b", "teacher_license": "creativeml-openrail-m"},
            "creativeml-openrail-m",
            "use restrictions",
        ),
    ],
)
def test_licences_of_all_origins_are_named_once(fields, license, terms):
    facts = replace(FACTS, **fields)
    assert facts.license == license and terms in facts.terms
    assert "Apache License" not in facts.terms or facts.license == "apache-2.0"
    assert all(
        facts.terms.count(f"`{name}` apply") + facts.terms.count(f"of `{name}` and") <= 1
        for name in facts.licenses
    )


def test_licences_of_the_data_are_those_of_their_cards(tmp_path):
    cached = Path(HF_HUB_CACHE, "datasets--licensed--images")
    for folder, license in ((cached / "snapshots/0123", "cc-by-4.0"), (tmp_path, "mit")):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "README.md").write_text(f"---\nlicense: {license}\n---\n")
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("0123")
    assert data_terms(["licensed/images", str(tmp_path), "a.parquet"]) == (
        f"Of the training data, `licensed/images` is under `cc-by-4.0`, `{tmp_path}` is under `mit`. The terms of the "
        "other training data, which the card lists, apply as well."
    )


VISION, TEXT = {"map_weight": 1.0, "tower": "vision"}, {"map_weight": 1.0, "tower": "text"}
MAPS = {"map_weight": 1.0, "embedding_weight": 0.0}
EMBEDDING = {"map_weight": 1.0}
ALIGN = {"chunk_size": 0}


@pytest.mark.parametrize(
    ("recipes", "claim"),
    [
        ([EMBEDDING], "trained to match the teacher's embeddings"),
        ([MAPS | {"logits_weight": 1.0}], "trained to match the teacher's embeddings"),
        ([MAPS], "not comparable with the teacher's"),
        ([ALIGN | {"new_student": {"text_init": "x"}}], "not comparable with the teacher's"),
        (
            [EMBEDDING, ALIGN],
            "trained to match the teacher's embeddings before the alignment, which had no anchor to them",
        ),
        ([VISION], "only for images trained to match the teacher's embeddings"),
        ([MAPS | {"tower": "vision"}, TEXT], "only for texts trained to match the "
         "teacher's embeddings"),
        ([VISION, TEXT], "trained to match the teacher's embeddings"),
    ],
)  # fmt: skip
def test_the_claim_about_the_embedding_space_follows_from_the_recipes(recipes, claim):
    assert teacher_space([TrainingRun("recipe.yaml", recipe) for recipe in recipes]) == claim


@pytest.mark.parametrize(
    ("fields", "num_processes", "text"),
    [
        ({}, 1, "batch size 8, "),
        ({"accumulate_steps": 4}, 2, "batch size 64 (2 processes x 4 batches of 8), "),
    ],
)
def test_the_batch_size_covers_all_processes_and_accumulated_batches(
    fields, num_processes, text, tmp_path
):
    recipe = AlignRecipe(output_dir="", data=DataConfig(train="x"), batch_size=8, **fields)
    save_recipe(recipe, tmp_path, num_processes)
    assert text in TrainingRun("recipe.yaml", read_recipe(tmp_path / "recipe.yaml")).description
    assert parse_recipe(AlignRecipe, ["--config", str(tmp_path / "recipe.yaml")]) == recipe


def test_earlier_recipes_are_in_order_and_of_our_models_only(tmp_path):
    def write(name: str, model_type: str, **recipes: str) -> str:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": model_type}))
        for file, text in recipes.items():
            (tmp_path / name / f"{file}.yaml").write_text(text)
        return str(tmp_path / name)

    vision = write("vision", "dcclip", recipe="vision")
    text = write("text", "dcclip", recipe_01="vision", recipe_02="first text", recipe="second text")
    foreign = write("foreign", "vit", recipe="of another tool")
    starts = [vision, text, foreign, "random", "teacher", None]
    assert earlier_recipes(starts) == ("vision", "first text", "second text")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "vision" / "recipe_01.yaml").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"recipe_01.yaml is a link to a file outside the folder"):
        earlier_recipes(starts)


def finetuned(measured: dict | None = None, facts: dict | None = None, **recipe) -> dict:
    """Facts of a model that was fine-tuned on Chinese captions."""
    start = {"base_model": "me/start", "base_model_license": "cc-by-nc-4.0"}
    recipe = {
        "data": {"train": "data/train.parquet", "caption_columns": {"zh": "zh"}},
        "chunk_size": 0,
    } | recipe
    results = None if measured is None else Results({"finetune": measured})
    return finetuning_facts(
        replace(FACTS, **start | (facts or {})), [TrainingRun("recipe.yaml", recipe)], results
    )


def test_a_finetuned_model_states_its_start_its_anchor_and_its_data():
    facts = finetuned(anchor_weight=1.0)
    assert facts["summary"] == (
        "Fine-tuned with DC-CLIP from `me/start` (licence `cc-by-nc-4.0`) on images with Chinese captions: "
        "contrastive alignment, with an anchor to the embeddings of that model."
    )
    assert (
        facts["space"] == "held close to the embeddings of `me/start`"
        and not facts["interpolation"]
    )
    assert facts["data"] == "data/train.parquet" and facts["languages"] == ["Chinese"]
    cosines = {"cosine_to_start": {"images": 0.91234, "texts": 0.95}, "data": "/home/me/titles.csv"}
    facts = finetuned(cosines, {"base_model_license": None})
    assert "no licence stated" in facts["summary"] and "without an anchor" in facts["summary"]
    measured = "(mean cosine 0.912 for images, 0.950 for captions of the validation split)"
    assert (
        facts["space"] == f"not comparable with the embeddings of `me/start` {measured}"
        and facts["data"] == "titles.csv"
    )
    assert finetuned(facts={"base_model": None}) is None
    start = replace(FACTS, base_model="me/start")
    assert (
        finetuning_facts(start, [TrainingRun("recipe", {})] * 2, None) is None
    )  # aligned after it


def test_the_card_of_a_finetuned_model_shows_before_and_after(folder, processor):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").unlink()
    start = {
        "base_model": "me/start",
        "base_model_license": "mit",
        "teacher": None,
        "teacher_license": None,
    }
    (folder / "config.json").write_text(json.dumps(config | start))
    (folder / "recipe.yaml").unlink()
    recipe = AlignRecipe(
        **recipe_fields(folder / "mine", "x.parquet", student="me/start", max_steps=100)
    )
    save_recipe(recipe, folder)
    rows = [
        row(value, stage=stage, set="validation")
        for stage, value in (("start", 0.25), ("finetuned", 0.5))
    ]
    card = card_of(folder, Results({"command": "finetune", "finetune": {}}, rows))
    assert "| student, start | 25.0 |" in card.text and "| student, finetuned | 50.0 |" in card.text
    assert "; 100 steps, " in card.text and "before (`start`)" in card.text
    assert card.data.base_model == ["me/start"] and card.data.base_model_relation == "finetune"
    assert card.data.license == "mit" and "distillation" not in card.data.tags
    assert [result.metric_value for result in card.data.eval_results] == [0.5]
