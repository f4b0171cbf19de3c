"""The config files for many devices, as accelerate itself reads them; FSDP on two processes of one CPU."""

import json
import os
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import debug_launcher
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from tests.tiny import RESNET, XLM_ROBERTA, make_model, recipe_fields
from training import align
from training.clusters import CONFIG_FILES, adapt_to_cluster
from training.config import AlignRecipe
from training.loop import make_accelerator


def options_of_launch() -> set[str]:
    return {action.dest for action in launch_command_parser()._actions}


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda path: path.stem)
def test_a_config_file_has_no_key_that_accelerate_does_not_know(path):
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert content.keys() <= {field.name for field in fields(ClusterConfig)}
    config = load_config_from_file(str(path))
    assert config.num_processes == content["num_processes"]
    assert content.get("fsdp_config", {}).keys() <= options_of_launch()
    assert content.get("deepspeed_config", {}).keys() <= options_of_launch()


def test_every_config_file_stands_on_its_page():
    page = (Path(CONFIG_FILES[0]).parent / "README.md").read_text(encoding="utf-8")
    assert len(CONFIG_FILES) == 5 and all(f"`{path.name}`" in page for path in CONFIG_FILES)


FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "NO_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",  # as accelerate has it where nobody says otherwise
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}


@pytest.fixture
def recipe(tmp_path, corpus, processor) -> AlignRecipe:
    """Three steps of stage 2 in chunks, with an average and an evaluation, saved after each."""
    make_model(RESNET, XLM_ROBERTA, seed=3).save_pretrained(tmp_path / "student")
    processor.save_pretrained(tmp_path / "student")
    fields = recipe_fields(tmp_path / "run", corpus / "train.parquet", max_steps=3, save_every=1)
    return AlignRecipe(student=str(tmp_path / "student"), chunk_size=3, keep_checkpoints=9, ema_decay=0.5, **fields)


def run(recipe: AlignRecipe, is_sharded: bool):
    """On two processes."""

    def work():
        torch.set_num_threads(1)
        if is_sharded:
            os.environ |= FSDP
            PartialState(cpu=True).distributed_type = DistributedType.MULTI_GPU  # FSDP is offered to GPUs alone
        assert make_accelerator(recipe).is_fsdp2 is is_sharded
        align.run(recipe)

    AcceleratorState._reset_state(reset_partial_state=True)
    debug_launcher(work)


def losses(recipe: AlignRecipe) -> list[float]:
    lines = (Path(recipe.output_dir) / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


def test_sharded_weights_learn_are_saved_whole_and_go_on_to_the_bit(recipe, tmp_path):
    plain, broken = (replace(recipe, output_dir=str(tmp_path / name)) for name in ("plain", "broken"))
    run(plain, False)
    run(recipe, True)
    assert losses(recipe) == pytest.approx(losses(plain), abs=1e-4)
    for name in ("model.safetensors", "checkpoint-000003/training_state/tensors.safetensors"):
        found, expected = (load_file(Path(folder.output_dir) / name) for folder in (recipe, plain))
        assert found.keys() == expected.keys()
        for key, tensor in expected.items():
            torch.testing.assert_close(found[key], tensor, rtol=1e-3, atol=1e-4)
    Path(broken.output_dir).mkdir()
    shutil.copytree(Path(recipe.output_dir) / "checkpoint-000002", Path(broken.output_dir) / "checkpoint-000002")
    run(replace(broken, resume=True), True)
    assert losses(broken) == losses(recipe)[2:]
    endings = [(Path(r.output_dir) / "model.safetensors").read_bytes() for r in (recipe, broken)]
    assert endings[0] == endings[1]


def test_what_is_not_supported_is_refused(recipe):
    class Cluster:
        distributed_type = DistributedType.FSDP
        is_fsdp2 = False

    with pytest.raises(ValueError, match=r"fsdp_version: 1 is not supported; set it to 2"):
        adapt_to_cluster(Cluster(), torch.nn.Linear(1, 1), recipe)
