"""Publish during a training run: at the end, and at each save if the recipe says so.

Checkpoints are uploaded in the background, so that a Hub that answers slowly or with errors does not stop training.
"""

import logging
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from training.config import TrainingRecipe
from training.hub.cards import refresh_card
from training.hub.check import check_folder
from training.hub.commit import Published, PublishError, Target, open_repo, upload
from training.utils.files import scratch_folder

logger = logging.getLogger(__name__)


def prepare(folder: str | Path, target: Target, card: str | None = None) -> float:
    """Check a folder in a fresh process, and render its card with the results in the folder.

    Args:
        folder: A finished Hub folder.
        target: Repo that the folder is published to; the card names it.
        card: Path of the card's YAML. Default: `card.yaml` in the folder, if there is one.

    Returns:
        The largest absolute difference between an embedding component and the value stored at training.

    Raises:
        FolderError: The folder does not load, or its embeddings differ from those at training.
        ValueError: The card cannot be rendered.
    """
    difference = check_folder(folder)
    refresh_card(folder, card, repo_id=target.repo_id, revision=target.tag)
    return difference


def _link(source: str, target: str):
    """Link a file, or copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


class Push:
    """Callbacks that publish folders during a run. A failed upload of a checkpoint does not stop the run.

    Args:
        target: Repo that the folders are published to. It is opened at once, so that a missing token or permission
            is reported before training starts.
        output_dir: Output folder of the run; `finish` publishes it after training.
        every_save: Whether each checkpoint is uploaded too.

    Raises:
        PublishError: The repo cannot be opened.
    """

    def __init__(self, target: Target, output_dir: str | Path, every_save: bool = False):
        self.target, self.output_dir, self.every_save = target, Path(output_dir), every_save
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="push")
        self._running: Future[None] | None = None
        self._num_left_out = 0
        open_repo(target)

    def on_save(self, folder: Path):
        """Upload a checkpoint in the background.

        While an earlier upload is under way, the checkpoint is left out. A failure is logged as a warning. In both
        cases the next upload sends the files that are missing.
        """
        if not self.every_save or folder == self.output_dir:
            return
        if self._running is not None and not self._running.done():
            self._num_left_out += 1
            return
        # links keep the files while they are sent, although the run removes old checkpoints
        stack = ExitStack()
        copy = stack.enter_context(scratch_folder(self.output_dir / f"push-{folder.name}"))
        try:
            shutil.copytree(folder, copy, copy_function=_link, dirs_exist_ok=True)
        except OSError as error:
            stack.close()
            logger.warning("%s was not uploaded: %s\nTraining continues.", folder.name, error)
            return
        self._running = self._pool.submit(self._upload_checkpoint, copy, folder.name, stack)

    def _upload_checkpoint(self, copy: Path, name: str, stack: ExitStack):
        """Upload the copy of a checkpoint, and remove the copy."""
        with stack:
            try:
                upload(copy, self.target, f"Training in progress, {name}")
            except (PublishError, ValueError, OSError) as error:
                logger.warning("%s\nTraining continues.", error)

    def wait(self):
        """Wait for the upload that is under way."""
        if self._running is not None:
            self._running.result()

    def finish(self) -> Published:
        """Publish the finished model.

        Returns:
            The commit on the Hub.

        Raises:
            PublishError: The upload failed; the message has the command that repeats it.
        """
        self.wait()
        if self._num_left_out:
            logger.warning("%d checkpoints were not uploaded, because earlier uploads took long.", self._num_left_out)
        try:
            prepare(self.output_dir, self.target)
            return upload(self.output_dir, self.target)
        except ValueError as error:  # the folder is not fit to be published
            raise PublishError(
                f"{self.output_dir} was not published: {error}\nWhen this is fixed, run:\n"
                f"  {self.target.command(self.output_dir)}"
            ) from error


def open_push(recipe: TrainingRecipe, is_main: bool) -> Push | None:
    """The `Push` that a recipe describes.

    Args:
        recipe: Recipe of the run.
        is_main: Whether this is the main process; the other processes publish nothing.

    Returns:
        The `Push`; None if the recipe publishes nothing or this is not the main process.

    Raises:
        PublishError: The repo cannot be opened.
    """
    if not (recipe.push_to_hub and is_main):
        return None
    target = Target(repo_id=str(recipe.hub_model_id), private=recipe.hub_private_repo)
    return Push(target, recipe.output_dir, every_save=recipe.hub_strategy == "every_save")
