"""One commit: a checked folder goes to the Hub, as often as it takes and never twice."""

import logging
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError

from training.hub.contents import Content, list_contents, may_go

logger = logging.getLogger(__name__)
ATTEMPTS = 5
DEFAULT_BRANCH = "main"
Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a folder goes.

    Args:
        repo_id: NAMESPACE/NAME on the Hub.
        private: a new repo is private; one that exists must be.
        revision: branch to commit to; made if it is not there.
        tag: put on the commit; one that exists is never moved.
    """

    repo_id: str
    private: bool = False
    revision: str = DEFAULT_BRANCH
    tag: str | None = None

    def command(self, folder: str | Path) -> str:
        """The command that publishes a folder here."""
        parts = ["python", "training/publish.py", str(folder), "--repo_id", self.repo_id]
        parts += ["--private"] if self.private else []
        parts += ["--revision", self.revision] if self.revision != DEFAULT_BRANCH else []
        return shlex.join(parts + (["--tag", self.tag] if self.tag else []))


@dataclass(frozen=True)
class Published:
    """What an upload has left on the Hub.

    Args:
        commit: its full hash.
        url: of the commit.
        changed: whether there is a new commit; False where the repo held it all.
    """

    commit: str
    url: str
    changed: bool


class PublishError(RuntimeError):
    """Nothing, or not all, has reached the Hub; the folder is untouched, and the message says how to go on."""


def open_repo(target: Target, wait_s: float = 1.0):
    """Make repo and branch, if they are not there: what can fail for want of a token, a right or a name fails here.

    Raises:
        PublishError: the Hub refuses, is out of reach, or has a public repo of this name where a private one is
        wanted.
    """
    api = HfApi()
    try:
        _persist(
            lambda: api.create_repo(target.repo_id, private=target.private or None, exist_ok=True), "the repo", wait_s
        )
        if target.private and not _persist(lambda: api.repo_info(target.repo_id), "the repo", wait_s).private:
            raise PublishError(
                f"{target.repo_id} exists and is public, but --private was asked for. Make it private in its "
                "settings, take another --repo_id, or leave --private out."
            )
        if target.revision != DEFAULT_BRANCH:
            _persist(
                lambda: api.create_branch(target.repo_id, branch=target.revision, exist_ok=True), "branch", wait_s
            )
    except (OSError, ValueError) as error:
        raise PublishError(f"cannot open {target.repo_id} on the Hub: {_in_words(error)}") from error


def upload(folder: str | Path, target: Target, message: str = "Publish the model", wait_s: float = 1.0) -> Published:
    """Send the files of a folder that may be published in one commit. Files that the repo has are not sent again, and
    those of ours that the folder has no more are removed; what else is in the repo stays.

    Args:
        folder: a finished Hub folder.
        target: where to.
        message: of the commit.
        wait_s: seconds before the second attempt; they double with each.

    Raises:
        PublishError: the upload failed; the message names the command that repeats it.
        ValueError: the folder is not complete, or holds a token.
    """
    contents = list_contents(folder)
    api = HfApi()
    open_repo(target, wait_s)
    try:
        published = _persist(lambda: _commit(api, contents, target, message), f"{len(contents)} files", wait_s)
        if target.tag is not None:
            _persist(lambda: _tag(api, target.repo_id, str(target.tag), published.commit), f"tag {target.tag}", wait_s)
    except (OSError, ValueError) as error:
        raise PublishError(
            f"the upload of {folder} to {target.repo_id} failed: {_in_words(error)}\nThe folder is complete and "
            f"untouched. To do the upload again:\n  {target.command(folder)}"
        ) from error
    return published


def _commit(api: HfApi, contents: list[Content], target: Target, message: str) -> Published:
    """One attempt. After one whose answer got lost, the Hub has it all, and this finds nothing to do."""
    before = api.repo_info(target.repo_id, revision=target.revision).sha
    there = api.list_repo_files(target.repo_id, revision=target.revision)
    going = {content.path for content in contents}
    adds = [
        CommitOperationAdd(c.path, c.file if c.text is None else c.text.encode())  # made anew: a commit uses them up
        for c in contents
    ]
    stale = [CommitOperationDelete(path) for path in there if path not in going and may_go(path)]
    done = api.create_commit(
        target.repo_id,
        [*stale, *adds],
        commit_message=message,
        revision=target.revision,
        parent_commit=before,
    )
    return Published(done.oid, done.commit_url, changed=done.oid != before)


def _tag(api: HfApi, repo_id: str, tag: str, commit: str):
    tags = {each.name: each.target_commit for each in api.list_repo_refs(repo_id).tags}
    if tag not in tags:
        api.create_tag(repo_id, tag=tag, revision=commit)
    elif tags[tag] != commit:
        raise ValueError(
            f"tag {tag} stands on commit {tags[tag][:12]} already, and whoever pinned it relies on "
            f"that. The files are up as {commit[:12]}; give another --tag."
        )


def _persist(call: Callable[[], Answer], what: str, wait_s: float) -> Answer:
    """Call again, with growing pauses, while the failure is one that passes: a server's error, a cut connection."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except Exception as error:
            if attempt == ATTEMPTS or not passes(error):
                raise _as_os_error(error) from error
            logger.warning("%s: %s; attempt %d of %d in %.0f s", what, _in_words(error), attempt + 1, ATTEMPTS, wait_s)
        time.sleep(wait_s)
        wait_s *= 2
    raise AssertionError("not reached")


def passes(error: Exception) -> bool:
    """Whether trying again can help."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code if error.response is not None else 500
        return status in (408, 412, 429) or status >= 500  # 412: somebody else has committed meanwhile
    return _is_transport_error(error)


def _is_transport_error(error: Exception) -> bool:
    # of httpx or of httpx2, whichever this version of huggingface_hub talks through
    return isinstance(error, ConnectionError) or "TransportError" in {base.__name__ for base in type(error).__mro__}


def _as_os_error(error: Exception) -> Exception:
    return OSError(_in_words(error)) if _is_transport_error(error) else error


def _in_words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
