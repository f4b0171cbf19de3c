import json
from dataclasses import replace
from functools import cache

import pytest
import yaml
from huggingface_hub import ModelCard

from modeling_dcclip import DCCLIPModel
from tests.tiny import MOBILENET, make_model, recipe_fields, student_config
from training.config import AlignRecipe, DataConfig, DistillRecipe, read_recipe, recipe_from_args, save_recipe
from training.hub.cards import CARDS, CardDetails, ModelFacts, count_parameters, refresh_card, render_card, write_card
from training.hub.cards.metadata import eval_results, is_hub_id
from training.hub.cards.published import list_published, render_published
from training.hub.cards.training_runs import TrainingRun
from training.hub.hub_model import HubModel, earlier_recipes
from training.students.build import load_size
from training.utils.results import Results, Row


@pytest.fixture
def folder(tmp_path, processor):
    fields = recipe_fields(tmp_path / "dcclip-tiny", "some/images", teacher="some/teacher", student=student_config())
    model = make_model(MOBILENET, teacher="some/teacher", teacher_license="creativeml-openrail-m")
    HubModel(model, processor, DistillRecipe(**fields)).save(tmp_path)
    return tmp_path


def test_front_matter_has_the_fields_of_the_hub(folder):
    data = ModelCard.load(folder / "README.md").data
    assert sorted(data.language) == ["en", "zh"]
    assert data.pipeline_tag == "zero-shot-image-classification" and data.library_name == "transformers"
    assert data.license == "creativeml-openrail-m"  # the teacher's licence applies
    assert "dcclip" in data.tags


