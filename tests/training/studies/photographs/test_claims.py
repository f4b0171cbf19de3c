"""The paper's claims on photographs: which recipe each arm has, and a run with a tiny teacher and drawings."""

from dataclasses import asdict

import pytest
import yaml

from tests.tiny import IMAGE_SIZE, NO_DROPOUT, PROJECTION_DIM, WHOLE_EFFICIENTNET, student_config
from training.data import load_source
from training.studies.photographs import claims_runs
from training.studies.photographs.claims import main
from training.studies.photographs.claims_options import ClaimsOptions
from training.studies.photographs.claims_runs import ClaimsStudy, arms_of
from training.studies.photographs.tables import arms_table
from training.utils.cli import parse_options
from training.utils.results import RESULTS_FILE, Results

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerator")]


@pytest.fixture(scope="module")
def student(teacher_folder, tmp_path_factory) -> str:
    own = {"projection_dim": PROJECTION_DIM, "image_size": IMAGE_SIZE, "tokenizer": str(teacher_folder)}
    own |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    config = student_config(vision_config=WHOLE_EFFICIENTNET, text_config=NO_DROPOUT, **own)
    path = tmp_path_factory.mktemp("student") / "student.yaml"
    path.write_text(yaml.safe_dump(asdict(config)))  # with all fields, as it replaces those of the recipes
    return str(path)


@pytest.fixture
def command(corpus, teacher_folder, student, tmp_path, monkeypatch) -> list[str]:
    monkeypatch.setattr(claims_runs, "pretrained_towers", lambda folder: "random")
    source = str(corpus / "train.parquet")
    paths = {"train": source, "validation": source, "teacher": teacher_folder, "student": student}
    words = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
    sizes = ["--num_images", "40", "--distill_steps", "2", "--align_steps", "1", "--batch_size", "8"]
    return [*words, *sizes, "--shares", "4", "--seeds", "1", "--output_dir", str(tmp_path / "claims")]


def test_all_claims_have_an_arm():
    assert [arm.label for arm in arms_of([1, 16])] == [
        "stage 1, feature map",
        "stage 1, embedding",
        "stage 1, logits",
        "stage 1+2, feature map, all pairs",
        "stage 1+2, feature map, 1/16 of the pairs",
        "stage 2, all pairs",
        "stage 2, 1/16 of the pairs",
    ]


def test_every_arm_is_measured_and_a_second_call_repeats_none(command, tmp_path, monkeypatch, capsys):
    recipes = {"distill": [], "align": []}
    for stage, run in (("distill", claims_runs.distill.run), ("align", claims_runs.align.run)):

        def record(recipe, run=run, kept=recipes[stage]):
            kept.append(recipe)
            run(recipe)

        monkeypatch.setattr(getattr(claims_runs, stage), "run", record)
    main(command)
    results = Results.read(tmp_path / "claims" / RESULTS_FILE)
    assert list(dict.fromkeys(row.model for row in results.rows)) == [arm.label for arm in arms_of([4])]
    assert arms_table(results) in capsys.readouterr().out
    # stage 1 with feature maps ran once for two arms; stage 2 has no teacher, and alone as many steps as both
    assert [recipe.target for recipe in recipes["distill"]] == ["feature_map", "embedding", "logits"]
    assert [recipe.max_steps for recipe in recipes["align"]] == [1, 3]
    assert not any(recipe.all_teachers or recipe.anchor_weight for recipe in recipes["align"])
    sources = [recipe.data.train.rpartition("/")[2] for recipe in recipes["align"]]
    assert sources == ["pairs-4-1.parquet"] * 2
    assert not (tmp_path / "claims" / "distilled-1").exists()
    monkeypatch.setattr(ClaimsStudy, "_train", None)  # nothing is trained again
    main(command)
    assert Results.read(tmp_path / "claims" / RESULTS_FILE).rows == results.rows
    with pytest.raises(SystemExit):
        main([*command, "--align_steps", "2"])
    assert "has runs with settings {'align_steps': 1," in capsys.readouterr().err


def test_a_share_of_the_pairs_is_drawn_by_the_seed(command, tmp_path):
    study = ClaimsStudy(parse_options(ClaimsOptions, command, prog="claims", description="Claims."), "claims")
    study.folder.mkdir()
    everything, first, other = (load_source(study._data(*each).train)["zh"][:] for each in ((1, 0), (4, 1), (4, 2)))
    assert len(everything) == 40 and len(first) == len(other) == 10
    assert first != other and set(first) < set(everything)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("shares", "0", "shares: must be numbers of at least 1"),
        ("align_steps", "0", "align_steps: must be at least 1"),
        ("batch_size", "1", "batch_size: is 1, but"),
        ("train", "nowhere.parquet", "train: cannot load 'nowhere.parquet'"),
    ],
)
def test_a_wrong_option_is_one_line(command, capsys, name, value, message):
    with pytest.raises(SystemExit) as stopped:
        main([*command, f"--{name}", value])
    assert stopped.value.code == 2 and message in capsys.readouterr().err
