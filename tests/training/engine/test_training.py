"""Both stages, run as their scripts run them: losses, trained weights, files on disk, resuming."""

import filecmp
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

from modeling_dcclip import DCCLIPModel
from tests.tiny import (
    NO_DROPOUT,
    VIT,
    make_model,
    recipe_fields,
    save_untrained,
    student_config,
    train_unigram,
)
from tests.tiny_teachers import save_teacher
from tests.training.engine.runs import losses, read_log, run
from training.align import open_student
from training.config import AlignRecipe, DataConfig, DistillRecipe, parse_recipe
from training.engine import checkpoint
from training.engine.checkpoint import check_checkpoint, list_checkpoints
from training.prepare.cut import count_pieces, cut_vocabulary
from training.teachers import DualEncoder
from training.teachers.loading import load_model
from training.utils.output import record_names

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerator")]

MODEL, TENSORS = "model.safetensors", "training_state/tensors.safetensors"


@pytest.fixture(scope="module")
def source(corpus) -> str:
    return str(corpus / "train.parquet")


@pytest.fixture
def distill_recipe(tmp_path, source, teacher_folder):
    def build(output_dir: Path = tmp_path / "distilled", **fields: Any) -> DistillRecipe:
        fields = {"teacher": str(teacher_folder), "student": student_config()} | fields
        return DistillRecipe(**recipe_fields(output_dir, source, **fields))

    return build


@pytest.fixture
def align_recipe(tmp_path, source, teacher_folder, kept_run):
    def build(**fields: Any) -> AlignRecipe:
        fields = {"teacher": str(teacher_folder), "student": str(kept_run[1])} | fields
        return AlignRecipe(**recipe_fields(tmp_path / "aligned", source, **fields))

    return build


@pytest.fixture(scope="module")
def kept_run(tmp_path_factory, source, teacher_folder) -> tuple[DistillRecipe, Path]:
    """Unbroken run of six steps with all three checkpoints. Tests must not write into it."""
    folder = tmp_path_factory.mktemp("kept") / "distilled"
    fields = recipe_fields(folder, source, max_steps=6, save_every=2, keep_checkpoints=3)
    fields |= {"ema_decay": 0.5, "prefixes": [8]}
    recipe = DistillRecipe(teacher=str(teacher_folder), student=student_config(), **fields)
    return recipe, run(recipe)


def changed(before: Path, after: Path) -> list[str]:
    """Names of the weights that differ."""
    old, new = load_file(before / MODEL), load_file(after / MODEL)
    return [name for name in new if not torch.equal(new[name], old[name])]


def test_the_card_of_stage_2_names_the_data_of_stage_1(align_recipe, kept_run, source, tmp_path):
    data = DataConfig(train=shutil.copy(source, str(tmp_path / "pairs.parquet")))
    folder = run(align_recipe(data=data, save_every=1))
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "feature-map distillation, then contrastive alignment" in card
    assert "Data: `train.parquet`, `pairs.parquet`." in card
    for path in (folder, folder / "checkpoint-000002"):
        assert (path / "recipe_01.yaml").read_bytes() == (kept_run[1] / "recipe.yaml").read_bytes()


@pytest.mark.parametrize("is_frozen", [True, False])
def test_freeze_batch_norm_keeps_the_statistics_in_stage_2(align_recipe, kept_run, is_frozen):
    names = changed(kept_run[1], run(align_recipe(freeze_batch_norm=is_frozen)))
    assert any("running_" in name for name in names) is not is_frozen
    assert "logit_scale" in names


