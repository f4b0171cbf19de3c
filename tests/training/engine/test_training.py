"""Both stages, run as their scripts run them: losses, trained weights, files on disk, resuming."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

from modeling_dcclip import DCCLIPModel
from tests.tiny import (
    MOBILENET,
    VIT,
    WHOLE_MOBILENET,
    XLM_ROBERTA,
    make_model,
    recipe_fields,
    student_config,
    train_unigram,
)
from tests.tiny_teachers import save_teacher
from tests.training.engine.runs import losses, read_log, run
from training.align import open_student
from training.config import AlignRecipe, DataConfig, DistillRecipe, parse_recipe
from training.engine.checkpoint import list_checkpoints
from training.engine.state import TrainingState, check_checkpoint
from training.prepare.cut import count_pieces, cut_vocabulary
from training.students import build_student
from training.teachers import TOWERS, DualEncoder
from training.teachers.lineage import digest_folder
from training.utils.output import record_names

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerator")]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def source(corpus) -> str:
    return str(corpus / "train.parquet")


@pytest.fixture
def distill_recipe(tmp_path, source, teacher_folder):
    def build(**fields) -> DistillRecipe:
        fields = {"teacher": str(teacher_folder), "student": student_config()} | fields
        return DistillRecipe(
            **recipe_fields(fields.pop("output_dir", tmp_path / "distilled"), source, **fields)
        )

    return build


@pytest.fixture
def align_recipe(tmp_path, source, teacher_folder):
    def build(**fields) -> AlignRecipe:
        fields = {
            "teacher": str(teacher_folder),
            "new_student": student_config(),
            "anchor_weight": 1.0,
        } | fields
        return AlignRecipe(
            **recipe_fields(fields.pop("output_dir", tmp_path / "aligned"), source, **fields)
        )

    return build


@pytest.fixture(scope="module")
def kept_run(tmp_path_factory, source, teacher_folder) -> tuple[DistillRecipe, Path]:
    """Unbroken run of six steps with all three checkpoints. Tests must not write into it."""
    folder = tmp_path_factory.mktemp("kept") / "distilled"
    fields = recipe_fields(folder, source, max_steps=6, save_every=2, keep_checkpoints=3)
    recipe = DistillRecipe(teacher=str(teacher_folder), student=student_config(), **fields)
    return recipe, run(recipe)


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}


def test_the_card_of_stage_2_names_the_data_of_stage_1(align_recipe, kept_run, source, tmp_path):
    data = DataConfig(train=shutil.copy(source, str(tmp_path / "pairs.parquet")))
    fields = {"student": str(kept_run[1]), "new_student": None, "data": data, "save_every": 1}
    folder = run(align_recipe(**fields))
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "feature-map distillation, then contrastive alignment" in card
    assert "Data: `train.parquet`, `pairs.parquet`." in card
    for path in (folder, folder / "checkpoint-000002"):
        assert (path / "recipe_01.yaml").read_bytes() == (kept_run[1] / "recipe.yaml").read_bytes()
    # a new run from random weights has no earlier stages
    run(align_recipe(data=data, overwrite=True))
    assert not list(folder.glob("recipe_*"))


def test_stage_2_adds_the_languages_of_its_captions(distill_recipe, align_recipe, source):
    english = DataConfig(train=source, caption_columns={"en": "en"})
    student = run(distill_recipe(data=english, max_steps=1))
    assert DCCLIPModel.from_pretrained(student).config.languages == ["en"]
    aligned = run(align_recipe(student=str(student), new_student=None, max_steps=1))
    assert DCCLIPModel.from_pretrained(aligned).config.languages == ["en", "zh"]
    assert "The model is trained on English and Chinese." in (aligned / "README.md").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize("is_frozen", [True, False])
def test_freeze_batch_norm_keeps_the_statistics_in_stage_2(align_recipe, kept_run, is_frozen):
    recipe = align_recipe(student=str(kept_run[1]), new_student=None, freeze_batch_norm=is_frozen)
    names = changed(weights(kept_run[1]), weights(run(recipe)))
    assert bool([name for name in names if "running_" in name]) is not is_frozen
    assert "logit_scale" in names and [name for name in names if name.startswith("vision_model.")]


@pytest.mark.parametrize(
    ("tower", "columns", "cached"), [("vision", ["image"], True), ("text", ["en", "zh"], False)]
)
def test_one_tower_is_trained_on_its_data_alone_without_the_other_teacher_tower(
    distill_recipe, train_rows, tmp_path, monkeypatch, tower, columns, cached
):
    train_rows.select_columns(columns).to_parquet(tmp_path / "alone.parquet")
    fields = {"teacher_cache": str(tmp_path / "cache"), "teacher_views": 1} if cached else {}
    recipe = distill_recipe(
        tower=tower, data=DataConfig(train=str(tmp_path / "alone.parquet")), **fields
    )
    before = build_student(
        recipe.student, ["en", "zh"], DualEncoder.from_pretrained(recipe.teacher), recipe.seed
    )[0]
    loaded = []
    load = DualEncoder.from_pretrained.__func__

    def watch(cls, name, towers=TOWERS, *arguments, **keywords):
        loaded.extend(towers)
        return load(cls, name, towers, *arguments, **keywords)

    monkeypatch.setattr(DualEncoder, "from_pretrained", classmethod(watch))
    folder = run(recipe)
    assert set(loaded) == {tower} and all(map(math.isfinite, losses(folder, f"{tower}_map")))
    names = changed(before.state_dict(), weights(folder))
    parts = {
        "vision": ("vision_model.", "visual_projection."),
        "text": ("text_model.", "text_projection."),
    }
    assert names and all(name.startswith(parts[tower]) for name in names)


def test_an_image_tower_learns_the_similarities_to_captions_alone(distill_recipe):
    folder = run(
        distill_recipe(
            tower="vision", map_weight=0.0, embedding_weight=0.0, logits_weight=1.0, max_steps=1
        )
    )
    assert math.isfinite(losses(folder, "vision_logits")[0])


def test_stage_2_keeps_a_licence_that_a_student_inherited(
    align_recipe, processor, tmp_path, teacher_folder
):
    make_model(WHOLE_MOBILENET, teacher_license="cc-by-nc-4.0", fit=[1.0] * 6).save_pretrained(
        tmp_path / "student"
    )
    processor.save_pretrained(tmp_path / "student")
    start = {
        "student": str(tmp_path / "student"),
        "new_student": None,
        "teacher": str(teacher_folder),
    }
    recipe = align_recipe(**start, anchor_weight=1.0)
    student, _ = open_student(recipe, DualEncoder.from_pretrained(str(teacher_folder)))
    assert student.config.teacher_license == "cc-by-nc-4.0 and unknown"
    assert student.config.fit is None  # it was calibrated for other weights
    teacher = DualEncoder.from_pretrained(str(teacher_folder))
    assert (student.config.teacher, student.config.teacher_weights) == (
        teacher.name,
        teacher.revision,
    )
    student, _ = open_student(replace(recipe, anchor_weight=0.0), teacher)
    assert student.config.teacher is None  # its embeddings need not be those of the teacher


def test_a_student_with_a_cut_vocabulary_learns_the_same_token_states_with_and_without_a_cache(
    distill_recipe, train_rows, tmp_path
):
    texts = [*train_rows["en"], *train_rows["zh"]]
    teacher = save_teacher("altclip", tmp_path / "teacher", train_unigram(texts, 700))
    source = DualEncoder.from_pretrained(str(teacher), towers=()).tokenizer
    cut_vocabulary(source, count_pieces(source, texts[: len(texts) // 8]), 350).save(
        tmp_path / "cut"
    )
    student = student_config(tokenizer=str(tmp_path / "cut"))
    recipe = distill_recipe(teacher=str(teacher), student=student, tower="text", max_steps=3)
    folder = run(recipe)
    values = losses(folder, "text_map")
    fields = {
        "teacher_cache": str(tmp_path / "cache"),
        "teacher_views": 1,
        "output_dir": str(tmp_path / "cached"),
    }
    cached = run(replace(recipe, **fields))
    assert losses(cached, "text_map") == pytest.approx(values, rel=1e-2) and len({*values}) == 3
    for each in (folder, cached):
        assert "split differently by the teacher" in read_log(each)[-1]["skipped"]
    assert len(AutoProcessor.from_pretrained(folder).tokenizer) == 350


def test_gradient_checkpointing_does_not_change_the_result(distill_recipe, tmp_path, monkeypatch):
    enabled: list[DCCLIPModel] = []
    enable = DCCLIPModel.activation_checkpointing_enable
    monkeypatch.setattr(
        DCCLIPModel,
        "activation_checkpointing_enable",
        lambda model: enabled.append(model) or enable(model),
    )
    text = XLM_ROBERTA | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    fields = {"student": student_config(vision_config=VIT, text_config=text), "max_steps": 1}
    plain = weights(run(distill_recipe(**fields)))
    assert not enabled
    lean = weights(
        run(
            distill_recipe(**fields, gradient_checkpointing=True, output_dir=str(tmp_path / "lean"))
        )
    )
    for name, tensor in plain.items():
        torch.testing.assert_close(lean[name], tensor, rtol=1e-4, atol=1e-6)
    assert len(enabled) == 1


def test_gradient_checkpointing_is_refused_where_it_would_update_statistics_twice(distill_recipe):
    student = student_config(vision_config=MOBILENET)
    with pytest.raises(
        ValueError,
        match="gradient_checkpointing: the student has BatchNorm layers that are trained",
    ):
        run(distill_recipe(student=student, gradient_checkpointing=True))


def test_what_was_made_of_other_weights_leaves_with_them(distill_recipe):
    folder = run(distill_recipe(max_steps=1))
    record_names(folder, ["onnx", "immich"], "export")
    (folder / "results.json").write_text('{"meta": {}, "rows": []}')
    for name in ("onnx/model.onnx", "immich/config.json"):
        (folder / name).parent.mkdir()
        (folder / name).touch()
    run(distill_recipe(max_steps=1, overwrite=True))  # the same weights
    assert (folder / "onnx" / "model.onnx").exists() and (folder / "results.json").exists()
    run(distill_recipe(max_steps=2, overwrite=True))
    assert not [name for name in ("onnx", "immich", "results.json") if (folder / name).exists()]


def test_a_resumed_run_equals_an_unbroken_one_to_the_bit(kept_run, tmp_path, capfd):
    recipe, whole = kept_run
    assert recipe.student.text_config["hidden_dropout_prob"] > 0
    broken = tmp_path / "broken"
    broken.mkdir()
    # files of a run that was killed in its fourth step
    shutil.copytree(whole / "checkpoint-000002", broken / "checkpoint-000002")
    (broken / ".checkpoint-000004.0a1b2c3d.dcclip-tmp").mkdir()
    lines = (whole / "log.jsonl").read_text(encoding="utf-8").splitlines()
    (broken / "log.jsonl").write_text(
        "".join(f"{line}\n" for line in [*lines[:4], "[]", "{}"]) + lines[4][:9], encoding="utf-8"
    )
    run(replace(recipe, output_dir=str(broken), resume=True))
    for name in ("model.safetensors", "checkpoint-000004/training_state/tensors.safetensors"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()
    assert losses(broken) == losses(whole)
    assert [line["step"] for line in read_log(broken) if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert {"event": "resumed", "step": 2}.items() <= read_log(broken)[3].items()
    assert "resumed at step 2" in capfd.readouterr().out


def read_identity(checkpoint: Path) -> dict:
    return json.loads((checkpoint / "training_state/state.json").read_text(encoding="utf-8"))[
        "identity"
    ]


def test_a_run_whose_teacher_has_changed_is_not_resumed(distill_recipe, teacher_folder, tmp_path):
    teacher = shutil.copytree(teacher_folder, tmp_path / "teacher")
    recipe = distill_recipe(teacher=str(teacher), save_every=1)
    run(recipe)
    make_model(WHOLE_MOBILENET, seed=8).save_pretrained(teacher)
    shutil.rmtree(Path(recipe.output_dir) / "checkpoint-000002")
    with pytest.raises(
        ValueError, match=r"resume: this run differs .* in weights of the teacher: '\w+', now '\w+'"
    ):
        run(replace(recipe, resume=True))


def test_the_precision_of_accelerate_launch_is_saved_and_not_changed_by_resuming(
    distill_recipe, monkeypatch
):
    recipe = distill_recipe(save_every=1)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    folder = run(recipe)
    saved = parse_recipe(DistillRecipe, ["--config", str(folder / "recipe.yaml")])
    assert saved.mixed_precision == "bf16"
    shutil.rmtree(folder / "checkpoint-000002")
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION")
    with pytest.raises(
        ValueError, match=r"resume: this run differs .* in mixed_precision: 'bf16', now None"
    ):
        run(replace(recipe, resume=True))
    run(replace(recipe, resume=True, mixed_precision="bf16"))


@pytest.mark.parametrize("name", ["model.safetensors", "training_state/tensors.safetensors"])
def test_a_damaged_checkpoint_names_the_file_and_the_previous_one(kept_run, tmp_path, name):
    checkpoint = shutil.copytree(kept_run[1] / "checkpoint-000004", tmp_path / "checkpoint-000004")
    identity, content = read_identity(checkpoint), bytearray((checkpoint / name).read_bytes())
    content[len(content) // 2] ^= 0xFF
    (checkpoint / name).write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"resume: .*{name} is damaged .* to continue from checkpoint-000002"
    ):
        check_checkpoint([kept_run[1] / "checkpoint-000002", checkpoint], identity)
    (checkpoint / "training_state/state.json").unlink()
    with pytest.raises(ValueError, match=r"state\.json is damaged .* It is the only checkpoint"):
        check_checkpoint([checkpoint], identity)


def test_a_finished_model_is_not_replaced_without_a_flag(kept_run, tmp_path, distill_recipe):
    folder = tmp_path / "x"
    shutil.copytree(kept_run[1], folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    before = (folder / "model.safetensors").read_bytes()
    recipe = distill_recipe(output_dir=folder, max_steps=1, save_every=1)
    for refused in (recipe, replace(recipe, resume=True)):
        with pytest.raises(
            ValueError, match=r"output_dir: .* has model.safetensors of an earlier run"
        ):
            run(refused)
    assert (folder / "model.safetensors").read_bytes() == before
    (folder / "checkpoint-000009").mkdir()
    with pytest.raises(ValueError, match=r"typo"):
        run(replace(recipe, overwrite=True, teacher="typo"))
    assert (folder / "checkpoint-000009").exists()  # nothing is removed before the run can start
    run(replace(recipe, overwrite=True))
    assert (folder / "model.safetensors").read_bytes() != before
    assert [path.name for path in list_checkpoints(folder)] == [
        "checkpoint-000001"
    ]  # and none of the earlier run


def test_a_checkpoint_that_a_run_reads_is_not_replaced(tmp_path, align_recipe, kept_run):
    folder = shutil.copytree(kept_run[1], tmp_path / "x")
    start = {"student": str(folder / "checkpoint-000004"), "new_student": None}
    with pytest.raises(ValueError, match=r"output_dir: .* would overwrite student"):
        run(align_recipe(output_dir=folder, overwrite=True, **start))
    assert (folder / "checkpoint-000004").exists()


def test_a_truncated_teacher_of_a_wider_student_is_refused(
    tmp_path, align_recipe, teacher_folder, kept_run
):
    folder = shutil.copytree(teacher_folder, tmp_path / "teacher")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"truncate_dim": 8}), encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"teacher: .* embeds in 8 dimensions.* without `truncate_dim`"
    ):
        run(align_recipe(teacher=str(folder), student=str(kept_run[1]), new_student=None))


@pytest.mark.parametrize("weights", [{}, {"contrastive_weight": 0.0, "text_text_weight": 1.0}])
def test_a_batch_with_copies_of_a_pair_is_refused_where_pairs_are_compared(
    align_recipe, train_rows, weights
):
    number = len(train_rows)
    with pytest.raises(
        ValueError, match=rf"batch_size: is {number + 1}, but the data have only {number} rows"
    ):
        run(align_recipe(batch_size=number + 1, **weights))


def test_a_full_disk_keeps_earlier_checkpoints(distill_recipe, monkeypatch):
    save = TrainingState.save

    def save_until_full(state, folder, progress):
        if progress.step == 4:
            raise OSError(28, "No space left on device")
        save(state, folder, progress)

    monkeypatch.setattr(TrainingState, "save", save_until_full)
    recipe = distill_recipe(max_steps=6, save_every=2, keep_checkpoints=1)
    with pytest.raises(
        OSError,
        match=r"cannot save to .*No space left.* continue with --resume from checkpoint-000002",
    ):
        run(recipe)
    folder = Path(recipe.output_dir)
    assert sorted(path.name for path in folder.iterdir()) == [
        ".dcclip",
        "checkpoint-000002",
        "log.jsonl",
    ]
    monkeypatch.undo()
    run(replace(recipe, resume=True))


@pytest.mark.parametrize("name", [".", "checkpoint-000002"])
def test_every_saved_folder_is_a_complete_hub_folder(kept_run, inputs, name):
    folder = kept_run[1] / name
    model = AutoModel.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    tokens = processor(text=["红苹果", "red apple"], return_tensors="pt")
    with torch.no_grad():
        assert (
            model(**tokens, pixel_values=inputs["pixel_values"]).logits_per_image.isfinite().all()
        )
    files = {path.name for path in folder.iterdir()}
    assert ("README.md" in files) is (name == ".")  # the card is written at the end of the run
    suffixes = {path.suffix for path in kept_run[1].rglob("*")}
    assert not suffixes & {".bin", ".pkl", ".pt", ".pth"}  # no pickle


def test_a_checkpoint_states_the_steps_that_it_has_and_the_card_all(kept_run):
    assert "# number of steps done: 2\n" in (
        kept_run[1] / "checkpoint-000002" / "recipe.yaml"
    ).read_text("utf-8")
    assert "distillation; 6 steps, batch size 8" in (kept_run[1] / "README.md").read_text("utf-8")


def test_a_new_student_is_built_only_if_no_student_is_named(align_recipe, tmp_path, kept_run):
    folder = run(align_recipe(new_student=student_config(vision_config=MOBILENET)))
    assert DCCLIPModel.from_pretrained(folder).config.vision_width == 480
    fields = {
        "output_dir": tmp_path / "chosen",
        "new_student": None,
        "max_steps": 1,
        "learning_rate": 0.0,
    }
    chosen = run(align_recipe(student=str(kept_run[1]), **fields))
    for name, tensor in weights(kept_run[1]).items():
        assert torch.equal(weights(chosen)[name], tensor), (
            name
        )  # stage 1's weights, at learning rate 0
    with pytest.raises(ValueError, match="new_student: student is set, too"):
        align_recipe(student=str(kept_run[1]))


def test_a_student_records_the_digest_of_its_teachers_weights(kept_run, teacher_folder):
    config = json.loads((kept_run[1] / "config.json").read_text(encoding="utf-8"))
    assert config["teacher"] == teacher_folder.name and config["teacher_weights"] == digest_folder(
        teacher_folder
    )


def test_no_file_of_a_run_has_a_path_of_this_machine(kept_run, teacher_folder):
    files = [path for path in kept_run[1].rglob("*") if path.is_file()]
    found = [
        path for path in files if str(teacher_folder.parent.parent).encode() in path.read_bytes()
    ]
    assert len(files) > 20 and not found
