from functools import cache

import pytest
import yaml
from huggingface_hub import ModelCard

from modeling_dcclip import DCCLIPModel
from tests.tiny import MOBILENET, make_model, recipe_fields, student_config
from training.config import DistillRecipe
from training.hub.cards import CARDS, CardDetails, ModelFacts, count_parameters, refresh_card, render_card, write_card
from training.hub.cards.published import list_published, render_published
from training.hub.hub_model import HubModel
from training.utils.results import Results, Row


@pytest.fixture
def folder(tmp_path, processor):
    fields = recipe_fields(tmp_path / "dcclip-tiny", "some/images", teacher="some/teacher", student=student_config())
    model = make_model(MOBILENET, teacher="some/teacher", teacher_license="creativeml-openrail-m")
    HubModel(model, processor, DistillRecipe(**fields)).save(tmp_path)
    return tmp_path


def test_front_matter_says_what_the_hub_asks_for(folder):
    data = ModelCard.load(folder / "README.md").data
    assert sorted(data.language) == ["en", "zh"]
    assert data.pipeline_tag == "zero-shot-image-classification" and data.library_name == "transformers"
    assert data.license == "creativeml-openrail-m"  # the teacher's passes on
    assert "dcclip" in data.tags


def test_without_results_the_card_says_so(folder):
    card = ModelCard.load(folder / "README.md")
    assert "Not evaluated yet." in card.text and not card.data.eval_results


def test_size_on_the_card_is_that_of_the_model(folder):
    model = DCCLIPModel.from_pretrained(folder)
    assert count_parameters(folder) == model.num_parameters()
    text = ModelCard.load(folder / "README.md").text
    assert f"| parameters | {model.num_parameters():,} |" in text
    assert f"| weights | {(folder / 'model.safetensors').stat().st_size:,} bytes |" in text


def test_results_stand_in_the_text_and_in_the_front_matter(folder):
    row = Row(
        model="student",
        stage="aligned",
        set="unseen_style",
        protocol="class-names",
        language="zh",
        metric="top5",
        value=0.4321,
        seed=0,
        interval=(0.4, 0.5),
    )
    size = Row(model="student", stage="aligned", metric="parameters", value=5)
    meta = {"command": "python measure.py", "example": {"answers": {"zh": [{"label": "狐狸", "score": 0.98765}]}}}
    write_card(folder, Results(meta, [row, size]), CardDetails(name="a-title", data="Drawn by *somebody*."))
    card = ModelCard.load(folder / "README.md")
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_name) == ("accuracy", "top-5 accuracy")
    assert (result.metric_value, result.dataset_type) == (0.4321, "unseen_style")
    assert "| student, aligned | 43.2 |" in card.text and "Drawn by *somebody*." in card.text
    assert "protocol: class-names. Command: `python measure.py`" in card.text
    assert "# a-title" in card.text and "Not evaluated yet." not in card.text


def test_the_example_shows_what_the_model_answered(folder):
    answers = {"en": [{"label": "fox", "score": 0.98765}, {"label": "dog", "score": 0.01235}]}
    details = CardDetails(labels={"en": ["fox", "dog"], "zh": ["狐狸"]}, image="example.png")
    write_card(folder, Results({"example": {"answers": answers}}, []), details)
    lines = ModelCard.load(folder / "README.md").text.splitlines()
    call = next(n for n, line in enumerate(lines) if 'candidate_labels=["fox", "dog"]' in line)
    assert lines[call + 1] == "# fox 0.988, dog 0.012"
    assert any('candidate_labels=["狐狸"]' in line for line in lines)


def test_examples_pin_a_revision(folder):
    write_card(folder, details=CardDetails(revision="v1"))
    text = ModelCard.load(folder / "README.md").text
    calls = [line for line in text.splitlines() if "trust_remote_code=True" in line]
    assert len(calls) == 4 and all('revision="v1"' in line for line in calls)


def test_elevater_says_n_of_20_and_counts_what_was_measured_alone(folder):
    rows = [
        Row(
            model="student",
            stage="aligned",
            set=name,
            protocol="templates",
            language=language,
            metric=metric,
            value=value,
        )
        for name, metric, values in (("mnist", "top1", (0.5, 0.3)), ("dtd", "top1", (0.7, 0.5)))
        for language, value in zip(("en", "zh"), values, strict=True)
    ]
    # what training/eval.py writes beside a set's own metric, and over languages, is no part of the mean
    rows += [
        Row(
            model="student",
            stage="aligned",
            set="mnist",
            protocol="templates",
            language="en",
            metric=metric,
            value=0.9,
        )
        for metric in ("top5", "mean_per_class")
    ]
    rows += [
        Row(
            model="student",
            stage="aligned",
            set="mnist",
            protocol="templates",
            language="en, zh",
            metric=metric,
            value=0.1,
        )
        for metric in ("top1", "agreement")
    ]
    write_card(folder, Results({"command": "elevater"}, rows))
    text = ModelCard.load(folder / "README.md").text
    assert "| model | set | metric | en (templates) | zh (templates) |" in text
    assert "| student | dtd | accuracy | 70.0 | 50.0 |" in text
    assert "| student | **mean (sets of 20)** |  | 60.0 (2) | 40.0 (2) |" in text