@pytest.mark.parametrize(("tower", "columns"), [("vision", ["image"]), ("text", ["en", "zh"])])
def test_one_tower_is_trained_on_its_data_alone_without_the_other_teacher_tower(
    distill_recipe, train_rows, tmp_path, monkeypatch, tower, columns
):
    data = DataConfig(train=str(tmp_path / "alone.parquet"))
    train_rows.select_columns(columns).to_parquet(data.train)
    loaded = []

    def watch(name, family, towers, *arguments):
        loaded.extend(towers)
        return load_model(name, family, towers, *arguments)

    monkeypatch.setattr("training.teachers.dual_encoder.load_model", watch)
    folder = run(distill_recipe(tower=tower, data=data, save_every=1))
    assert set(loaded) == {tower} and all(map(math.isfinite, losses(folder, f"{tower}_map")))
    names = changed(folder / "checkpoint-000001", folder)
    kind = {"vision": "visual", "text": "text"}[tower]
    assert names and all(name.startswith((f"{tower}_model.", f"{kind}_proj")) for name in names)


def test_stage_2_keeps_a_license_that_a_student_inherited(
    align_recipe, processor, tmp_path, teacher
):
    fields = {"teacher_license": "cc-by-nc-4.0", "fit": [1.0] * 6, "languages": ["en"]}
    student = save_untrained(tmp_path / "student", processor, **fields)
    config = open_student(align_recipe(student=student, anchor_weight=1.0), teacher)[0].config
    assert config.teacher_license == "cc-by-nc-4.0 and unknown"
    assert config.languages == ["en", "zh"]  # those of the captions are added
    assert config.fit is None  # it was calibrated for other weights
    assert (config.teacher, config.teacher_weights) == (teacher.name, teacher.revision)
    moved = save_untrained(tmp_path / "moved", processor, teacher="some", teacher_weights="0" * 16)
    config = open_student(align_recipe(student=moved), teacher)[0].config
    # its embeddings need not be those of the teacher
    assert (config.teacher, config.teacher_weights) == ("some", None)


