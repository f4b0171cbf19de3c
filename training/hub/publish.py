"""Publish a finished folder on the Hub: check it, write its card, upload it in one commit, with retries.

`HfApi.upload_folder` does not do the same job: with hf_xet installed it splits a folder into several commits, and the
`*` of its `delete_patterns` also matches `/`, so it would delete files that others put into subfolders.
"""

import logging
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from training.config import TrainingRecipe
from training.hub.cards import write_card
from training.hub.check import check_folder
from training.hub.files import published
from training.hub.folder import changed_code, list_files
from training.utils.cli import one_line

logger = logging.getLogger(__name__)
ATTEMPTS = 5
DEFAULT_BRANCH = "main"
TEMPORARY = (408, 412, 429)  # 412: another commit was made meanwhile
FAILURES = (OSError, ValueError, HTTPError)
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Target:
    """The repo, branch and tag that a folder is published to.

    Args:
        repo_id: Id of the repo on the Hub, NAMESPACE/NAME.
        private: Whether a new repo is private, and an existing one must be. If False, an existing repo stays as it is.
        revision: Branch of the commit, created if it does not exist.
        tag: Tag of the commit. A tag that exists is never moved. None sets no tag.
    """

    repo_id: str
    private: bool = False
    revision: str = DEFAULT_BRANCH
    tag: str | None = None

    def command(self, folder: str | Path) -> str:
        """The command that publishes a folder to this target."""
        parts = ["python", "training/publish.py", str(folder), "--repo_id", self.repo_id]
        if self.private:
            parts.append("--private")
        if self.revision != DEFAULT_BRANCH:
            parts += ["--revision", self.revision]
        if self.tag:
            parts += ["--tag", self.tag]
        return shlex.join(parts)


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


class PublishError(OSError):
    """The upload failed or is incomplete. The local folder is unchanged, and the message has the next step."""


def check_push(recipe: TrainingRecipe):
    """Open the repo of a recipe with `push_to_hub` before training, so that a missing token or right fails at once.

    Raises:
        PublishError: The repo cannot be opened.
    """
    if recipe.push_to_hub:
        open_repo(_target(recipe))


def push(recipe: TrainingRecipe):
    """Publish `output_dir` of a recipe with `push_to_hub`, after training.

    Raises:
        PublishError: The folder cannot be published, or the upload failed; the message has the command that repeats
            it.
    """
    if not recipe.push_to_hub:
        return
    target = _target(recipe)
    try:
        prepare(recipe.output_dir, target)
        upload(recipe.output_dir, target)
    except ValueError as error:
        raise PublishError(
            f"{recipe.output_dir} was not published: {error}\nWhen this is fixed, run:\n"
            f"  {target.command(recipe.output_dir)}"
        ) from error


def prepare(
    folder: str | Path, target: Target, allow_changed_code: bool = False, dry_run: bool = False
) -> float:
    """Check a folder, and refresh its card for the target.

    Args:
        folder: A finished model folder.
        target: The repo, branch and tag that the card names.
        allow_changed_code: Whether its code may differ from this package's.
        dry_run: Whether to leave the card as it is.

    Returns:
        The largest difference between its embeddings and this package's, see `check_folder`.

    Raises:
        ValueError: The folder must not be published.
    """
    list_files(folder)  # an incomplete folder is found at once, and loading takes seconds
    if (changed := changed_code(folder)) and not allow_changed_code:
        raise ValueError(
            f"folder: {', '.join(changed)} in {str(folder)!r} differ from this package's code, and would run where "
            "the model is loaded. Copy the files of modeling_dcclip/, or add --allow_changed_code."
        )
    difference = check_folder(folder)
    if not dry_run:
        write_card(folder, repo_id=target.repo_id, revision=target.tag or target.revision)
    return difference


def _target(recipe: TrainingRecipe) -> Target:
    return Target(repo_id=str(recipe.hub_model_id), private=recipe.hub_private_repo)


