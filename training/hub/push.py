"""Publishing in the course of a run: at the end, and at each save if that is asked for."""

import logging
from pathlib import Path

from training.config import TrainingRecipe
from training.hub.cards import refresh_card
from training.hub.check import check_folder
from training.hub.commit import Published, PublishError, Target, open_repo, upload

logger = logging.getLogger(__name__)


def prepare(folder: str | Path, target: Target, card: str | None = None) -> float:
    """Check a folder in a fresh process, and render its card with the results beside it.

    Args:
        folder: a finished Hub folder.
        target: where it will go; the card names it.
        card: YAML of the card; default: card.yaml in the folder, if there is one.

    Returns:
        The largest difference between an embedding's component and the one stored at training.

    Raises:
        FolderError: the folder does not load, or answers otherwise than at training.
        ValueError: the card cannot be rendered.
    """
    difference = check_folder(folder)
    refresh_card(folder, card, repo_id=target.repo_id, revision=target.tag)
    return difference


class Push:
    """What the loop is told to do with finished folders. No failure of it ends or spoils a run.

    Args:
        target: where they go; opened at once, so that a missing token or right ends the run before it begins.
        output_dir: of the run; it is published by `finish`, once training is over.
        every_save: also upload each checkpoint.

    Raises:
        PublishError: the repo cannot be opened.
    """

    def __init__(self, target: Target, output_dir: str | Path, every_save: bool = False):
        self.target, self.output_dir, self.every_save = target, Path(output_dir), every_save
        open_repo(target)

    def on_save(self, folder: Path):
        """Upload a checkpoint; a failure is a warning, for the next one makes up for it."""
        if not self.every_save or folder == self.output_dir:
            return
        try:
            upload(folder, self.target, f"Training in progress, {folder.name}")
        except (PublishError, ValueError) as error:
            logger.warning("%s\nTraining goes on.", error)

    def finish(self) -> Published:
        """Publish the finished model.

        Raises:
            PublishError: it is not on the Hub; the message names the command that repeats the upload.
        """
        try:
            prepare(self.output_dir, self.target)
            return upload(self.output_dir, self.target)
        except ValueError as error:  # the folder's own fault
            raise PublishError(
                f"{self.output_dir} was not published: {error}\nOnce that is mended:\n"
                f"  {self.target.command(self.output_dir)}"
            ) from error


def open_push(recipe: TrainingRecipe, is_main: bool) -> Push | None:
    """What a recipe asks to be published; None where it asks for nothing, and beside the main process.

    Raises:
        PublishError: the repo cannot be opened.
    """
    if not (recipe.push_to_hub and is_main):
        return None
    target = Target(repo_id=str(recipe.hub_model_id), private=recipe.hub_private_repo)
    return Push(target, recipe.output_dir, every_save=recipe.hub_strategy == "every_save")
