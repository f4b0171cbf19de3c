"""`training/embed.py --ray` and `Embedder` in Ray Data: a real cluster of two nodes, one of which ends."""

import signal
import threading
import time

import pytest

from tests.training.data.shards import read_samples, write_shards
from tests.training.embedding.test_embed import STREAMED, arguments_of, embed_into, rows_of
from training import embed
from training.embedding.embedder import Embedder

ray = pytest.importorskip("ray", reason='pip install -e ".[ray]"')
pytestmark = pytest.mark.stress


@pytest.fixture
def cluster(monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # by default others on the machine go first
    options = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=options)
    yield cluster
    cluster.shutdown()


def test_a_collection_is_complete_although_a_node_ends(cluster, train_rows, color_model, tmp_path):
    tars = write_shards(tmp_path / "tars", read_samples(train_rows, 120), 20)
    node = cluster.add_node(num_cpus=1)
    embed_into(tmp_path / "one", color_model, tars, *STREAMED)
    embed_into(tmp_path / "two", color_model, tars, *STREAMED, "--ray", cluster.address)
    assert rows_of(tmp_path / "two") == rows_of(tmp_path / "one")
