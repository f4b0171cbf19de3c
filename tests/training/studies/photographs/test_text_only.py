"""Text-only alignment: which recipe each arm has, and a run with a tiny teacher and drawings."""

import pytest
import torch
import yaml
from datasets import Dataset, Image

from tests.tiny import NO_DROPOUT
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.studies.photographs import text_only_runs
from training.studies.photographs.tables import MINUTES, arms_table
from training.studies.photographs.text_only import main
from training.studies.photographs.text_only_runs import ARMS, TextOnlyStudy
from training.utils.results import RESULTS_FILE, Results

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerator")]


@pytest.fixture
def command(corpus, teacher_folder, labelled, tmp_path, monkeypatch) -> list[str]:
    monkeypatch.setattr(text_only_runs, "pretrained_towers", lambda folder: "random")
    source = str(corpus / "train.parquet")
    distill = {
        "output_dir": "unused",
        "teachers": [{"teacher": str(teacher_folder), "languages": ["en"]}],
        "student": {
            "vision_init": "teacher",
            "text_config": NO_DROPOUT,
            "tokenizer": str(teacher_folder),
            "max_text_length": 32,
        },
        "tower": "text",
        "target": "embedding",
        "data": {"sources": [{"train": source, "weight": 0.5}]},
    }
    align = {"output_dir": "unused", "student": "unused", "freeze": ["vision_model", "visual_projection"]}
    recipes = {"distill": distill, "align": align | {"data": {"train": source}}}
    for name, fields in recipes.items():
        recipes[name] = tmp_path / f"{name}.yaml"
        recipes[name].write_text(yaml.safe_dump(fields))
    sources = {"train": source, "validation": source, "labelled": labelled} | recipes
    words = [word for name, path in sources.items() for word in (f"--{name}", str(path))]
    sizes = ["--distill_steps", "2", "--align_steps", "1", "--batch_size", "8", "--seeds", "1"]
    return [*words, *sizes, "--output_dir", str(tmp_path / "study")]


def test_every_arm_is_measured_and_a_second_call_repeats_none(
    command, corpus, teacher_folder, tmp_path, monkeypatch, capsys
):
    recipes = {"distill": [], "align": []}
    images = Dataset.from_parquet(str(corpus / "train.parquet")).cast_column("image", Image(decode=False))
    images = images.select(range(4))
    expected = ZeroShotModel.from_pretrained(teacher_folder).encode_images(images)
    for stage, run in (("distill", text_only_runs.distill.run), ("align", text_only_runs.align.run)):

        def record(recipe, run=run, kept=recipes[stage]):
            kept.append(recipe)
            run(recipe)
            own = ZeroShotModel.from_pretrained(recipe.output_dir).encode_images(images)
            torch.testing.assert_close(own, expected)  # the image tower is the teacher's, and stays so

        monkeypatch.setattr(getattr(text_only_runs, stage), "run", record)
    main(command)
    results = Results.read(tmp_path / "study" / RESULTS_FILE)
    assert list(dict.fromkeys(row.model for row in results.rows)) == ["teacher", *(arm.label for arm in ARMS)]
    assert arms_table(results) in capsys.readouterr().out
    # an arm with pairs goes on from the one without: three runs with the teacher's embeddings for six arms
    assert [recipe.teachers[0].languages for recipe in recipes["distill"]] == [["en"], ["en"], None]
    assert [len(recipe.data.sources) for recipe in recipes["distill"]] == [1, 2, 2]
    assert [recipe.new_student is None for recipe in recipes["align"]] == [True, True, False]
    assert not any(recipe.all_teachers for recipe in recipes["align"])
    minutes = [results.mean(model=arm.label, metric=MINUTES) for arm in ARMS]
    assert minutes[1] > minutes[0] > 0 and minutes[3] > minutes[2] > 0
    assert sorted(path.name for path in (tmp_path / "study").iterdir() if path.name != "run") == [
        RESULTS_FILE,
        "text_only.png",
    ]
    monkeypatch.setattr(TextOnlyStudy, "_train", None)  # nothing is trained again
    main(command)
    assert Results.read(tmp_path / "study" / RESULTS_FILE).rows == results.rows
    with pytest.raises(SystemExit):
        main([*command, "--align_steps", "2"])
    assert "has runs with settings {'distill_steps': 2," in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("align_steps", "0", "align_steps: must be at least 1"),
        ("batch_size", "1", "batch_size: is 1, but"),
        ("validation", "nowhere.parquet", "validation: cannot load 'nowhere.parquet'"),
        ("labelled", "nowhere.parquet", "labelled: cannot load 'nowhere.parquet'"),
    ],
)
def test_a_wrong_option_is_one_line(command, capsys, name, value, message):
    with pytest.raises(SystemExit) as stopped:
        main([*command, f"--{name}", value])
    assert stopped.value.code == 2 and message in capsys.readouterr().err
