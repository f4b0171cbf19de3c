"""Model cards: facts, licenses, metadata and tables, and how an existing card is refreshed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.constants import HF_HUB_CACHE

from modeling_dcclip import DCCLIPModel
from tests.tiny import (
    MOBILENET,
    make_model,
    recipe_fields,
    student_config,
)
from training.config import AlignRecipe, DataConfig, DistillRecipe, save_recipe
from training.hub import CardDetails, earlier_recipes, save_model, write_card
from training.hub.cards.facts import TrainingRun, count_parameters, matches_teacher, model_name
from training.hub.cards.metadata import eval_results
from training.hub.cards.tables import export_table
from training.utils.results import Results, Row


@pytest.fixture(scope="module")
def saved(tmp_path_factory, processor):
    folder = tmp_path_factory.mktemp("card")
    student = student_config(vision_init="a/tower")
    fields = recipe_fields(
        folder / "dcclip-tiny", "some/images", teacher="some/teacher", student=student
    )
    teacher = {"teacher": "/folder/of/teacher", "teacher_license": "mit and cc-by-nc-4.0"}
    save_model(folder, make_model(MOBILENET, **teacher), processor, DistillRecipe(**fields))
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy to write to."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def change_config(folder: Path, **fields: Any):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


def row(value: float, **fields) -> Row:
    defaults = {
        "model": "student",
        "stage": "aligned",
        "set": "a_set",
        "protocol": "class-names",
        "metric": "top1",
        "language": "zh",
    }
    return Row(**defaults | fields, value=value)


def card_of(folder: Path, results: Results | None = None, **fields) -> ModelCard:
    if results is not None:
        results.write(folder)
    write_card(folder, **fields)
    return ModelCard.load(folder / "README.md")


def test_a_new_card_states_its_size_and_the_words_of_its_author(folder):
    assert count_parameters(folder) == DCCLIPModel.from_pretrained(folder).num_parameters()
    details = CardDetails(summary="It *sees*.", data="Drawn by X.", limits=["Few images."])
    text = card_of(folder, details=details).text
    assert "from the teacher `teacher`: feature-map distillation." in text
    assert "Not evaluated yet." in text
    assert "# dcclip-tiny\n\nIt *sees*.\n" in text
    assert "Drawn by X." in text
    assert "- Few images.\n- A score is" in text


def test_a_model_is_named_by_the_title_of_its_card(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/teacher").mkdir(parents=True)
    assert model_name("runs/teacher") == "teacher"
    (tmp_path / "runs/teacher/README.md").write_text("---\nlicense: mit\n---\n\n# Photo teacher\n")
    assert model_name("runs/teacher") == "Photo teacher"
    assert model_name("BAAI/AltCLIP") == "BAAI/AltCLIP"


def test_the_example_shows_predictions_and_says_when_they_are_wrong(folder):
    labels = {"en": ["fox", "dog"], "zh": ["狐狸", "狗"]}
    answers = {
        "en": [{"label": "fox", "score": 0.98765}, {"label": "dog", "score": 0.01235}],
        "zh": [{"label": "狗", "score": 0.6}, {"label": "狐狸", "score": 0.4}],
    }
    meta = {"example": {"image": "a.png", "labels": labels, "answers": answers}}
    text = card_of(folder, Results(meta), repo_id="me/model", revision="v1").text
    assert text.count('revision="v1"') == text.count('"me/model"') == 4
    assert "main" not in text.partition("## Use")[2].partition("## Results")[0]
    lines = text.splitlines()
    call = lines.index(
        'classify("a.png", candidate_labels=["fox", "dog"], hypothesis_template="{}")'
    )
    assert lines[call + 1] == "# fox 0.988, dog 0.012"
    assert lines[call + 3] == "# 狗 0.600, 狐狸 0.400 (wrong: the correct label is 狐狸)"


def test_a_refreshed_card_keeps_what_was_edited(folder):
    path = folder / "README.md"
    write_card(folder, CardDetails(summary="Old words."))
    text = path.read_text(encoding="utf-8")
    assert "model_name" not in text  # only an evaluated model has an entry in the index
    text = text.replace("Old words.", "My words.").replace("# dcclip-tiny\n", "# Mine\n")
    path.write_text(text.replace("library_name", "custom: kept\nlibrary_name", 1), encoding="utf-8")
    card = card_of(folder, Results({"command": "x"}, [row(0.25)]), repo_id="me/model")
    assert "# Mine\n\nMy words.\n" in card.text
    assert "| student, aligned | 25.0 |" in card.text
    assert 'model="me/model"' in card.text
    assert card.data.to_dict()["custom"] == "kept"
    assert card.data.model_name == "Mine"


def test_a_card_written_by_hand_stays_and_damaged_metadata_are_refused(folder):
    path = folder / "README.md"
    path.write_text("my words", encoding="utf-8")
    write_card(folder)
    assert path.read_text(encoding="utf-8") == "my words"
    path.unlink()
    write_card(folder)
    body = path.read_text(encoding="utf-8").split("---\n", 2)[2]
    path.write_text(f"---\na: [\n---\n{body}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"README\.md: the metadata is damaged"):
        write_card(folder)


def verdict(file: str, **fields) -> dict[str, Any]:
    return {
        "file": file,
        "kept": True,
        "reasons": [],
        "bytes": 4_000_000,
        "ms": 1.25,
        "mean_cosine": 0.99,
        "lost_points": {"en": -0.5, "zh": 0.75},
    } | fields


def test_a_refused_file_is_listed_and_one_that_is_not_published_is_not():
    refused = verdict("onnx/b.onnx", kept=False, bytes=0, reasons=["It loses 2.00 points in zh."])
    meta = {"export": {"verdicts": [refused, verdict("open_clip")]}}
    lines = export_table(Results(meta), ["config.json"]).splitlines()[2:]
    assert lines == ["| `onnx/b.onnx` |  |  |  |  |  | refused: It loses 2.00 points in zh. |"]


def test_results_of_the_first_model_alone_have_one_entry_for_each_language_and_protocol():
    rows = [
        row(0.5),
        row(0.4, language="en"),
        row(0.3, language="en", protocol="mine"),
        row(0.2, stage="distilled"),
        row(0.9, model="some/baseline", stage=None),
        row(5, metric="parameters", language=None),
    ]
    results = Results({"models": [{"name": "student"}, {"name": "some/baseline"}]}, rows)
    found = [(each.dataset_config, each.metric_value) for each in eval_results(results)]
    assert found == [("zh", 0.5), ("en, class-names", 0.4), ("en, mine", 0.3)]


@pytest.mark.parametrize(
    ("name", "metric", "ids"),
    [
        ("mnist (90 of 10,000 images)", "top5", ("clip-benchmark/wds_mnist", "test", "accuracy")),
        ("me/cats", "t2i_R@1", ("me/cats", None, "recall")),
    ],
)
def test_results_have_the_ids_of_the_hub_and_own_names_where_it_has_none(name, metric, ids):
    (found,) = eval_results(Results({}, [row(0.5, set=name, metric=metric)]))
    assert (found.dataset_type, found.dataset_split, found.metric_type) == ids
    assert found.dataset_name == f"{name} (zh)"


NO_ORIGIN = {"teacher": None, "teacher_license": None}


@pytest.mark.parametrize(
    ("fields", "license", "terms"),
    [
        (NO_ORIGIN, None, "without a teacher. Their owner states no license here."),
        (
            NO_ORIGIN | {"teacher_license": "apache-2.0"},
            "apache-2.0",
            "They are licensed under the Apache License 2.0.",
        ),
        ({"teacher_license": None}, "other", "An origin of the weights states no license"),
        (
            {"teacher_license": "mit and apache-2.0"},
            "mit",
            "The terms of `mit` and of `apache-2.0` apply to them and to every model that is",
        ),
        (
            {"teacher_license": "cc-by-sa-4.0 and cc-by-nc-4.0"},
            "other",
            "The terms of `cc-by-sa-4.0` and of `cc-by-nc-4.0` apply",
        ),
        ({"teacher_license": "other: tongyi"}, "other", "The terms of `tongyi` apply"),
        (
            {"base_model": "a/b", "base_model_license": "mit", "teacher_license": None},
            "mit",
            "fine-tuned from `a/b`. The terms of `mit` apply",
        ),
        (
            {"teacher_license": "creativeml-openrail-m"},
            "creativeml-openrail-m",
            "The use restrictions in the attachment of `creativeml-openrail-m` ([full text]",
        ),
    ],
)
def test_licenses_of_all_origins_are_named(folder, fields, license, terms):
    change_config(folder, **fields)
    card = card_of(folder)
    assert card.data.license == license
    assert terms in card.text
    assert ("Apache License 2.0" in card.text) == (license == "apache-2.0")


def test_licenses_of_the_data_are_those_of_their_cards(folder, tmp_path):
    cached = Path(HF_HUB_CACHE, "datasets--licensed--images")
    for place, license in ((cached / "snapshots/0123", "cc-by-4.0"), (tmp_path / "mine", "mit")):
        place.mkdir(parents=True, exist_ok=True)
        (place / "README.md").write_text(f"---\nlicense: {license}\n---\n")
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("0123")
    sources = [{"train": name} for name in ("licensed/images", "a.parquet")]
    save_recipe(AlignRecipe(output_dir="x", student="s", data=DataConfig(sources=sources)), folder)
    assert (
        "Of the training data, `licensed/images` is under `cc-by-4.0`. The terms of the other "
        "training data, which the card lists, apply as well."
    ) in card_of(folder).text


MAPS = {"map_weight": 1.0, "embedding_weight": 0.0}
EMBEDDING = {"map_weight": 1.0}
VISION, TEXT = EMBEDDING | {"tower": "vision"}, EMBEDDING | {"tower": "text"}
ALIGN = {"chunk_size": 0}


@pytest.mark.parametrize(
    ("recipes", "matches"),
    [
        ([EMBEDDING], True),
        ([MAPS], False),
        ([VISION], False),
        ([VISION, TEXT], True),
        ([EMBEDDING, ALIGN], False),
        ([VISION, TEXT, ALIGN, VISION], False),  # the text tower was moved
        ([EMBEDDING, ALIGN | {"anchor_weight": 1.0}], True),
    ],
)
def test_the_claim_about_the_embedding_space_follows_from_the_recipes(recipes, matches):
    assert matches_teacher([TrainingRun("recipe.yaml", recipe) for recipe in recipes]) == matches


def test_earlier_recipes_are_in_order_and_of_our_models_only(tmp_path):
    def write_model(name: str, model_type: str, **recipes: str) -> str:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": model_type}))
        for file, text in recipes.items():
            (tmp_path / name / f"{file}.yaml").write_text(text)
        return str(tmp_path / name)

    vision = write_model("vision", "dcclip", recipe="vision")
    text = write_model("text", "dcclip", recipe_01="vision", recipe_02="first", recipe="second")
    foreign = write_model("foreign", "vit", recipe="of another tool")
    starts = [vision, text, foreign, "random", "teacher", None]
    assert earlier_recipes(starts) == ("vision", "first", "second")
    (tmp_path / "secret").write_text("secret")
    Path(vision, "recipe_01.yaml").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"recipe_01.yaml is a link to a file outside the folder"):
        earlier_recipes([vision])


def test_a_finetuned_model_states_its_start_its_data_and_its_change(folder):
    change_config(folder, base_model="me/start", base_model_license="mit", **NO_ORIGIN)
    data = DataConfig(train="data/train.parquet", caption_columns={"zh": "zh"})
    save_recipe(AlignRecipe(output_dir="mine", data=data, student="me/start"), folder)
    card = card_of(folder)
    assert (
        "Fine-tuned with DC-CLIP from `me/start` (license `mit`) on images with Chinese captions: "
        "contrastive alignment, without an anchor to the embeddings of that model."
    ) in card.text
    assert "Data: `data/train.parquet`. Languages of the captions: Chinese." in card.text
    assert "not comparable with the embeddings of `me/start` |" in card.text
    assert card.data.base_model == ["me/start"]
    assert card.data.base_model_relation == "finetune"
    assert "distillation" not in card.data.tags
    rows = [
        row(0.25, stage="start", set="validation"),
        row(0.5, stage="finetuned", set="validation"),
    ]
    measured = {
        "cosine_to_start": {"images": 0.91234, "texts": 0.95},
        "data": "/home/me/titles.csv",
        "weight": 0.5,
        "kept": ["photographs"],
    }
    card = card_of(folder, Results({"command": "finetune", "finetune": measured}, rows))
    assert "(mean cosine 0.912 for images, 0.950 for captions of the validation split)" in card.text
    assert "The weights have 0.50 of the change in training" in card.text
    assert "Data: `titles.csv`." in card.text
    assert [result.metric_value for result in card.data.eval_results] == [0.5]
