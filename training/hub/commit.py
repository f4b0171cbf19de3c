"""Upload a finished folder to the Hub in one commit, with retries. Repeating an upload changes nothing.

`HfApi.upload_folder` does not do the same job: with hf_xet installed it splits a folder into several commits, it sends
files only as they are on disk, whereas text files with local paths are sent cleaned, and the `*` of its
`delete_patterns` also matches `/`, so it would delete files that others put into subfolders.
"""

import logging
import re
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from training.hub.contents import Content, is_publishable, list_contents

logger = logging.getLogger(__name__)
ATTEMPTS = 5
DEFAULT_BRANCH = "main"
# rules of `git check-ref-format`, which `huggingface_hub` leaves to the Hub
NO_GIT_NAME = re.compile(r"^$|[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|(^|/)[./-]|[./]$|\.lock(/|$)|^@$")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Target:
    """The repo, branch and tag that a folder is published to.

    Args:
        repo_id: Id of the repo on the Hub, NAMESPACE/NAME.
        private: Whether a new repo is private. An existing repo must be private already.
        revision: Branch of the commit, created if it does not exist.
        tag: Tag of the commit. A tag that exists is never moved. None sets no tag.
    """

    repo_id: str
    private: bool = False
    revision: str = DEFAULT_BRANCH
    tag: str | None = None

    def __post_init__(self):
        try:
            validate_repo_id(self.repo_id)
        except HFValidationError as error:
            raise ValueError(
                f"repo_id: {self.repo_id!r} is no id of a repo ({error}) Write NAMESPACE/NAME."
            ) from error
        for name, value in (("revision", self.revision), ("tag", self.tag)):
            if value is not None and NO_GIT_NAME.search(value):
                raise ValueError(
                    f"{name}: {value!r} is no name that Git accepts. Use letters, digits, '.', '-' and '_', such as "
                    "v0.1.0."
                )

    def command(self, folder: str | Path) -> str:
        """The command that publishes a folder to this target."""
        parts = ["python", "training/publish.py", str(folder), "--repo_id", self.repo_id]
        parts += ["--private"] if self.private else []
        parts += ["--revision", self.revision] if self.revision != DEFAULT_BRANCH else []
        return shlex.join(parts + (["--tag", self.tag] if self.tag else []))


@dataclass(frozen=True)
class Published:
    """Result of an upload.

    Args:
        commit: Full hash of the commit.
        url: Web address of the commit.
        changed: Whether the upload made a new commit. False if the repo had all files already.
    """

    commit: str
    url: str
    changed: bool


class PublishError(RuntimeError):
    """The upload failed or is incomplete. The local folder is unchanged, and the message has the next step."""


def open_repo(target: Target, wait_s: float = 1.0):
    """Create repo and branch if they do not exist. A missing token or permission and an invalid name fail here.

    Args:
        target: The repo and branch to open.
        wait_s: Seconds before the second attempt; the pause doubles with each attempt.

    Raises:
        PublishError: The Hub refuses or cannot be reached, or the repo is public although `private` is set.
    """
    api = HfApi()
    try:
        _retry(
            lambda: api.create_repo(target.repo_id, private=target.private or None, exist_ok=True), "the repo", wait_s
        )
        if target.private and not _retry(lambda: api.repo_info(target.repo_id), "the repo", wait_s).private:
            raise PublishError(
                f"{target.repo_id} exists and is public, but --private is set. Make it private in its settings, "
                "choose another --repo_id, or leave --private out."
            )
        if target.revision != DEFAULT_BRANCH:
            _retry(lambda: api.create_branch(target.repo_id, branch=target.revision, exist_ok=True), "branch", wait_s)
    except (OSError, ValueError) as error:
        raise PublishError(f"cannot open {target.repo_id} on the Hub: {_message(error)}") from error


def upload(folder: str | Path, target: Target, message: str = "Publish the model", wait_s: float = 1.0) -> Published:
    """Upload the publishable files of a folder in one commit.

    Files that the repo has already are not sent again. Files that an earlier upload sent and the folder no longer has
    are deleted. All other files of the repo are kept.

    Args:
        folder: A finished Hub folder.
        target: The repo, branch and tag to upload to.
        message: Message of the commit.
        wait_s: Seconds before the second attempt; the pause doubles with each attempt.

    Returns:
        The commit that holds the files.

    Raises:
        PublishError: The upload failed; the message has the command that repeats it.
        ValueError: The folder is incomplete, or a file has a secret in it.
    """
    contents = list_contents(folder)
    api = HfApi()
    open_repo(target, wait_s)
    try:
        published = _retry(lambda: _commit(api, contents, target, message), f"{len(contents)} files", wait_s)
        if target.tag is not None:
            _retry(lambda: _tag(api, target.repo_id, str(target.tag), published.commit), f"tag {target.tag}", wait_s)
    except (OSError, ValueError) as error:
        raise PublishError(
            f"the upload of {folder} to {target.repo_id} failed: {_message(error)}\nThe folder is complete and "
            f"unchanged. To repeat the upload, run:\n  {target.command(folder)}"
        ) from error
    return published


def _commit(api: HfApi, contents: list[Content], target: Target, message: str) -> Published:
    """Make one attempt. If an earlier attempt succeeded and only its response was lost, no second commit is made."""
    parent = api.repo_info(target.repo_id, revision=target.revision).sha
    remote = api.list_repo_files(target.repo_id, revision=target.revision)
    local = {content.path for content in contents}
    additions = [
        # new objects for each attempt: create_commit marks those that it has sent
        CommitOperationAdd(content.path, content.file if content.text is None else content.text.encode())
        for content in contents
    ]
    deletions = [CommitOperationDelete(path) for path in remote if path not in local and is_publishable(path)]
    commit = api.create_commit(
        target.repo_id,
        [*deletions, *additions],
        commit_message=message,
        revision=target.revision,
        parent_commit=parent,
    )
    return Published(commit.oid, commit.commit_url, changed=commit.oid != parent)


def _tag(api: HfApi, repo_id: str, tag: str, commit: str):
    tags = {each.name: each.target_commit for each in api.list_repo_refs(repo_id).tags}
    if tag not in tags:
        api.create_tag(repo_id, tag=tag, revision=commit)
    elif tags[tag] != commit:
        raise ValueError(
            f"tag {tag} is already on commit {tags[tag][:12]} and is not moved, since users may have pinned it. The "
            f"files are uploaded as commit {commit[:12]}. Choose another --tag."
        )


def _retry(call: Callable[[], Result], what: str, wait_s: float) -> Result:
    """Repeat a call with growing pauses while its failure is temporary: a server error or a lost connection."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except Exception as error:
            if attempt == ATTEMPTS or not _is_temporary(error):
                raise _as_os_error(error) from error
            logger.warning("%s: %s; attempt %d of %d in %.0f s", what, _message(error), attempt + 1, ATTEMPTS, wait_s)
        time.sleep(wait_s)
        wait_s *= 2
    raise AssertionError("not reached")


def _is_temporary(error: Exception) -> bool:
    """Whether a repeated call can succeed."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code if error.response is not None else 500
        return status in (408, 412, 429) or status >= 500  # 412: another commit was made meanwhile
    return _is_transport_error(error)


def _is_transport_error(error: Exception) -> bool:
    # the class is compared by name: it comes from httpx or httpx2, depending on the version of huggingface_hub
    return isinstance(error, ConnectionError) or "TransportError" in {base.__name__ for base in type(error).__mro__}


def _as_os_error(error: Exception) -> Exception:
    return OSError(_message(error)) if _is_transport_error(error) else error


def _message(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
