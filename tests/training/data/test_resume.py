"""Training on streams by two processes: a resumed run writes the same bytes as an uninterrupted one."""

import filecmp
import shutil
from dataclasses import replace

import pytest
import torch
from accelerate import PartialState, debug_launcher
from accelerate.state import AcceleratorState

from tests.tiny import VIT, recipe_fields, save_untrained
from tests.training.data.shards import read_samples, write_shards
from tests.training.engine.runs import read_log
from training import align
from training.config import AlignRecipe, DataConfig, SourceConfig

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerator")]


@pytest.fixture
def mixture(train_rows, tmp_path):
    """Two streams with different columns, each with an image that does not decode."""
    sources = []
    for number, language in enumerate(("en", "zh")):
        samples = read_samples(train_rows, 24)
        samples[5 + number]["png"] = b"broken"
        name = write_shards(tmp_path / language, samples, 2)
        sources.append(SourceConfig(train=name, caption_columns={language: f"{language}.txt"}))
    return DataConfig(
        sources=sources, image_column="png", streaming=True, shuffle_buffer=6, max_skip_share=0.5
    )


@pytest.fixture
def recipe(tmp_path, teacher_folder, mixture, processor):
    student = save_untrained(tmp_path / "student", processor, VIT)
    options = {"max_steps": 4, "save_every": 2, "batch_size": 4, "chunk_size": 2, "data": mixture}
    fields = recipe_fields(tmp_path / "whole", "", **options)
    return AlignRecipe(teacher=str(teacher_folder), student=student, anchor_weight=1.0, **fields)


def test_a_resumed_run_on_two_processes_equals_an_uninterrupted_one(recipe, tmp_path):
    whole = tmp_path / "whole"
    resumed = tmp_path / "resumed"

    def work():
        torch.set_num_threads(1)
        align.run(recipe)
        if PartialState().is_main_process:
            shutil.copytree(whole / "checkpoint-000002", resumed / "checkpoint-000002")
        PartialState().wait_for_everyone()
        AcceleratorState._reset_state()
        align.run(replace(recipe, output_dir=str(resumed), resume=True))

    debug_launcher(work)
    assert filecmp.cmp(resumed / "model.safetensors", whole / "model.safetensors", shallow=False)
    skipped = read_log(whole)[-1]["skipped"]
    assert read_log(resumed)[-1]["skipped"] == skipped
    assert "image does not decode" in skipped
