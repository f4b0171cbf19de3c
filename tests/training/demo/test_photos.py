"""The demo with photographs: every step on a few dozen free ones, a continued run, and invalid input."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file

from tests.tiny import NO_DROPOUT, VIT, make_model
from training.config import StudentConfig
from training.corpus.free_photos import FREE_PHOTOS
from training.demo import photos
from training.demo.__main__ import main
from training.demo.options import PHOTO_MODULES, DemoOptions, Plan
from training.demo.photos import PhotoDemo, read_class_names, write_object_names
from training.demo.pretrained import TowersOptions
from training.utils.output import claim_folder

# fast to trace
VISION, TEXT = VIT | {"num_hidden_layers": 1}, NO_DROPOUT | {"num_hidden_layers": 1}
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


def open_demo(photos: Path, output_dir: Path) -> PhotoDemo:
    steps = dict.fromkeys(("data", "teacher", "distill", "align", "report", "export"), "")
    return PhotoDemo(DemoOptions(photos=str(photos)), Plan("demo", steps, output_dir))


def test_the_recipes_read_the_files_of_the_folder_and_name_the_missing_ones(
    photographs, tmp_path, capsys
):
    for name in ("photos_flickr8k_train", "sentences_tatoeba_en_zh", "mine_validation"):
        shutil.copy(photographs, tmp_path / f"{name}.parquet")
    demo = open_demo(tmp_path, tmp_path / "out")
    demo._open_data()
    found = {
        name: [source.train for source in each.data.sources] for name, each in demo.recipes.items()
    }
    flickr, tatoeba = (
        f"{tmp_path}/{name}.parquet"
        for name in ("photos_flickr8k_train", "sentences_tatoeba_en_zh")
    )
    assert found == {"teacher": [flickr], "distill": [flickr, tatoeba], "align": [flickr]}
    assert [each.name for each in demo.sets] == ["mine"] and len(demo.sets[0].rows) == 28
    assert (
        "photos_bing_train.parquet is missing, so teacher learns nothing from it"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("name", "damaged", "message"),
    [
        ("train", None, "_validation.parquet"),
        ("a_validation", None, "training files"),
        ("a_validation", "photos_flickr8k_train", r"photos_flickr8k_train\.parquet' is damaged"),
    ],
)
def test_missing_and_damaged_files_are_named_before_training(
    photographs, tmp_path, name, damaged, message
):
    shutil.copy(photographs, tmp_path / f"{name}.parquet")
    if damaged:
        (tmp_path / f"{damaged}.parquet").write_text("broken")
    with pytest.raises(ValueError, match=rf"^photos: .*{message}"):
        open_demo(tmp_path, tmp_path / "out")._open_data()


def test_a_run_with_other_options_in_the_folder_is_refused_by_their_names(photographs, tmp_path):
    demo = open_demo(photographs, tmp_path)
    state = json.loads(json.dumps(demo.state)) | {"photos": "others.parquet"}
    state["recipes"]["align"]["seed"] = 7
    with claim_folder(tmp_path, ["run.json"], command="demo"):
        (tmp_path / "run.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match=r"^output_dir: .* photos, align\.seed\."):
        demo.run()


def test_names_come_from_the_files_of_the_folder(photographs, tmp_path, capsys):
    for name in ("photos_flickr8k_train", "mine_validation", "other_validation"):
        shutil.copy(photographs, tmp_path / f"{name}.parquet")
    names = {
        f"n{number:08}": {"en": f"{number}", "zh": f"第{number}"}
        for number in reversed(range(1000))
    }
    names["n00000003"] = {"en": "leopard", "zh": "美洲豹"}  # a jaguar
    (tmp_path / "imagenet_class_names_en_zh.json").write_text(json.dumps(names), encoding="utf-8")
    lines = [
        "02084071-n\tcmn:lemma\t狗",
        "02084071-n\tcmn:lemma\t家+犬",
        "02084071-v\tcmn:lemma\t跟",
        "# other",
    ]
    (tmp_path / "wordnet_zh_cow.tab").write_text("\n".join(lines), encoding="utf-8")
    demo = open_demo(tmp_path, tmp_path / "out")
    written = {}
    demo_names = read_class_names(tmp_path / "imagenet_class_names_en_zh.json")
    assert demo_names["en"][:5] == ["0", "1", "2", "leopard", "4"] and demo_names["zh"][2:4] == [
        "第2",
        "豹",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "training.demo.photos.save_classifier",
            lambda path, names: written.update({path: names}),
        )
        (tmp_path / "out").mkdir()
        demo._prepare_names()
    folder = tmp_path / "out" / "data"
    assert written == {folder / "classifier.safetensors": demo_names}
    rows = Dataset.from_parquet(str(folder / "names.parquet"), cache_dir=str(tmp_path / "cache"))
    assert {"en": ["dog", "domestic dog"], "zh": ["狗", "家犬"]} in list(rows)
    demo._open_data()
    sources = {Path(source.train).name for source in demo.recipes["distill"].data.sources}
    assert sources == {"photos_flickr8k_train.parquet", "names.parquet"}
    assert demo.recipes["align"].class_weight == 0  # the classifier was not written here
    (folder / "classifier.safetensors").touch()
    demo = open_demo(tmp_path, tmp_path / "out")
    demo._open_data()
    assert demo.recipes["align"].classifier == str(folder / "classifier.safetensors")
    assert demo.recipes["align"].class_weight > 0


def test_damaged_files_of_names_and_runs_are_named(photographs, tmp_path):
    names, nouns = tmp_path / "names.json", tmp_path / "nouns.tab"
    for content, message in (
        ("[", "names.json cannot be used"),
        ('{"n1": {"en": "a"}}', "'n1' needs a name in en and zh"),
    ):
        names.write_text(content)
        with pytest.raises(ValueError, match=rf"^photos: .*{message}"):
            read_class_names(names)
    nouns.write_text("<html>404</html>")
    with pytest.raises(ValueError, match=r"^photos: .*nouns\.tab has no Chinese names"):
        write_object_names(nouns, tmp_path / "names.parquet")
    with claim_folder(tmp_path, ["run.json"], command="demo"):
        (tmp_path / "run.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"^output_dir: .*run\.json cannot be used .*'photos' is missing"
    ):
        open_demo(photographs, tmp_path).run()


@pytest.fixture
def tiny(monkeypatch, processor):
    """Tiny towers with random weights, a classifier on them, and recipes that fit."""
    load = photos.load_photo_recipes

    def load_recipes(options: DemoOptions) -> dict:
        recipes = load(options)
        student = StudentConfig(
            vision_config=VISION,
            text_config=TEXT,
            vision_init="teacher",
            text_init="teacher",
            max_text_length=32,
        )
        fields = {
            "teacher": {"freeze": ["vision_model", "text_model.embeddings"]},
            "distill": {"student": student},
            "align": {"freeze": []},
        }
        return {
            step: replace(recipe, batch_size=8, **fields[step]) for step, recipe in recipes.items()
        }

    def save_towers(options: TowersOptions):
        make_model(VISION, TEXT).save_pretrained(options.output_dir)
        processor.save_pretrained(options.output_dir)

    def save_classifier(path: Path, names: dict[str, list[str]]):
        tensors = {
            "weight": torch.randn(len(names["en"]), VIT["hidden_size"]),
            "bias": torch.zeros(len(names["en"])),
        }
        save_file(tensors, path, metadata={"names": json.dumps(names)})

    for function in (save_towers, save_classifier):
        monkeypatch.setattr(photos, function.__name__, function)
    monkeypatch.setattr(photos, "load_photo_recipes", load_recipes)


@pytest.mark.slow
def test_the_whole_path_on_a_few_free_photographs_and_a_continued_run(
    photographs, tiny, tmp_path, capsys, monkeypatch
):
    for name in PHOTO_MODULES:
        pytest.importorskip(name, reason='pip install -e ".[photos,edge]"')
    data, folder = tmp_path / "data", tmp_path / "out" / "photos"
    data.mkdir()
    for name in ("photos_flickr8k_train", "mine_validation", "other_validation"):
        shutil.copy(photographs, data / f"{name}.parquet")
    sentences = {"en": ["Wait!", "Where is the receipt?"], "zh": ["等一下！", "收据在哪里？"]}
    Dataset.from_dict(sentences).to_parquet(data / "sentences_tatoeba_en_zh.parquet")
    monkeypatch.setattr(photos, "NUM_PAGES", 16)
    monkeypatch.setattr(photos, "NUM_VALIDATION_PAGES", 8)
    names = {
        f"n{number}": {"en": name, "zh": name} for number, name in enumerate(["dog", "cat", "cup"])
    }
    (data / "imagenet_class_names_en_zh.json").write_text(json.dumps(names))
    command = ["--photos", str(data), "--max_steps", "2", "--output_dir", str(tmp_path / "out")]
    main(command)
    output = capsys.readouterr().out
    assert "[6/6] export to ONNX" in output and (folder / "results.png").exists()
    steps = [
        json.loads(line) for line in (folder / "aligned" / "log.jsonl").read_text().splitlines()
    ]
    assert {"classes", "anchor_text", "contrastive_zh"} <= set(steps[1])
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    found = {
        (row["model"], row["stage"], row["language"], row["metric"]) for row in results["rows"]
    }
    for stage in (("teacher", None), ("student", "distilled"), ("student", "aligned")):
        for language in ("en", "zh"):
            assert {
                (*stage, language, f"{way}_R@1") for way in ("image_to_text", "text_to_image")
            } <= found
            assert (*stage, language, "top1") in found
    exported = json.loads((folder / "model" / "results.json").read_text(encoding="utf-8"))["meta"][
        "export"
    ]
    assert exported["runs"][0]["data"].endswith("validation.parquet")
    assert all(entry["checked"] for entry in exported["verdicts"])

    weights = {
        stage: load_file(folder / stage / "model.safetensors")
        for stage in ("towers", "teacher", "distilled")
    }
    for name, value in weights["towers"].items():
        if name.startswith(
            "vision_model."
        ):  # the teacher's image tower is frozen, and the student's is the teacher's
            assert weights["teacher"][name].equal(value) and weights["distilled"][name].equal(value)
    assert weights["distilled"]["visual_projection.weight"].equal(
        weights["teacher"]["visual_projection.weight"]
    )
    weights = load_file(folder / "model" / "model.safetensors")
    state = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    for step in ("align", "report"):  # as if the run had been killed when stage 2 was done
        del state["seconds"][step]
    (folder / "run.json").write_text(json.dumps(state))
    main(command)
    assert (
        "[3/6] stage 1: distil the teacher into the student, 2 steps: finished"
        in capsys.readouterr().out
    )
    again = load_file(folder / "model" / "model.safetensors")
    assert weights.keys() == again.keys() and all(
        weights[name].equal(again[name]) for name in weights
    )
    assert (
        json.loads((folder / "results.json").read_text(encoding="utf-8"))["rows"] == results["rows"]
    )