def test_elevater_keeps_models_and_protocols_apart_and_takes_the_mean_over_seeds(folder):
    rows = [
        Row(model="ours", set="mnist", protocol="elevater-zh", language="zh", metric="top1", value=value, seed=seed)
        for seed, value in enumerate((0.5, 0.6))
    ]
    rows += [Row(model="ours", set="mnist", protocol="cn-clip-compat", language="zh", metric="top1", value=0.4)]
    rows += [
        Row(model="baseline", set=name, protocol="elevater-zh", language="zh", metric="top1", value=0.9)
        for name in ("mnist", "dtd")
    ]
    write_card(folder, Results({"command": "elevater"}, rows))
    text = ModelCard.load(folder / "README.md").text
    assert "| model | set | metric | zh (cn-clip-compat) | zh (elevater-zh) |" in text
    assert "| ours | mnist | accuracy | 40.0 | 55.0 |" in text
    assert "| ours | **mean (sets of 20)** |  | 40.0 (1) | 55.0 (1) |" in text
    assert "| baseline | **mean (sets of 20)** |  |  | 90.0 (2) |" in text


def test_size_and_speed_come_from_the_device_budget(folder):
    batch = "onnx-int8, threads 1, batch 1"
    rows = [
        Row(model="tiny", metric="parameters", value=13_000_000),
        Row(model="tiny", protocol="onnx-int8", metric="bytes", value=13_960_000),
        Row(model="tiny", protocol="pytorch", metric="bytes", value=52_000_000),
        Row(model="tiny", protocol="onnx-int8, threads 1", metric="cold_start_s", value=0.5),
        Row(model="tiny", protocol=batch, metric="peak_bytes", value=92 * 2**20),
        Row(model="tiny", protocol=batch, metric="ms_per_image_p50", value=9.5),
        Row(model="tiny", protocol=batch.replace("batch 1", "batch 8"), metric="ms_per_image_p50", value=7.5),
        Row(model="tiny", protocol=batch, language="en", metric="ms_per_text_p50", value=1.0),
        Row(model="tiny", protocol=batch, language="zh", metric="ms_per_text_p50", value=2.0),
        Row(model="tiny", protocol=f"{batch}, against onnx-int8", metric="times_as_fast", value=40.26),
        Row(model="baseline", protocol="onnx-int8", metric="bytes", value=5),
    ]
    budget = Results({"command": "python -m training.studies.budget"}, rows)
    text = render_card(ModelFacts.from_folder(folder), CardDetails(size="tiny"), {}, budget=budget)
    assert "| backend | threads | MB | start, s | peak, MiB | an image, ms | a text, ms | x altclip |" in text
    assert "| onnx-int8 | 1 | 13.96 | 0.50 | 92 | 9.50 | 1.50 | 40.3 |" in text
    assert "Command: `python -m training.studies.budget`" in text and "baseline" not in text


def test_exported_files_have_a_table_of_their_own(folder):
    kept = {"file": "onnx/a.onnx", "kept": True, "reasons": [], "bytes": 4_000_000, "ms": 1.25, "mean_cosine": 0.99}
    kept["lost_points"] = {"en": -0.5, "zh": 0.75}
    refused = kept | {"file": "onnx/b.onnx", "kept": False, "reasons": ["It loses 2.00 points in zh."], "bytes": 0}
    runs = [{"command": "python export.py", "commit": "c0ffee", "date": "2026-01-02", "data": "set", "files": []}]
    export = {"verdicts": [kept, refused], "runs": runs}
    row = Row(model="onnx/a.onnx", set="set", protocol="class-names", language="zh", metric="top1", value=0.5)
    write_card(folder, Results({"command": "python measure.py", "export": export}, [row]))
    text = ModelCard.load(folder / "README.md").text
    assert "| `onnx/a.onnx` | 4.00 | 1.25 | 0.99000 | -0.50 | +0.75 |  |" in text
    assert "| `onnx/b.onnx` |  |  |  |  |  | refused: It loses 2.00 points in zh. |" in text
    assert "- `python export.py`, commit c0ffee, 2026-01-02, data: set\n" in text
    assert "Not evaluated yet." in text  # what an export lost is no result of the model


