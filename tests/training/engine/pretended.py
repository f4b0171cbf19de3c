"""A device that exists in name only, to find where a training step waits for its device.

Its tensors say that they are on `pretended:0` and hold their values on the CPU. Every operation that a GPU would have
to be waited for is counted, and tensors of different devices are an error. The program trains with the recipes of
files, and prints the waits of the second step of each, by kind and place, as JSON. Modules
with losses of one's own may follow a recipe:

    python -m tests.training.engine.pretended distill,RECIPE.yaml align,RECIPE.yaml,MODULE

It is a process of its own, because a device cannot be removed again.
"""

import importlib
import json
import sys
import traceback
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.utils.backend_registration as backends
from torch import Tensor
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ROOT = Path(__file__).parents[3]
# operations whose result has a size that depends on values
SIZED_BY_VALUES = (
    "_unique2",
    "bincount",
    "equal",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
)
INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_")
waits: Counter[str] = Counter()


class Backend(backends._DummyBackendModule):
    """The module `torch.pretended`."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float32]


def pretended(device: Any) -> bool:
    return device is not None and torch.device(device).type == "pretended"


def count(kind: str):
    """Count a wait at the innermost line of the project."""
    frames = [frame for frame in traceback.extract_stack() if f"{ROOT}/training" in frame.filename]
    line = f"{frames[-1].filename.removeprefix(f'{ROOT}/')}:{frames[-1].lineno}" if frames else "?"
    waits[f"{kind} at {line}"] += 1


class Pretended(Tensor):
    """A tensor on the pretended device."""

    held: Tensor

    @staticmethod
    def __new__(cls, real: Tensor):
        tensor = Tensor._make_wrapper_subclass(
            cls,
            real.size(),
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device=torch.device("pretended", 0),
        )
        tensor.held = real
        return tensor

    def tolist(self):
        count("tolist")
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


class Mode(TorchDispatchMode):
    """Sends operations that make tensors on the pretended device to `run`."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


def unwrap(value: Any) -> Any:
    return value.held if isinstance(value, Pretended) else value


def run(function, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the values, and count it if a GPU would have to be waited for."""
    name = function._schema.name.removeprefix("aten::")
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    own = [tensor for tensor in tensors if isinstance(tensor, Pretended)]
    on_host = [tensor for tensor in tensors if not isinstance(tensor, Pretended) and tensor.ndim]
    makes_own = pretended(kwargs.get("device"))
    if not own and not makes_own:
        return function(*args, **kwargs)
    real = {
        key: "cpu" if pretended(value) else value
        for key, value in kwargs.items()
        if key == "device"
    }
    result = function(*tree_map(unwrap, args), **tree_map(unwrap, kwargs) | real)
    if name == "_to_copy":
        leaves = not makes_own and kwargs.get("device") is not None
        if (leaves or not own) and not kwargs.get("non_blocking"):
            count("copy to the host" if leaves else "copy to the device")
        if leaves:
            return result.clone()
    elif name == "_local_scalar_dense":
        count("value")
        return result
    elif name in SIZED_BY_VALUES or (name == "repeat_interleave" and not kwargs.get("output_size")):
        count(name)
    elif name in INDEXED:
        for index in args[1]:
            if index is not None and (
                index.dtype == torch.bool or not isinstance(index, Pretended)
            ):
                count("index by a mask or by the host")
    elif on_host:
        raise RuntimeError(f"{name}: tensors of {[tensor.device for tensor in tensors]}")
    known = {id(tensor.held): tensor for tensor in own}

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return known[id(value)] if id(value) in known else Pretended(value)

    return tree_map(wrap, result)


def count_step(counted: list[dict[str, int]]):
    """Add the waits since the batch before."""
    counted.append(dict(waits))
    waits.clear()


def main(*runs: str):
    backends._setup_privateuseone_for_python_backend("pretended", Backend())
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    foreach_types: list[type] = _foreach_utils._foreach_supported_types  # type: ignore[assignment]
    foreach_types.append(Pretended)
    torch.inference_mode = torch.no_grad  # type: ignore[assignment, misc]
    event = SimpleNamespace(synchronize=lambda: None)
    stream: Any = SimpleNamespace(record_event=lambda: event, is_capturing=lambda: False)
    torch.accelerator.current_stream = lambda: stream  # type: ignore[assignment, misc]
    from training import align, distill
    from training.config import AlignRecipe, DistillRecipe, parse_recipe
    from training.engine.inputs import open_teacher
    from training.engine.loop import Run, train
    from training.engine.stage import keep_masks
    from training.tasks import Models

    accelerator: Any = SimpleNamespace(
        device=torch.device("pretended", 0),
        num_processes=1,
        process_index=0,
        is_main_process=True,
        scaler=None,
        trackers=[],
        main_process_first=nullcontext,
        autocast=nullcontext,
        backward=lambda loss: loss.backward(),
        no_sync=lambda model: nullcontext(),
        prepare=lambda task, optimizer: (task, optimizer),
        clip_grad_norm_=torch.nn.utils.clip_grad_norm_,
        reduce=lambda tensor, how: tensor,
        log=lambda values, step: None,
    )
    keep_masks()  # as on a GPU
    stages: dict[str, Any] = {"distill": (distill, DistillRecipe), "align": (align, AlignRecipe)}
    found = []
    for run_of_stage in runs:
        command, path, *modules = run_of_stage.split(",")
        for module in modules:
            importlib.import_module(module)
        stage, recipe_class = stages[command]
        recipe = parse_recipe(recipe_class, ["--config", path])
        waits.clear()
        with Mode():
            teacher = open_teacher(recipe)
            made = stage.open_student(recipe, teacher)
            task, dataset = stage.make_task(recipe, Models(*made, teacher), accelerator)
            counted = []
            task.before_batch = lambda number, counted=counted: count_step(counted)
            train(task, dataset, made[1], Run(recipe, accelerator, "pretended"))
        found.append(counted[2])
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
