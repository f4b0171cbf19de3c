"""The command on a few dozen free photographs: paths of the recipes, invalid input, every step, a continued run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file

from modeling_dcclip import DCCLIPModel
from tests.tiny import NO_DROPOUT, VIT, make_model
from training.config import AlignRecipe, StudentConfig
from training.data import load_source
from training.edge import graphs
from training.experiments.corpus import emoji
from training.experiments.photographs import data, run
from training.experiments.photographs.__main__ import MODULES, main
from training.experiments.photographs.options import Options
from training.experiments.photographs.run import STAGES, Run
from training.general_images import FREE_PHOTOS

# fast to trace
VISION = VIT | {"num_hidden_layers": 1}
TEXT = NO_DROPOUT | {"num_hidden_layers": 1}
PARTS = ((0, 0, 0.6, 0.6), (0.4, 0, 1, 0.6), (0, 0.4, 0.6, 1), (0.4, 0.4, 1, 1))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """Four parts of each free photograph, with a list of captions in English and one caption in Chinese."""
    for name in ("skimage", "sklearn"):
        pytest.importorskip(name, reason='pip install -e ".[photos]"')
    images, english, chinese = [], [], []
    for photo in FREE_PHOTOS:
        image = photo.open()
        image.thumbnail((480, 480))
        for number, (left, top, right, bottom) in enumerate(PARTS):
            width, height = image.size
            images.append(image.crop((left * width, top * height, right * width, bottom * height)))
            english.append([photo.query["en"], f"part {number} of {photo.query['en']}"])
            chinese.append(f"{photo.query['zh']}的一部分")
    path = tmp_path_factory.mktemp("photographs") / "mine.parquet"
    Dataset.from_dict({"image": images, "en": english, "zh": chinese}).to_parquet(path)
    return path


def open_run(photos: Path) -> Run:
    return Run(Options(photos=str(photos), output_dir=str(photos / "out")))


def stage(name: str) -> run.Stage:
    return next(each for each in STAGES if each.name == name)


def test_recipes_read_the_files_that_are_there_and_name_the_missing_ones(
    tmp_path, photographs, capsys
):
    for name in ("photos_flickr8k_train", "sentences_tatoeba_en_zh"):
        shutil.copy(photographs, tmp_path / f"{name}.parquet")
    (tmp_path / "out/data").mkdir(parents=True)
    shutil.copy(photographs, tmp_path / "out/data/names.parquet")  # was prepared
    recipe = open_run(tmp_path)._recipe(stage("tower_distill"))
    files = ["photos_flickr8k_train", "out/data/names", "sentences_tatoeba_en_zh"]
    expected = [str(tmp_path / f"{name}.parquet") for name in files]
    assert [source.train for source in recipe.data.sources] == expected
    assert (
        "photos_bing_train.parquet is missing; tower_distill runs without it"
        in capsys.readouterr().out
    )


def test_recipes_follow_each_other_in_the_output_folder(tmp_path, photographs):
    shutil.copy(photographs, tmp_path / "photos_flickr8k_train.parquet")
    here = open_run(tmp_path)
    recipes = {each.name: here._recipe(each) for each in STAGES}
    assert Path(recipes["tower_teacher"].student) == here.folder / "towers"
    assert recipes["tower_align"].classifier is None  # no classifier was prepared
    assert recipes["tiny_distill"].named_targets is None
    for name in ("teacher_distill", "teacher"):  # the towers are as large as those they start from
        student = recipes[name].student
        assert (student.text_config, student.vision_config, student.image_size) == (None, None, 320)
    # the small student learns from the larger one
    teachers = {
        "tiny": recipes["teacher"].output_dir,
        "nano": str(here.folder / "dcclip-tiny-photo"),
    }
    for student, teacher in teachers.items():
        image, text, align = (
            recipes[f"{student}_{name}"] for name in ("image", "distill", "align")
        )
        assert image.teacher == text.teacher == teacher
        assert text.student.vision_init == image.output_dir
        assert align.student == text.output_dir
    again = recipes["nano_image_2"].student  # both towers go on from both stages
    assert again.vision_init == again.text_init == recipes["nano_align"].output_dir
    folders = {Path(recipe.output_dir).name for recipe in recipes.values()}
    assert len(folders) == len(STAGES)
    # what is mixed in was trained before, and leaves a part for the run itself
    assert {name for each in STAGES for name in each.shares} < folders
    assert all(0 < sum(each.shares.values()) < 1 for each in STAGES if each.shares)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("photos_flickr8k_train", r"^photos: .*photos_flickr8k_train\.parquet' is damaged"),
        ("other", r"^photos: .*has none of the files that .*tower_teacher\.yaml"),
    ],
    ids=["damaged", "without training files"],
)
def test_data_that_cannot_be_used_is_named_before_training(tmp_path, file, message):
    (tmp_path / f"{file}.parquet").write_text("broken")
    with pytest.raises(ValueError, match=message):
        open_run(tmp_path)._recipe(STAGES[0])


def test_a_folder_without_validation_files_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^photos: .*_validation\.parquet"):
        open_run(tmp_path).run()


def test_a_finished_step_with_other_values_is_refused_by_their_names(tmp_path):
    here = open_run(tmp_path)
    here.steps["tower_align"] = {"seconds": 1, "recipe": {"seed": 0, "max_steps": 2}}
    with pytest.raises(ValueError, match=r"^output_dir: .* run of tower_align .* of max_steps\."):
        here._step("tower_align", {"seed": 0, "max_steps": 3}, lambda: None)


def test_a_stage_mixes_the_weights_of_earlier_runs_and_of_a_committed_model_into_its_own(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    here = open_run(tmp_path)
    committed = "model_cards/second"
    for name, value in {"out/first": 1.0, committed: 2.0, "out/trained": 4.0}.items():
        (tmp_path / name).mkdir(parents=True)
        tensors = {"weight": torch.full((2,), value), "count": torch.tensor(int(value))}
        if name == committed:
            tensors["weight"] = tensors["weight"].half()
        save_file(tensors, tmp_path / name / "model.safetensors")
        config = {"teacher_weights": "teacher" if name == "out/trained" else None}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    mixed = run.Stage("trained", AlignRecipe, "align", shares={"first": 0.5, committed: 0.25})
    here._average(mixed, here.folder / "trained/model.safetensors")
    found = load_file(here.folder / "trained/model.safetensors")
    assert found["weight"].tolist() == [2.0, 2.0]  # 0.5 * 1 + 0.25 * 2 + 0.25 * 4
    assert found["count"] == 4 and found["weight"].dtype == torch.float32
    config = json.loads((here.folder / "trained/config.json").read_text())
    assert config["teacher_weights"] is None  # the mean is not in the teacher's space


@pytest.fixture
def tiny(monkeypatch, processor, corpus):
    """Tiny towers with random weights, a classifier on them, recipes that fit, and graphs that are traced once."""
    read, trace = run._read_recipe, graphs.trace
    traced: dict[str, bytes] = {}
    student = StudentConfig(vision_config=VISION, text_config=TEXT, max_text_length=32)

    def read_recipe(stage: run.Stage) -> run.Recipe:
        recipe = replace(read(stage), batch_size=8)
        if isinstance(recipe, AlignRecipe):
            is_cached = stage.name == "tower_teacher"
            return replace(recipe, freeze=["vision_model"] if is_cached else [])
        inits = {name: getattr(recipe.student, name) for name in ("vision_init", "text_init")}
        return replace(recipe, freeze=[], student=replace(student, **inits))

    def trace_once(student: DCCLIPModel, tower: str, path: Path):
        if tower not in traced:
            trace(student, tower, path)
            traced[tower] = path.read_bytes()
        path.write_bytes(traced[tower])

    def save_towers(folder: Path, seed: int):
        make_model(VISION, TEXT).save_pretrained(folder)
        processor.save_pretrained(folder)

    def save_classifier(path: Path, names: dict[str, list[str]]):
        tensors = {
            "weight": torch.randn(len(names["en"]), VIT["hidden_size"]),
            "bias": torch.zeros(len(names["en"])),
        }
        save_file(tensors, path, metadata={"names": json.dumps(names)})

    stages = [each for each in STAGES if not each.name.startswith("nano")]  # one student
    monkeypatch.setattr(graphs, "trace", trace_once)
    monkeypatch.setattr(emoji, "load_train", lambda: load_source(str(corpus / "train.parquet")))
    monkeypatch.setattr(run, "STAGES", stages)
    monkeypatch.setattr(run, "_read_recipe", read_recipe)
    monkeypatch.setattr(run, "save_towers", save_towers)
    monkeypatch.setattr(data, "save_classifier", save_classifier)
    monkeypatch.setattr(data, "write_classes", lambda sources, classifier, path: None)
    monkeypatch.setattr(data, "synsets", lambda: [("n02084071", ["dog"]), ("n02121620", ["cat"])])
    monkeypatch.setattr(data, "NUM_PAGES", 16)
    monkeypatch.setattr(data, "NUM_VALIDATION_PAGES", 8)


@pytest.mark.slow
def test_every_step_on_a_few_photographs_and_a_continued_run(photographs, tiny, tmp_path, capsys):
    for name in MODULES:
        pytest.importorskip(name, reason='pip install -e ".[photos,edge]"')
    photos, folder = tmp_path / "data", tmp_path / "out"
    photos.mkdir()
    for name in ("photos_flickr8k_train", "mine_validation", "other_validation"):
        shutil.copy(photographs, photos / f"{name}.parquet")
    sentences = {"en": ["Wait!", "Where is the receipt?"], "zh": ["等一下！", "收据在哪里？"]}
    Dataset.from_dict(sentences).to_parquet(photos / "sentences_tatoeba_en_zh.parquet")
    names = {name: {"en": name, "zh": name} for name in ("dog", "cat", "cup")}
    (photos / "imagenet_class_names_en_zh.json").write_text(json.dumps(names))
    (photos / "wordnet_zh_cow.tab").write_text("02084071-n\tcmn:lemma\t狗\n", encoding="utf-8")
    command = ["--photos", str(photos), "--max_steps", "2", "--output_dir", str(folder)]
    main(command)
    lines = (folder / "tower_aligned/log.jsonl").read_text().splitlines()
    assert {"classes", "anchor_text", "contrastive_zh"} <= set(json.loads(lines[1]))
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    found = {(row["model"], row["language"], row["metric"]) for row in results["rows"]}
    for model in [each.name for each in run.STAGES]:
        for language in ("en", "zh"):
            for metric in ("image_to_text_R@1", "text_to_image_R@1", "top1"):
                assert (model, language, metric) in found
    assert "named_targets.safetensors" in (folder / "tiny_distilled/recipe.yaml").read_text()
    model = folder / "dcclip-tiny-photo"
    exported = json.loads((model / "results.json").read_text(encoding="utf-8"))["meta"]["export"]
    assert exported["runs"][0]["data"].endswith("validation.parquet")
    assert all(entry["checked"] for entry in exported["verdicts"])

    weights = load_file(model / "model.safetensors")
    state = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    for step in ("tiny_align", "dcclip-tiny-photo"):  # as if killed at the end of stage 2
        del state["steps"][step]
    (folder / "run.json").write_text(json.dumps(state))
    capsys.readouterr()
    main(command)
    assert "tiny_distill: finished" in capsys.readouterr().out
    again = load_file(model / "model.safetensors")
    assert weights.keys() == again.keys()
    assert all(weights[name].equal(again[name]) for name in weights)
    repeated = json.loads((folder / "results.json").read_text(encoding="utf-8"))["rows"]
    assert sorted(map(str, repeated)) == sorted(map(str, results["rows"]))


def test_a_missing_package_is_named_with_its_extra(monkeypatch, refusal):
    # the other packages may be missing as well
    monkeypatch.setattr(
        "training.experiments.photographs.__main__.MODULES", {"no_such_package": "photos"}
    )
    message = refusal(main, "--photos", "DATA")
    assert "no_such_package" in message and ".[photos]" in message
