"""Both stages with several teachers, run as their scripts run them."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState

from modeling_dcclip import DCCLIPModel
from tests.tiny import PROJECTION_DIM, recipe_fields, student_config
from tests.tiny_teachers import save_teacher
from training import align, distill
from training.config import AlignRecipe, DistillRecipe, TeacherConfig
from training.teachers import Teacher

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerator")]


@pytest.fixture(scope="module")
def source(corpus) -> str:
    return str(corpus / "train.parquet")


def run(recipe: DistillRecipe | AlignRecipe) -> Path:
    AcceleratorState._reset_state(reset_partial_state=True)
    (distill if isinstance(recipe, DistillRecipe) else align).run(recipe)
    return Path(recipe.output_dir)


def read_losses(folder: Path) -> dict[str, float]:
    """Losses of the last step."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "loss" in line][-1]


def entries(*folders: Path, **fields) -> list[TeacherConfig]:
    """Entries of a recipe; each field has one value for each teacher."""
    return [
        TeacherConfig(teacher=str(folder), **{name: values[number] for name, values in fields.items()})
        for number, folder in enumerate(folders)
    ]


@pytest.fixture(scope="module")
def distilled(tmp_path_factory, source, altclip_folder, teacher_folder) -> tuple[DistillRecipe, Path]:
    """Stage 1 of two teachers, of which the second has the student's tokens. Tests must not write into it."""
    folder = tmp_path_factory.mktemp("several")
    recipe = DistillRecipe(
        teachers=entries(altclip_folder, teacher_folder, weight=(1.0, 2.0)),
        student=student_config(tokenizer=str(teacher_folder)),
        teacher_cache=str(folder / "cache"),
        teacher_views=1,
        **recipe_fields(folder / "distilled", source),
    )
    return recipe, run(recipe)


def test_stage_1_learns_the_joint_space_and_the_maps_that_there_are(distilled, altclip_folder, teacher_folder):
    recipe, folder = distilled
    config = DCCLIPModel.from_pretrained(folder).config
    assert config.projection_dim == 2 * PROJECTION_DIM
    assert config.teacher == f"{altclip_folder.name} + {teacher_folder.name}"
    names = {name for name in read_losses(folder) if name.startswith(("vision", "text"))}
    # token states of the second teacher, because the first has other tokens
    assert names == {"vision_map", "vision_embedding", "text_map", "text_embedding"}
    assert str(altclip_folder) not in (folder / "recipe.yaml").read_text(encoding="utf-8")
    assert len(list(Path(recipe.teacher_cache).glob("teacher-*/images.json"))) == 2
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"from the teachers `{altclip_folder.name} + {teacher_folder.name}`" in card and "license: other" in card
    assert f"from `{altclip_folder.name}` and `{teacher_folder.name}`. The terms of `creativeml-openrail-m`" in card
    assert "An origin of the weights states no licence" in card


def test_stage_2_of_two_teachers_uses_their_cache(distilled, source, tmp_path):
    recipe, folder = distilled
    before = {file: file.stat().st_mtime_ns for file in Path(recipe.teacher_cache).rglob("*.safetensors")}
    weights = {"anchor_weight": 1.0, "affinity_weight": 1.0}
    cached = {"teacher_cache": recipe.teacher_cache, "teacher_views": 1}
    fields = recipe_fields(tmp_path / "aligned", source, prefixes=[4, 20], **weights, **cached)
    aligned = run(AlignRecipe(student=str(folder), teachers=recipe.teachers, **fields))
    losses = read_losses(aligned)
    assert {"anchor_image", "anchor_text", "affinity_en"} <= set(losses)
    assert all(math.isfinite(value) for value in losses.values() if isinstance(value, float))
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert DCCLIPModel.from_pretrained(aligned).config.rotation is not None


def test_a_student_learns_chinese_from_english_targets(tokenizer, train_rows, inputs, tmp_path):
    """AltCLIP's teacher learning: the teacher encodes the English sentence, the student both. As in
    training/configs/parallel_distill_text.yaml, the image tower is the teacher's.
    """
    clip = Teacher.from_pretrained(str(save_teacher("altclip", tmp_path / "clip", tokenizer)))
    rows = train_rows.select(range(0, 80, 10))
    rows.select_columns(["en", "zh"]).to_parquet(tmp_path / "sentences.parquet")
    student_fields = student_config(vision_config=None, vision_init="teacher", vision_pooling="tower")
    fields = {"batch_size": 8, "max_steps": 80, "learning_rate": 3e-3, "map_weight": 0.0, "tower": "text"}
    recipe = DistillRecipe(
        teachers=entries(tmp_path / "clip", languages=(["en"],)),
        student=student_fields,
        **recipe_fields(tmp_path / "text", tmp_path / "sentences.parquet", **fields),
    )
    student = DCCLIPModel.from_pretrained(run(recipe)).eval()
    english = F.normalize(clip.encode_texts(**clip.tokenize(rows["en"], 32)).embedding, dim=-1)
    with torch.no_grad():
        chinese = F.normalize(student.get_text_features(**clip.tokenize(rows["zh"], 32)).pooler_output, dim=-1)
        found = student.get_image_features(inputs["pixel_values"]).pooler_output
    torch.testing.assert_close(found, clip.encode_images(inputs["pixel_values"]).embedding, rtol=1e-4, atol=1e-5)
    cosines = chinese @ english.T
    assert cosines.diag().mean() > cosines.mean() + 0.1  # closer to the target of its own translation than to others
