"""Embed shards on a Ray cluster: an autoscaling pool of actors of Ray Data takes one shard after the other.

A shard whose node ends is embedded again on a different node. A shard that is written is not, also if Ray repeats its
task.
"""

import logging
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from training.embedding import EmbedOptions
from training.embedding.shard_writer import Encoding, Job, ShardWriter, path_of
from training.embedding.shard_writer import find_encoding as find_encoding_here
from training.utils.cli import one_line
from training.utils.files import remove_leftovers

if TYPE_CHECKING:
    import ray

IN_FLIGHT = 2  # shards that an actor has at once: the one in work, and the next one


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect this process to a Ray cluster.

    Raises:
        ValueError: Ray is not installed, or there is no cluster at the address.
    """
    if find_spec("ray") is None:
        raise ValueError('ray: Ray is not installed. Run: pip install -e ".[ray]"')
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"ray: cannot connect to {address!r} ({one_line(error)}). Name the address of a running cluster, or "
            "local."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def find_encoding(options: EmbedOptions) -> Encoding:
    """Find out how the nodes encode images, on one of them."""
    import ray

    find = ray.remote(**_resources())(_on_node)
    with _causes_reported():
        return ray.get(find.remote(os.getcwd(), find_encoding_here, options))


def write_shards(job: Job, missing: list[int]) -> Iterator[tuple[int, str | None]]:
    """Embed shards on all nodes; yield for each the number of images, or the reason for which it fails."""
    import ray.data

    if not missing:
        return
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    resources = _resources()
    numbers = [{"shard": number} for number in missing]
    done = ray.data.from_items(numbers, override_num_blocks=len(numbers)).map_batches(
        _Actor,
        fn_constructor_args=(os.getcwd(), ray.put(job), resources["num_cpus"]),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            min_size=1,
            # one on each node now; more if the cluster grows
            initial_size=min(_capacity(resources), len(missing)),
            max_size=len(missing),
            max_tasks_in_flight_per_actor=IN_FLIGHT,
        ),
        **resources,
    )
    with _causes_reported():
        for row in done.iter_rows():
            yield row["images"], row["failure"]
    remove_leftovers(job.folder)  # nodes that ended while they wrote left scratch files


class _Actor:
    """A shard writer on a node. Batches have one shard each."""

    def __init__(self, folder: str, job: "ray.ObjectRef[Job]", threads: int):
        import ray

        self._job = ray.get(job)
        self._writer = _on_node(folder, ShardWriter, self._job, threads)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        number = int(batch["shard"][0])
        path = path_of(self._job.folder, number)
        failure = None
        images = 0
        try:
            # Ray repeats a task whose answer was on a node that has ended
            if not path.exists():
                images = sum(self._writer.write(number))
        except ValueError as error:
            failure = str(error)
        return {"images": [images], "failure": [failure]}


def _on_node(folder: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function on a node, in the folder of the command; its errors name the node."""
    try:
        os.chdir(folder)  # relative paths mean what they mean to the command
        return function(*arguments)
    except (ValueError, OSError, ImportError) as error:
        raise NodeError(f"{one_line(error)} (on the node {socket.gethostname()})") from None


class NodeError(ValueError):
    """An error on a node that every shard would meet there."""


def _resources() -> dict[str, Any]:
    """Cores and accelerators of an actor: of one accelerator its share of the cores, else the cores of one node."""
    nodes = _nodes()
    accelerated = [node for node in nodes if node.get("GPU")]
    cores = [
        int(node["CPU"] // node.get("GPU", 1)) for node in accelerated or nodes if node.get("CPU")
    ]
    if not cores:
        raise ValueError(
            "ray: no node of the cluster has CPUs for tasks. Start one: ray start --address ..."
        )
    return {"num_cpus": max(1, min(cores))} | ({"num_gpus": 1} if accelerated else {})


def _capacity(resources: Mapping[str, Any]) -> int:
    """Number of actors for which the cluster has room."""
    names = {"num_cpus": "CPU", "num_gpus": "GPU"}
    count = 0
    for node in _nodes():
        count += min(int(node.get(names[name], 0) // each) for name, each in resources.items())
    return max(1, count)


def _nodes() -> list[dict[str, float]]:
    """Resources of each node."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


@contextmanager
def _causes_reported() -> Iterator[None]:
    """Report the error of a node without the tracebacks that Ray adds."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        match = re.search(r"NodeError: (.*)", str(error))
        if match is None:
            raise OSError(f"ray: {one_line(error)[:500]}. Run the same command again.") from error
        raise ValueError(match[1]) from error
