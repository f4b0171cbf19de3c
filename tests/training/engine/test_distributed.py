"""Accelerate config files for several devices."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator, debug_launcher
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from tests.local_server import free_port
from tests.tiny import ROOT, recipe_fields, save_untrained
from tests.training.engine.runs import losses
from training import align
from training.config import RECIPE_FILE, AlignRecipe
from training.engine.stage import make_accelerator

pytestmark = pytest.mark.slow

CLUSTERS = ROOT / "training/engine/distributed"


@pytest.mark.parametrize("path", sorted(CLUSTERS.glob("*.yaml")), ids=lambda path: path.stem)
def test_config_files_have_only_keys_that_accelerate_knows(path):
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert content.keys() <= {field.name for field in fields(ClusterConfig)}
    assert load_config_from_file(str(path)).num_processes == content["num_processes"]


@pytest.fixture
def recipe(tmp_path, corpus, processor) -> AlignRecipe:
    """Three steps of stage 2 with gradient caching and a moving average."""
    student = save_untrained(tmp_path / "student", processor)
    options = {"max_steps": 3, "chunk_size": 3, "ema_decay": 0.5}
    fields = recipe_fields(tmp_path / "run", corpus / "train.parquet", **options)
    return AlignRecipe(student=student, **fields)


@pytest.mark.stress
def test_two_machines_give_the_bytes_of_two_processes(recipe, tmp_path, run_python):
    def train():
        torch.set_num_threads(1)
        align.run(recipe)

    AcceleratorState._reset_state(reset_partial_state=True)
    debug_launcher(train)
    launcher = f"accelerate.commands.launch --config_file {CLUSTERS / 'ddp_4_nodes.yaml'}"
    machines = "--num_machines 2 --num_processes 2 --main_process_ip 127.0.0.1"
    options = f"--main_process_port {free_port()} --mixed_precision no"  # the file has bf16
    (tmp_path / RECIPE_FILE).write_text(json.dumps(asdict(recipe)))
    script = f"training/align.py --config {tmp_path / RECIPE_FILE}"
    nodes = tmp_path / "nodes"

    def launch(rank: int):
        words = f"-m {launcher} {machines} {options} --machine_rank {rank} {script}".split()
        environment = {"ACCELERATE_USE_CPU": "false", "OMP_NUM_THREADS": "1"}
        run_python(*words, "--output_dir", str(nodes), **environment)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(launch, range(2)))
    first, second = (folder / "model.safetensors" for folder in (Path(recipe.output_dir), nodes))
    assert losses(first.parent) == losses(nodes)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("variable", "value", "field"),
    [
        ("ACCELERATE_MIXED_PRECISION", "fp16", "mixed_precision"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "gradient_accumulation_steps"),
        ("ACCELERATE_DYNAMO_BACKEND", "inductor", "dynamo_backend"),
    ],
)
@pytest.mark.usefixtures("fresh_accelerator")
def test_settings_of_the_launcher_that_would_be_ignored_are_refused(
    recipe, monkeypatch, variable, value, field
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=rf"^{field}: "):
        make_accelerator(recipe)


@pytest.mark.usefixtures("fresh_accelerator")
def test_sharding_is_refused(recipe, monkeypatch):
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.FSDP)
    with pytest.raises(ValueError, match=r"^distributed_type: "):
        make_accelerator(recipe)