def open_repo(target: Target):
    """Create repo and branch if they do not exist. A missing token or permission and an invalid name fail here.

    Raises:
        PublishError: The Hub refuses or cannot be reached, or the repo is public although `private` is set.
    """
    try:
        _retry(lambda: _open(HfApi(), target), "the repo")
    except FAILURES as error:
        raise PublishError(f"cannot open {target.repo_id} on the Hub: {one_line(error)}") from error


def _open(api: HfApi, target: Target):
    api.create_repo(target.repo_id, private=target.private or None, exist_ok=True)
    if target.private and not api.repo_info(target.repo_id).private:
        raise ValueError(
            "it exists and is public, but --private is set. Make it private in its settings, choose another "
            "--repo_id, or leave --private out."
        )
    if target.revision != DEFAULT_BRANCH:
        api.create_branch(target.repo_id, branch=target.revision, exist_ok=True)


def upload(folder: str | Path, target: Target, message: str = "Publish the model") -> Published:
    """Upload the publishable files of a folder in one commit.

    Files that the repo has already are not sent again. Files that an earlier upload sent and the folder no longer has
    are deleted. All other files of the repo are kept.

    Args:
        folder: A finished model folder.
        target: The repo, branch and tag to upload to.
        message: Message of the commit.

    Returns:
        The commit that holds the files.

    Raises:
        PublishError: The upload failed; the message has the command that repeats it.
        ValueError: The folder is incomplete, or a file must not be published.
    """
    paths = list_files(folder)
    api = HfApi()
    open_repo(target)
    try:
        published = _retry(
            lambda: _commit(api, Path(folder), paths, target, message), f"{len(paths)} files"
        )
        if target.tag is not None:
            _retry(
                lambda: _tag(api, target.repo_id, str(target.tag), published.commit),
                f"tag {target.tag}",
            )
    except FAILURES as error:
        raise PublishError(
            f"the upload of {folder} to {target.repo_id} failed: {one_line(error)}\nThe folder is complete and "
            f"unchanged. To repeat the upload, run:\n  {target.command(folder)}"
        ) from error
    return published


def _commit(
    api: HfApi, folder: Path, paths: Sequence[str], target: Target, message: str
) -> Published:
    """Make one attempt. If an earlier attempt succeeded and only its response was lost, no second commit is made."""
    parent = api.repo_info(target.repo_id, revision=target.revision).sha
    remote = api.list_repo_files(target.repo_id, revision=target.revision)
    # new objects for each attempt: create_commit marks those that it has sent
    additions = [CommitOperationAdd(path, folder / path) for path in paths]
    deletions = [CommitOperationDelete(path) for path in published(remote) if path not in paths]
    commit = api.create_commit(
        target.repo_id,
        [*deletions, *additions],
        commit_message=message,
        revision=target.revision,
        parent_commit=parent,
    )
    return Published(commit.oid, commit.commit_url, changed=commit.oid != parent)


def _tag(api: HfApi, repo_id: str, tag: str, commit: str):
    tags = {tag.name: tag.target_commit for tag in api.list_repo_refs(repo_id).tags}
    if tag not in tags:
        api.create_tag(repo_id, tag=tag, revision=commit)
    elif tags[tag] != commit:
        raise ValueError(
            f"tag {tag} is already on commit {tags[tag][:12]} and is not moved, since users may have pinned it. The "
            f"files are uploaded as commit {commit[:12]}. Choose another --tag."
        )


def _retry(call: Callable[[], Result], what: str) -> Result:
    """Repeat a call with growing pauses while its failure is temporary: a server error or a lost connection."""
    for attempt in range(1, ATTEMPTS):
        try:
            return call()
        except (ConnectionError, HTTPError) as error:
            response = error.response if isinstance(error, HfHubHTTPError) else None
            if response is not None and not (
                response.status_code >= 500 or response.status_code in TEMPORARY
            ):
                raise
            wait_s = 2.0 ** (attempt - 1)
            logger.warning("%s: %s; attempt again in %.0f s", what, one_line(error), wait_s)
        time.sleep(wait_s)
    return call()