def test_a_student_with_a_cut_vocabulary_learns_the_same_token_states_with_and_without_a_cache(
    distill_recipe, train_rows, tmp_path
):
    texts = [*train_rows["en"], *train_rows["zh"]]
    teacher = str(save_teacher("altclip", tmp_path / "teacher", train_unigram(texts, 700)))
    source = DualEncoder.from_pretrained(teacher, towers=()).tokenizer
    pieces = count_pieces(source, texts[: len(texts) // 8])
    cut_vocabulary(source, pieces, 350).save(tmp_path / "cut")
    student = student_config(tokenizer=str(tmp_path / "cut"))
    recipe = distill_recipe(teacher=teacher, student=student, tower="text", max_steps=3)
    folder = run(recipe)
    cache = {"teacher_cache": str(tmp_path / "cache"), "teacher_views": 1}
    cached = run(replace(recipe, output_dir=str(tmp_path / "cached"), **cache))
    assert losses(cached, "text_map") == pytest.approx(losses(folder, "text_map"), rel=1e-2)
    assert "split differently by the teacher" in read_log(cached)[-1]["skipped"]
    assert len(AutoProcessor.from_pretrained(folder).tokenizer) == 350


def test_gradient_checkpointing_does_not_change_the_result(distill_recipe, tmp_path):
    student = student_config(vision_config=VIT, text_config=NO_DROPOUT)
    plain = distill_recipe(student=student, max_steps=1)
    lean = replace(plain, gradient_checkpointing=True, output_dir=str(tmp_path / "lean"))
    expected, found = (load_file(run(each) / MODEL) for each in (plain, lean))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)


def test_gradient_checkpointing_is_refused_where_it_would_update_statistics_twice(distill_recipe):
    with pytest.raises(ValueError, match="gradient_checkpointing: the student has BatchNorm"):
        run(distill_recipe(gradient_checkpointing=True))


def test_what_was_made_of_other_weights_leaves_with_them(distill_recipe):
    folder = run(distill_recipe(max_steps=1))
    record_names(folder, ["onnx"], "export")
    (folder / "onnx").mkdir()
    run(distill_recipe(max_steps=1, overwrite=True))  # the same weights
    assert (folder / "onnx").exists()
    run(distill_recipe(max_steps=2, overwrite=True))
    assert not (folder / "onnx").exists()


def test_a_resumed_run_equals_an_unbroken_one_to_the_bit(kept_run, tmp_path, capfd):
    recipe, whole = kept_run
    assert recipe.student.text_config["hidden_dropout_prob"] > 0
    broken = tmp_path / "broken"
    # files of a run that was killed in its fourth step
    shutil.copytree(whole / "checkpoint-000002", broken / "checkpoint-000002")
    lines = (whole / "log.jsonl").read_text(encoding="utf-8").splitlines()
    lines = [*lines[:4], "[]", "{}", lines[4][:9]]
    (broken / "log.jsonl").write_text("\n".join(lines), encoding="utf-8")
    run(replace(recipe, output_dir=str(broken), resume=True))
    names = [MODEL, "config.json", f"checkpoint-000004/{TENSORS}"]
    assert filecmp.cmpfiles(broken, whole, names, shallow=False)[0] == names
    assert losses(broken) == losses(whole)
    assert {"event": "resumed", "step": 2}.items() <= read_log(broken)[3].items()
    *_, last = read_log(broken)
    assert last.keys() == {"event", "time", "step", "seconds", "data_wait", "skipped"}
    assert (last["event"], last["step"]) == ("finished", 6) and 0 <= last["data_wait"] <= 1
    assert "resumed at step 2" in capfd.readouterr().out


def test_a_run_whose_teacher_has_changed_is_not_resumed(distill_recipe, teacher_folder, tmp_path):
    teacher = shutil.copytree(teacher_folder, tmp_path / "teacher")
    recipe = distill_recipe(teacher=str(teacher), save_every=1, max_steps=1)
    run(recipe)
    make_model(VIT, seed=8).save_pretrained(teacher)
    with pytest.raises(ValueError, match=r"resume: this run differs .* weights of the teacher: "):
        run(replace(recipe, resume=True))


def test_the_precision_of_accelerate_launch_is_saved_and_not_changed_by_resuming(
    distill_recipe, monkeypatch
):
    recipe = distill_recipe(save_every=1, max_steps=1)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    folder = run(recipe)
    saved = parse_recipe(DistillRecipe, ["--config", str(folder / "recipe.yaml")])
    assert saved.mixed_precision == "bf16"
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION")
    with pytest.raises(ValueError, match=r"this run differs .* mixed_precision: 'bf16', now None"):
        run(replace(recipe, resume=True))
    run(replace(recipe, resume=True, mixed_precision="bf16"))


@pytest.mark.parametrize("name", [MODEL, TENSORS, "training_state/state.json"])
def test_a_damaged_checkpoint_names_the_file_and_the_previous_one(kept_run, tmp_path, name):
    earlier = kept_run[1] / "checkpoint-000002"
    checkpoint = shutil.copytree(kept_run[1] / "checkpoint-000004", tmp_path / "checkpoint-000004")
    content = bytearray((checkpoint / name).read_bytes())
    content[len(content) // 2] ^= 0xFF
    (checkpoint / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"resume: .*{name} is damaged .* from checkpoint-000002"):
        check_checkpoint([earlier, checkpoint], {})
    with pytest.raises(ValueError, match=r"It is the only checkpoint"):
        check_checkpoint([checkpoint], {})


def test_a_finished_model_is_not_replaced_without_a_flag(kept_run, tmp_path, distill_recipe):
    folder = tmp_path / "x"
    shutil.copytree(kept_run[1], folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    before = (folder / MODEL).read_bytes()
    recipe = distill_recipe(output_dir=folder, max_steps=1, save_every=1)
    for refused in (recipe, replace(recipe, resume=True)):
        with pytest.raises(ValueError, match=rf"output_dir: .* has {MODEL} of an earlier run"):
            run(refused)
    assert (folder / MODEL).read_bytes() == before
    (folder / "checkpoint-000009").mkdir()
    with pytest.raises(ValueError, match=r"typo"):
        run(replace(recipe, overwrite=True, teacher="typo"))
    assert (folder / "checkpoint-000009").exists()  # nothing is removed before the run can start
    run(replace(recipe, overwrite=True))
    assert (folder / MODEL).read_bytes() != before
    assert [path.name for path in list_checkpoints(folder)] == ["checkpoint-000001"]


def test_a_checkpoint_that_a_run_reads_is_not_replaced(align_recipe, kept_run):
    start = str(kept_run[1] / "checkpoint-000004")
    recipe = replace(align_recipe(student=start), output_dir=str(kept_run[1]), overwrite=True)
    with pytest.raises(ValueError, match=r"output_dir: .* would overwrite student"):
        run(recipe)


def test_a_full_disk_keeps_earlier_checkpoints(distill_recipe, monkeypatch):
    save = checkpoint.save_file

    def save_until_full(tensors, path):
        if "checkpoint-000004" in str(path):
            raise OSError(28, "No space left on device")
        save(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", save_until_full)
    recipe = distill_recipe(max_steps=6, save_every=2, keep_checkpoints=1)
    with pytest.raises(OSError, match=r"No space left.* --resume from checkpoint-000002"):
        run(recipe)
    names = sorted(path.name for path in Path(recipe.output_dir).iterdir())
    assert names == [".dcclip", "checkpoint-000002", "log.jsonl"]
    monkeypatch.undo()
    run(replace(recipe, resume=True))


@pytest.mark.parametrize("name", [".", "checkpoint-000002"])
def test_every_saved_folder_is_a_complete_hub_folder(kept_run, inputs, name):
    folder = kept_run[1] / name
    model = AutoModel.from_pretrained(folder).eval()
    AutoProcessor.from_pretrained(folder)
    with torch.no_grad():
        assert model(**inputs).logits_per_image.isfinite().all()
    # the card is written at the end of the run
    assert (folder / "README.md").exists() is (name == ".")
    suffixes = {path.suffix for path in folder.rglob("*")}
    assert not suffixes & {".bin", ".pkl", ".pt", ".pth"}  # no pickle


def test_no_file_of_a_run_has_a_path_of_this_machine(kept_run, teacher_folder):
    machine = str(teacher_folder.parent.parent).encode()
    files = [path for path in kept_run[1].rglob("*") if path.is_file()]
    assert len(files) > 20
    assert not [path for path in files if machine in path.read_bytes()]


def test_stage_2_changes_the_size_of_the_images(align_recipe):
    folder = run(align_recipe(image_size=96, anchor_weight=1.0, max_steps=1))
    model, processor = (each.from_pretrained(folder) for each in (DCCLIPModel, AutoProcessor))
    assert (model.config.image_size, model.config.vision_grid) == (96, [3, 3])
    pixels = processor(images=Image.new("RGB", (150, 120)), return_tensors="pt")["pixel_values"]
    assert pixels.shape[-2:] == (96, 96)
    assert model.get_image_features(pixels).feature_map.shape[-2:] == (3, 3)


def test_recipes_that_cannot_be_aligned_are_refused(align_recipe, processor, tmp_path, train_rows):
    truncated = save_untrained(tmp_path / "teacher", processor, truncate_dim=8)
    vit, number = save_untrained(tmp_path / "vit", processor, VIT), len(train_rows)
    cases = [
        ({"student": vit, "image_size": 96}, r"^image_size: .* 96 pixels .* Its own size is 64\."),
        ({"teacher": truncated}, r"teacher: .* embeds in 8 dimensions.* `truncate_dim`"),
        ({"batch_size": 1}, rf"batch_size: .* 1 rows, expected 2 to {number}"),
        ({"batch_size": number + 1}, rf"batch_size: .* {number + 1} rows, expected 2 to {number}"),
    ]
    for fields, message in cases:
        with pytest.raises(ValueError, match=message):
            run(align_recipe(**fields))