def test_card_of_several_teachers_names_them_and_their_licences(tmp_path, processor):
    fields = recipe_fields(tmp_path / "dcclip-tiny", "some/images", teacher="some/teacher", student=student_config())
    teachers = {"teacher": "some/teacher (1) + /folder/of/other (0.5)", "teacher_license": "mit and cc-by-nc-4.0"}
    HubModel(make_model(MOBILENET, **teachers), processor, DistillRecipe(**fields)).save(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == ["some/teacher"] and card.data.license == "other"
    assert "from the teachers `some/teacher (1) + other (0.5)`" in card.text
    terms = (
        "from `some/teacher (1)` and `other (0.5)`. The models that they learned from are licensed under `mit` and "
        "`cc-by-nc-4.0`."
    )
    assert terms in card.text and terms in (tmp_path / "NOTICE.md").read_text(encoding="utf-8")


def test_card_without_results_says_so(folder):
    card = ModelCard.load(folder / "README.md")
    assert "Not evaluated yet." in card.text and not card.data.eval_results


def test_card_has_the_size_of_the_model(folder):
    model = DCCLIPModel.from_pretrained(folder)
    assert count_parameters(folder) == model.num_parameters()
    text = ModelCard.load(folder / "README.md").text
    assert f"| parameters | {model.num_parameters():,} |" in text
    assert f"| weights | {(folder / 'model.safetensors').stat().st_size:,} bytes |" in text


def test_results_are_in_text_and_front_matter(folder):
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
    assert "Protocol: class-names. Command: `python measure.py`" in card.text
    assert "# a-title" in card.text and "Not evaluated yet." not in card.text


EXAMPLE = CardDetails(labels={"en": ["fox", "dog"], "zh": ["狐狸", "狗"]}, image="example.png")


def example(**answers: dict[str, float]) -> Results:
    ranked = {
        language: [{"label": label, "score": score} for label, score in scores.items()]
        for language, scores in answers.items()
    }
    return Results({"example": {"image": "example.png", "answers": ranked}}, [])


def test_example_shows_the_predictions_of_the_model(folder):
    write_card(folder, example(en={"fox": 0.98765, "dog": 0.01235}), EXAMPLE)
    text = ModelCard.load(folder / "README.md").text
    lines = text.splitlines()
    call = next(number for number, line in enumerate(lines) if 'candidate_labels=["fox", "dog"]' in line)
    assert lines[call + 1] == "# fox 0.988, dog 0.012"
    assert any('candidate_labels=["狐狸", "狗"]' in line for line in lines)
    assert "wrong" not in text


def test_card_says_that_its_example_is_wrong(folder):
    write_card(folder, example(en={"fox": 0.9, "dog": 0.1}, zh={"狗": 0.6, "狐狸": 0.4}), EXAMPLE)
    text = ModelCard.load(folder / "README.md").text
    assert "# 狗 0.600, 狐狸 0.400 (wrong: the correct label is 狐狸)" in text
    assert "gets this example wrong in Chinese: it ranks `狗` first, and the correct label is `狐狸`." in text
    assert "wrong in English" not in text


def test_predictions_for_other_labels_are_not_shown(folder):
    write_card(folder, example(en={"cat": 0.9, "dog": 0.1}), EXAMPLE)
    assert "cat 0.9" not in ModelCard.load(folder / "README.md").text


@pytest.mark.parametrize(
    ("recipe", "stage"),
    [
        ({"tower": "vision"}, "feature-map distillation"),
        ({"map_weight": 0.1, "target": "embedding"}, "distillation of embedding"),
        ({"chunk_size": 128}, "contrastive alignment"),
        ({"max_steps": 1}, None),
    ],
)
def test_stage_comes_from_the_fields_of_the_recipe(recipe, stage):
    assert TrainingRun("recipe.yaml", recipe).stage == stage


def test_towers_of_a_new_student_of_stage_2_are_in_the_lineage():
    recipe = {"new_student": {"vision_init": "timm/some_vit", "text_init": "random"}}
    assert TrainingRun("recipe.yaml", recipe).initial_weights == ["timm/some_vit"]


def test_a_run_names_its_classifier():
    run = TrainingRun("recipe.yaml", {"classifier": "/home/me/runs/lite2_classifier", "classifier_weight": 1.0})
    assert run.stage == "contrastive alignment"
    assert run.description.endswith(", with the classes of `lite2_classifier`")


@pytest.mark.parametrize(
    ("fields", "num_processes", "text"),
    [
        ({}, 1, "batch size 8, "),
        ({"accumulate_steps": 4}, 1, "batch size 32 (4 batches of 8), "),
        ({}, 2, "batch size 16 (2 processes of 8), "),
        ({"accumulate_steps": 4}, 2, "batch size 64 (2 processes x 4 batches of 8), "),
    ],
)
def test_the_batch_size_is_that_of_all_processes_and_accumulated_batches(fields, num_processes, text, tmp_path):
    recipe = AlignRecipe(output_dir="", data=DataConfig(train="x"), batch_size=8, **fields)
    save_recipe(recipe, tmp_path, num_processes)
    assert text in TrainingRun("recipe.yaml", read_recipe(tmp_path / "recipe.yaml")).description
    assert recipe_from_args(AlignRecipe, ["--config", str(tmp_path / "recipe.yaml")]) == recipe


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


def test_examples_pin_a_revision(folder):
    write_card(folder, details=CardDetails(revision="v1"))
    text = ModelCard.load(folder / "README.md").text
    calls = [line for line in text.splitlines() if "trust_remote_code=True" in line]
    assert len(calls) == 4 and all('revision="v1"' in line for line in calls)


def test_elevater_mean_covers_only_measured_sets(folder):
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
    # further metrics of a set, and metrics over several languages, are not part of the mean
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


def test_elevater_separates_models_and_protocols_and_averages_over_seeds(folder):
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


def test_size_and_latency_come_from_the_device_budget(folder):
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
    budget = Results({"command": "python -m training.studies budget"}, rows)
    text = render_card(ModelFacts.from_folder(folder), CardDetails(size="tiny"), {}, budget=budget)
    assert (
        "| size, MB | cold start, s | peak memory, MiB | ms per image | ms per text | speed-up over altclip |" in text
    )
    assert "| onnx-int8 | 1 | 13.96 | 0.50 | 92 | 9.50 | 1.50 | 40.3 |" in text
    assert "Command: `python -m training.studies budget`" in text and "baseline" not in text


def test_exported_files_have_a_table_of_their_own(folder):
    kept = {"file": "onnx/a.onnx", "kept": True, "reasons": [], "bytes": 4_000_000, "ms": 1.25, "mean_cosine": 0.99}
    kept["lost_points"] = {"en": -0.5, "zh": 0.75}
    refused = kept | {"file": "onnx/b.onnx", "kept": False, "reasons": ["It loses 2.00 points in zh."], "bytes": 0}
    runs = [{"command": "python export.py", "commit": "c0ffee", "date": "2026-01-02", "data": "set", "files": []}]
    export = {"verdicts": [kept, refused], "runs": runs}
    row = Row(model="onnx/a.onnx", set="set", protocol="class-names", language="zh", metric="top1", value=0.5)
    sizes = [Row(model=model, metric="bytes", value=5) for model in ("PyTorch", "onnx/a.onnx", "onnx/b.onnx")]
    write_card(folder, Results({"command": "python measure.py", "export": export}, [row, *sizes]))
    text = ModelCard.load(folder / "README.md").text
    assert "| `onnx/a.onnx` | 4.00 | 1.25 | 0.99000 | -0.50 | +0.75 |  |" in text
    assert "| `onnx/b.onnx` |  |  |  |  |  | refused: It loses 2.00 points in zh. |" in text
    assert "- `python export.py`, commit c0ffee, 2026-01-02, data: set\n" in text
    assert "Size and latency" not in text  # this table would list refused files, with another command
    assert "Not evaluated yet." in text  # the accuracy of exported files is not a result of the model


def test_rows_of_an_export_are_no_results_of_the_model(folder):
    fields = {"set": "a_set", "protocol": "class-names", "language": "zh", "metric": "top1"}
    refused = {"file": "onnx/b.onnx", "kept": False, "reasons": ["It is slow."], "bytes": 0, "lost_points": {}}
    results = Results(
        {"command": "python measure.py", "export": {"verdicts": [refused], "runs": []}},
        [Row(model=name, value=0.9, **fields) for name in ("PyTorch", "onnx/b.onnx")],
    )
    write_card(folder, results)
    data = ModelCard.load(folder / "README.md").data
    assert data.eval_results is None and data.to_dict().get("metrics") is None
    results.rows.append(Row(model="student", stage="aligned", value=0.4, **fields | {"protocol": "my-templates"}))
    write_card(folder, results)
    card = ModelCard.load(folder / "README.md")
    (result,) = card.data.eval_results
    assert result.metric_value == 0.4 and "Protocol: my-templates. Command" in card.text


def test_front_matter_has_one_result_for_each_language(folder):
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
    results = ModelCard.load(folder / "README.md").data.eval_results
    assert {(result.dataset_config, result.metric_value) for result in results} == {("en", 0.1), ("zh", 0.2)}


def test_front_matter_has_one_result_for_each_of_several_protocols():
    fields = {"model": "student", "set": "cifar-10", "language": "zh"}
    measured = (("elevater-zh", "top1", 0.1), ("cn-clip-compat", "top1", 0.2), ("elevater-zh", "top5", 0.3))
    rows = [Row(protocol=protocol, metric=metric, value=value, **fields) for protocol, metric, value in measured]
    found = {(result.dataset_config, result.metric_value) for result in eval_results(Results({}, rows))}
    assert found == {("zh, elevater-zh", 0.1), ("zh, cn-clip-compat", 0.2), ("zh, elevater-zh", 0.3)}


def test_teacher_and_data_are_named(folder):
    text = ModelCard.load(folder / "README.md").text
    assert "some/teacher" in text and "some/images" in text


def test_licence_of_the_teacher_applies(folder):
    text = ModelCard.load(folder / "README.md").text
    assert "`creativeml-openrail-m`. Its terms also apply to these weights" in text and "use restrictions" in text


def test_base_models_and_data_are_hub_ids_only(folder):
    facts = ModelFacts.from_folder(folder)
    student = {"vision_init": "timm/a_tower", "text_init": "random"}
    recipe = {"data": {"train": "/home/somebody/pairs.parquet"}, "batch_size": 8, "student": student}
    card = ModelCard(render_card(facts, CardDetails(base_model=["a/b"], datasets=["c/d"]), {"recipe.yaml": recipe}))
    assert card.data.base_model == ["some/teacher", "a/b", "timm/a_tower"] and card.data.datasets == ["c/d"]
    assert "/home" not in card.content and "`pairs.parquet`" in card.text


# fields of `WidgetExample` of @huggingface/tasks 0.21 for an image with labels, and their types
WIDGET_KEYS = {"src": str, "candidate_labels": str, "example_title": str, "text": str, "multi_class": bool}


@pytest.mark.parametrize("name", list_published())
def test_widget_examples_have_the_types_of_the_hub(name):
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


def test_widget_image_is_a_url_in_the_repo(folder):
    details = CardDetails(image="example.png")
    write_card(folder, details=details, repo_id="me/model")
    data = ModelCard.load(folder / "README.md").data
    assert {example["src"] for example in data.widget} == {"https://huggingface.co/me/model/resolve/main/example.png"}


@cache
def render_committed(name: str) -> str:
    return render_published(name)


@pytest.mark.parametrize("name", list_published())
def test_committed_cards_are_up_to_date(name):
    assert (CARDS / f"{name}.md").read_text(encoding="utf-8") == render_committed(name), (
        "run python -m training.hub.cards"
    )


def test_cards_of_sizes_describe_their_recipes():
    assert {"demo", "tiny", "small", "base"} <= set(list_published())
    for name in ("tiny", "small", "base"):
        card = ModelCard(render_committed(name))
        assert "no weights are published yet" in card.text and "Not evaluated yet." in card.text
        assert card.data.eval_results is None and card.data.license == "creativeml-openrail-m"
        student = load_size(name)
        assert card.data.base_model == ["BAAI/AltCLIP", student.vision_init, student.text_init]
        for recipe in ("altclip_distill_vision", "altclip_distill_text", "altclip_align"):
            assert f"- `{recipe}.yaml`: " in card.text
    assert "no weights" not in render_committed("demo")


def test_card_edited_by_hand_is_kept(folder):
    refresh_card(folder, repo_id="me/model")
    assert 'model="me/model"' in (folder / "README.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text("my words", encoding="utf-8")
    refresh_card(folder, repo_id="me/model")
    assert (folder / "README.md").read_text(encoding="utf-8") == "my words"
    with pytest.raises(ValueError, match="edited by hand"):
        refresh_card(folder, str(CARDS / "demo.yaml"))


def test_refreshing_adds_the_results_of_the_folder(folder):
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
def test_invalid_yaml_is_refused_by_its_key(tmp_path, content, reason):
    path = tmp_path / "card.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=reason):
        CardDetails.read(path)


def test_local_data_are_no_hub_ids(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "clip").mkdir(parents=True)
    assert not [name for name in ("models/clip", "data/pairs.parquet", "runs/x", "a/b/c") if is_hub_id(name)]
    assert is_hub_id("openai/clip-vit-base-patch32")


def test_results_of_other_models_are_not_of_the_model(folder):
    rows = [
        Row(model=name, set="dtd", protocol="elevater-en", language="en", metric="top1", value=value)
        for name, value in (("runs/mine", 0.5), ("runs/mine, 64 dimensions", 0.3), ("some/other", 0.9))
    ]
    meta = {"command": "eval", "models": [{"name": "runs/mine"}, {"name": "some/other"}]}
    assert [entry.metric_value for entry in eval_results(Results(meta, rows))] == [0.5]


def test_an_origin_without_a_licence_is_not_ours(folder):
    facts = ModelFacts.from_folder(folder)
    assert replace(facts, teacher="some/teacher", teacher_license=None).license == "other"
    assert replace(facts, teacher=None, teacher_license=None, base_model="a/b").license == "other"
    assert (
        replace(
            facts, teacher="some/teacher", teacher_license=None, base_model="a/b", base_model_license="mit"
        ).license
        == "mit"
    )
    assert replace(facts, teacher=None, teacher_license=None).license == "apache-2.0"