def test_languages_stay_apart_in_the_front_matter(folder):
    rows = [
        Row(
            model="student",
            stage="aligned",
            set="a_set",
            protocol="class-names",
            language=lang,
            metric="top1",
            value=value,
        )
        for lang, value in (("en", 0.1), ("zh", 0.2))
    ]
    write_card(folder, Results({}, rows))
    found = ModelCard.load(folder / "README.md").data.eval_results
    assert {(result.dataset_config, result.metric_value) for result in found} == {("en", 0.1), ("zh", 0.2)}


def test_teacher_and_data_are_named(folder):
    text = ModelCard.load(folder / "README.md").text
    assert "some/teacher" in text and "some/images" in text


def test_the_licence_of_the_teacher_is_named_and_passed_on(folder):
    text = ModelCard.load(folder / "README.md").text
    assert "`creativeml-openrail-m`. Its terms pass on to these weights" in text and "restrictions on use" in text


def test_a_teacher_on_the_hub_is_the_base_model_and_a_local_path_is_none(folder):
    facts = ModelFacts.from_folder(folder)
    recipe = {"data": {"train": "/home/somebody/pairs.parquet"}, "batch_size": 8}
    card = ModelCard(render_card(facts, CardDetails(base_model=["a/b"], datasets=["c/d"]), {"recipe.yaml": recipe}))
    assert card.data.base_model == ["some/teacher", "a/b"] and card.data.datasets == ["c/d"]
    assert "/home" not in card.content and "`pairs.parquet`" in card.text


# what `WidgetExample` of @huggingface/tasks 0.21 allows beside an image and its labels, and of which type
WIDGET_KEYS = {"src": str, "candidate_labels": str, "example_title": str, "text": str, "multi_class": bool}


@pytest.mark.parametrize("name", list_published())
def test_widget_examples_are_what_the_hub_types(name):
    data = yaml.safe_load(render_committed(name).split("---")[1])
    languages = set()
    for example in data["widget"]:
        assert {"src", "candidate_labels", "example_title"} <= set(example) <= set(WIDGET_KEYS)
        assert all(isinstance(value, WIDGET_KEYS[key]) for key, value in example.items())
        labels = [label.strip() for label in example["candidate_labels"].split(",")]
        assert len(labels) >= 2 and all(labels)
        languages.add("zh" if any("\u4e00" <= letter <= "\u9fff" for letter in labels[0]) else "en")
    assert languages == {"en", "zh"}
    assert data["inference"]["parameters"]["hypothesis_template"] == "{}"
    assert data["pipeline_tag"] == "zero-shot-image-classification" and data["library_name"] == "transformers"


def test_in_its_repo_the_widget_finds_the_image(folder):
    details = CardDetails(image="example.png")
    write_card(folder, details=details, repo_id="me/model")
    data = ModelCard.load(folder / "README.md").data
    assert {example["src"] for example in data.widget} == {"https://huggingface.co/me/model/resolve/main/example.png"}


@cache
def render_committed(name: str) -> str:
    return render_published(name)


@pytest.mark.parametrize("name", list_published())
def test_committed_cards_are_what_their_results_give(name):
    assert (CARDS / f"{name}.md").read_text(encoding="utf-8") == render_committed(name), (
        "run python -m training.hub.cards"
    )


def test_cards_of_sizes_say_that_they_are_recipes():
    assert {"demo", "tiny", "small", "base"} <= set(list_published())
    for name in ("tiny", "small", "base"):
        card = ModelCard(render_committed(name))
        assert "Recipe, not yet trained." in card.text and "Not evaluated yet." in card.text
        assert card.data.eval_results is None and card.data.license == "creativeml-openrail-m"
        assert "BAAI/AltCLIP" in card.data.base_model
    assert "not yet trained" not in render_committed("demo")


def test_a_card_made_ones_own_is_left_alone(folder):
    refresh_card(folder, repo_id="me/model")
    assert 'model="me/model"' in (folder / "README.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text("my words", encoding="utf-8")
    refresh_card(folder, repo_id="me/model")
    assert (folder / "README.md").read_text(encoding="utf-8") == "my words"
    with pytest.raises(ValueError, match="written by hand"):
        refresh_card(folder, str(CARDS / "demo.yaml"))


def test_refreshing_adds_the_results_beside_the_model(folder):
    Results(
        {"command": "x"},
        [Row(model="student", stage="aligned", set="s", protocol="p", language="en", metric="top1", value=0.25)],
    ).write(folder)
    (folder / "card.yaml").write_text("name: renamed\n", encoding="utf-8")
    refresh_card(folder)
    text = ModelCard.load(folder / "README.md").text
    assert "| student, aligned | 25.0 |" in text and "# renamed" in text


@pytest.mark.parametrize(
    ("content", "reason"), [("nmae: x", "unknown keys nmae"), ("labels: {en: ['a, b']}", "has a comma")]
)
def test_a_damaged_yaml_is_refused_by_its_key(tmp_path, content, reason):
    path = tmp_path / "card.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=reason):
        CardDetails.read(path)
