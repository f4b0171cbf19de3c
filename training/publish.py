"""Publish a finished folder on the Hub: check it, write its card, upload it in one commit.

python training/publish.py runs/demo/model --repo_id me/dcclip-demo --private --tag v0.1.0

The access token comes from `hf auth login`, or from HF_TOKEN.
"""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path

from training.utils.cli import hide_library_bars, parse_options, user_errors
from training.utils.ranges import GitName, HubId


@dataclass(frozen=True, kw_only=True)
class PublishOptions:
    """What to publish. The access token is not an option, so that it is not in the shell history.

    Args:
        folder: Finished model folder, as training/distill.py and training/align.py write it.
        repo_id: Id of the repo on the Hub, NAMESPACE/NAME. It is created if it does not exist.
        private: Make a new repo private. An existing repo must be private already; without this option it stays as
            it is.
        revision: Branch of the commit. It is created if it does not exist.
        tag: Tag of the commit, which the examples of the card pin.
        message: Message of the commit.
        allow_changed_code: Publish code files that differ from this package's. They run where the model is loaded.
        dry_run: Check the folder and print the files, without uploading or writing anything.
    """

    folder: str
    repo_id: HubId
    private: bool = False
    revision: GitName = "main"
    tag: GitName | None = None
    message: str = "Publish the model"
    allow_changed_code: bool = False
    dry_run: bool = False


def publish_folder(options: PublishOptions):
    """Check the folder, print its files, and, unless it is a dry run, upload them.

    Raises:
        ValueError: The folder cannot be published.
        PublishError: The upload failed.
    """
    # not at the top, so that --help answers at once
    from training.hub import Target, list_files, prepare, upload

    folder, tag = Path(options.folder), options.tag
    target = Target(
        repo_id=options.repo_id, private=options.private, revision=options.revision, tag=tag
    )
    difference = prepare(folder, target, options.allow_changed_code, options.dry_run)
    print(
        f"{folder} loads without this package; largest difference of its embeddings: {difference:.1g}"
    )
    total = 0
    for path in list_files(folder):
        size = (folder / path).stat().st_size
        total += size
        print(f"{size:>14,}  {path}")
    where = f"{options.repo_id} ({options.revision}{f', tag {tag}' if tag else ''})"
    print(f"{total:>14,}  bytes {'would go' if options.dry_run else 'go'} to {where}")
    if options.dry_run:
        return
    published = upload(folder, target, options.message)
    print(
        f"{'published' if published.changed else 'no changes since'}: {published.url}\n"
        f'AutoModel.from_pretrained("{options.repo_id}", revision="{tag or published.commit}", trust_remote_code=True)'
    )


def main(argv: list[str] | None = None):
    """Parse the options and publish."""
    options = parse_options(
        PublishOptions,
        argv,
        prog="python training/publish.py",
        description=__doc__,
        positional=("folder",),
    )
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with user_errors("publish", extra="train"):
        hide_library_bars()
        from training.hub import PublishError

        try:
            publish_folder(options)
        except PublishError as error:
            sys.exit(f"publish: {error}")  # exit code 1: the options are valid


if __name__ == "__main__":
    main()
