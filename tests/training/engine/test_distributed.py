"""Accelerate config files for several devices, and FSDP on two CPU processes."""

import json
import math
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from functools import cache
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

from tests.local_server import free_port
from tests.tiny import RESNET, ROOT, XLM_ROBERTA, make_model, recipe_fields
from training import align
from training.config import RECIPE_FILE, AlignRecipe, stored_fields
from training.engine.loop import make_accelerator
from training.engine.optimizer import adapt_to_cluster
from training.tasks.align import MAX_LOGIT_SCALE

pytestmark = pytest.mark.slow

CLUSTERS = ROOT / "training/engine/distributed"


@pytest.mark.parametrize("path", sorted(CLUSTERS.glob("*.yaml")), ids=lambda path: path.stem)
def test_config_files_have_only_keys_that_accelerate_knows(path):
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert content.keys() <= {field.name for field in fields(ClusterConfig)}
    config = load_config_from_file(str(path))
    assert config.num_processes == content["num_processes"]
    options = {action.dest for action in launch_command_parser()._actions}
    assert content.get("fsdp_config", {}).keys() <= options


# environment variables that `accelerate launch` sets
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "NO_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",  # accelerate's default
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}
TOLERANCES = {"no": 1e-4, "bf16": 5e-4}
# share of elements that may differ in bf16: AdamW makes a full step even if a gradient is only rounding error
MAX_OUTLIERS = 0.01
STATE = "checkpoint-000003/training_state/tensors.safetensors"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, corpus, processor) -> AlignRecipe:
    """Three steps of stage 2 with all options that interact with sharding: two batches per step, gradient caching, a
    moving average, a logit scale at its limit, and a checkpoint after every step.
    """
    folder = tmp_path_factory.mktemp("recipe")
    student = make_model(RESNET, XLM_ROBERTA, seed=3)
    student.logit_scale.data.fill_(math.log(MAX_LOGIT_SCALE))
    student.save_pretrained(folder / "student")
    processor.save_pretrained(folder / "student")
    fields = recipe_fields(folder / "run", corpus / "train.parquet", max_steps=3, save_every=1)
    fields |= {"accumulate_steps": 2, "chunk_size": 3, "ema_decay": 0.5}
    fields |= {"learning_rate": 1e-2, "warmup_steps": 1}
    return AlignRecipe(student=str(folder / "student"), keep_checkpoints=9, **fields)


def run(recipe: AlignRecipe, cluster: str):
    """Run a recipe on two processes."""

    def work():
        torch.set_num_threads(1)
        if cluster == "fsdp":  # accelerate uses FSDP on GPUs only, unless the distributed type is set by hand
            PartialState(cpu=True).distributed_type = DistributedType.MULTI_GPU
            os.environ |= FSDP | {"ACCELERATE_USE_CPU": "false"}
        accelerator = make_accelerator(recipe)
        assert accelerator.is_fsdp2 is (cluster == "fsdp") and accelerator.num_processes == 2
        align.run(recipe)

    AcceleratorState._reset_state(reset_partial_state=True)
    debug_launcher(work)


def losses(recipe: AlignRecipe) -> list[float]:
    lines = (Path(recipe.output_dir) / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory) -> Callable[[str, str], AlignRecipe]:
    """Runs the recipe once per cluster and precision, and returns the recipe of that run."""
    folder = tmp_path_factory.mktemp("trained")

    @cache
    def train(cluster: str, precision: str) -> AlignRecipe:
        finished = replace(recipe, mixed_precision=precision, output_dir=str(folder / f"{cluster}-{precision}"))
        run(finished, cluster)
        return finished

    return train


def weights_and_state(recipe: AlignRecipe) -> dict[str, torch.Tensor]:
    folder = Path(recipe.output_dir)
    return load_file(folder / "model.safetensors") | load_file(folder / STATE)


@pytest.mark.stress
@pytest.mark.parametrize("precision", TOLERANCES)
def test_sharded_training_equals_ddp_and_is_saved_unsharded(trained, precision):
    plain, recipe = trained("ddp", precision), trained("fsdp", precision)
    assert losses(recipe) == pytest.approx(losses(plain), abs=TOLERANCES[precision])
    found, expected = weights_and_state(recipe), weights_and_state(plain)
    assert found.keys() >= expected.keys()
    for key, tensor in expected.items():
        if precision == "no":
            torch.testing.assert_close(found[key], tensor, rtol=1e-3, atol=TOLERANCES[precision])
        elif not key.endswith("key.bias"):  # softmax cancels it, so its gradient is only rounding error
            assert found[key].shape == tensor.shape and found[key].dtype == tensor.dtype
            off = ~torch.isclose(found[key], tensor, rtol=1e-3, atol=TOLERANCES[precision])
            assert off.float().mean() <= MAX_OUTLIERS, key
    for key in found.keys() - expected.keys():  # moments of parameters that no loss reaches
        assert key.startswith(("exp_avg", "step/")) and (key.startswith("step/") or not found[key].any())
    files = [path for path in Path(recipe.output_dir).rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in (".pkl", ".pt", ".pth", ".bin")]


def test_sharded_training_resumes_bit_exactly_and_under_ddp_up_to_rounding(trained, tmp_path):
    recipe = trained("fsdp", "no")
    last = Path(recipe.output_dir) / "checkpoint-000002"
    endings = []
    for name in ("fsdp", "ddp"):
        broken = replace(recipe, output_dir=str(tmp_path / f"broken-{name}"), resume=True)
        shutil.copytree(last, Path(broken.output_dir) / last.name)
        run(broken, name)
        assert losses(broken) == pytest.approx(losses(recipe)[2:], abs=0 if name == "fsdp" else 1e-4)
        endings.append(broken)
    same, other = endings
    found = [(Path(r.output_dir) / "model.safetensors").read_bytes() for r in (recipe, same)]
    assert found[0] == found[1]
    expected = load_file(Path(recipe.output_dir) / "model.safetensors")
    for key, tensor in load_file(Path(other.output_dir) / "model.safetensors").items():
        torch.testing.assert_close(tensor, expected[key], rtol=1e-3, atol=1e-4)


@pytest.mark.stress
def test_two_machines_give_the_bytes_of_two_processes(trained, tmp_path, run_python):
    processes = trained("ddp", "no")
    nodes = replace(processes, output_dir=str(tmp_path / "nodes"))
    (tmp_path / RECIPE_FILE).write_text(yaml.safe_dump(json.loads(json.dumps(stored_fields(nodes)))))
    options = {"num_machines": 2, "num_processes": 2, "main_process_ip": "127.0.0.1", "main_process_port": free_port()}

    def launch(rank: int):
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        script = ["training/align.py", "--config", str(tmp_path / RECIPE_FILE)]
        arguments = ["--config_file", str(CLUSTERS / "ddp_4_nodes.yaml"), *words, "--machine_rank", str(rank), *script]
        run_python("-m", "accelerate.commands.launch", *arguments, ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(launch, range(2)))
    endings = [(Path(r.output_dir) / "model.safetensors").read_bytes() for r in (nodes, processes)]
    assert endings[0] == endings[1] and losses(nodes) == losses(processes)


def test_fsdp_1_is_refused():
    class Cluster:
        distributed_type = DistributedType.FSDP
        is_fsdp2 = False

    with pytest.raises(ValueError, match=r"fsdp_version: 1 is not supported; set it to 2"):
        adapt_to_cluster(Cluster(), torch.nn.Linear(1, 1))
