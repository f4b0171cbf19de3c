"""Without a connection to the Hub, data sets are reported as missing at once."""

from types import SimpleNamespace

import pytest

from training.evaluation.sets import sources
from training.evaluation.sets.protocols import ELEVATER
from training.evaluation.sets.sources import HUB, MissingDataError, Source, read_hub, read_source


class Session:
    """HTTP client that counts its requests and fails, or returns a status code."""

    def __init__(self, status: int | None):
        self.status, self.num_requests = status, 0

    def head(self, url: str, timeout: float) -> SimpleNamespace:
        self.num_requests += 1
        assert url.startswith("https://") and timeout <= 10
        if self.status is None:
            raise OSError("Name or service not known")
        return SimpleNamespace(status_code=self.status)


@pytest.fixture
def connect(monkeypatch):
    """Online mode with a fake HTTP client; a download fails the test unless it is expected."""

    def connect(status: int | None = None) -> Session:
        session = Session(status)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr(sources, "get_session", lambda: session)
        for name in ("load_dataset", "snapshot_download", "hf_hub_download"):
            monkeypatch.setattr(sources, name, lambda *arguments, **fields: pytest.fail("a download was tried"))
        return session

    sources._connection_error.cache_clear()
    yield connect
    sources._connection_error.cache_clear()


def test_an_unreachable_hub_is_contacted_once_for_all_sets(connect):
    session = connect()
    for name, eval_set in ELEVATER.items():
        with pytest.raises(MissingDataError, match="Name or service not known"):
            read_source(name, Source(HUB), eval_set)
    with pytest.raises(ValueError, match=r"data: cannot load 'owner/name', split 'test', from the Hub"):
        read_hub("owner/name", "test")
    assert session.num_requests == 1


def test_a_proxy_that_blocks_the_hub_makes_it_unreachable(connect):
    connect(403)
    with pytest.raises(MissingDataError, match=r"https://.* returned status 403"):
        read_source("mnist", Source(HUB), ELEVATER["mnist"])


def test_a_reachable_hub_is_contacted_once_before_the_downloads(connect, monkeypatch):
    session, loaded = connect(200), []

    def snapshot_download(repository: str, **fields):
        loaded.append(repository)
        raise OSError("no such file")

    monkeypatch.setattr(sources, "snapshot_download", snapshot_download)
    names = ("mnist", "gtsrb")
    for name in names:
        with pytest.raises(MissingDataError, match="no such file"):
            read_source(name, Source(HUB), ELEVATER[name])
    assert loaded == [ELEVATER[name].hub for name in names] and session.num_requests == 1


def test_offline_mode_makes_no_request(connect, monkeypatch):
    session = connect()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def snapshot_download(repository: str, **fields):
        raise OSError("not in the cache")

    monkeypatch.setattr(sources, "snapshot_download", snapshot_download)
    with pytest.raises(MissingDataError, match="not in the cache"):
        read_source("mnist", Source(HUB), ELEVATER["mnist"])
    assert session.num_requests == 0
