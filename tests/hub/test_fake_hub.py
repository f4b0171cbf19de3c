"""What the Hub in memory does, as the docstrings of `HfApi` in huggingface_hub 2 and the Hub's API document it."""

from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.errors import HfHubHTTPError

from tests.hub.fake_hub import FakeHub

REPO = "me/model"
HEAD = {"revision": "main", "parent_commit": "0", "commit_message": "new"}


@pytest.fixture
def hub() -> FakeHub:
    hub = FakeHub()
    hub.create_repo(REPO, private=True)
    hub.create_tag(REPO, tag="v1", revision="0")
    return hub


@pytest.mark.parametrize(
    ("method", "options", "status"),
    [
        # `exist_ok`: if False, an error is raised if the repo, branch or tag exists
        ("create_repo", {}, 409),
        ("create_branch", {"branch": "main"}, 409),
        ("create_tag", {"tag": "v1", "revision": "0"}, 409),
        ("repo_info", {"revision": "none"}, 404),
        # `parent_commit`: the commit fails if `revision` does not point to it
        ("create_commit", HEAD | {"operations": [], "parent_commit": "7"}, 412),
        ("create_commit", HEAD | {"operations": [CommitOperationDelete("none")]}, 404),
    ],
)
def test_what_the_hub_refuses(hub, method, options, status):
    with pytest.raises(HfHubHTTPError) as error:
        getattr(hub, method)(REPO, **options)
    assert error.value.response.status_code == status
    assert (hub.branches, hub.tags, hub.private) == ({"main": "0"}, {"v1": "0"}, True)


def test_a_repo_that_exists_keeps_its_visibility(hub):
    hub.create_repo(REPO, private=False, exist_ok=True)
    assert hub.repo_info(REPO).private


def test_a_commit_without_changes_returns_the_last_one(hub, tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("a")
    added = [CommitOperationAdd("a.txt", path)]
    assert hub.create_commit(REPO, operations=added, **HEAD).oid == "1"
    again = hub.create_commit(REPO, operations=added, **HEAD | {"parent_commit": "1"})
    assert again.oid == "1" and hub.list_repo_files(REPO, revision="main")[-1] == "a.txt"
