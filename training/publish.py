"""Publish a finished folder on the Hub: check it, render its card, send it in one commit.

python training/publish.py runs/demo/model --repo_id me/dcclip-demo --private --tag v0.1.0
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from jsonargparse import ArgumentError, ArgumentParser

from training.hub import Published, PublishError, Target, check_folder, list_contents, prepare, upload
from training.hub.cards import find_details


@dataclass(frozen=True, kw_only=True)
class PublishOptions:
    """What goes where. The token is that of `hf auth login`, or HF_TOKEN; it is no option, so that it stands in no
    history.

    Args:
        repo_id: NAMESPACE/NAME on the Hub; made if it is not there.
        private: make it private; one that exists must be.
        revision: branch to commit to; made if it is not there.
        tag: put on the commit, and pinned in the card's examples; default: the card's own.
        card: YAML of the card (see model_cards/cards); default: card.yaml in the folder, if there is one.
        message: of the commit.
        dry_run: check, and print what would go up; nothing is sent or written.
    """

    repo_id: str
    private: bool = False
    revision: str = "main"
    tag: str | None = None
    card: str | None = None
    message: str = "Publish the model"
    dry_run: bool = False


def run(folder: Path, options: PublishOptions) -> Published | None:
    """Check, list, send."""
    tag = options.tag or find_details(folder, options.card).revision
    target = Target(repo_id=options.repo_id, private=options.private, revision=options.revision, tag=tag)
    contents = list_contents(folder)  # of an incomplete folder first, since loading takes its time
    difference = check_folder(folder) if options.dry_run else prepare(folder, target, options.card)
    print(f"{folder} loads without this package; embeddings differ from training's by at most {difference:.1g}")
    for content in contents:
        print(f"{content.size:>14,}  {content.path}")
    total = sum(content.size for content in contents)
    where = f"{options.repo_id} ({options.revision}{f', tag {tag}' if tag else ''})"
    print(f"{total:>14,}  bytes in {len(contents)} files {'would go' if options.dry_run else 'go'} to {where}")
    if options.dry_run:
        return None
    published = upload(folder, target, options.message)
    print(
        f"{'published' if published.changed else 'nothing has changed since'}: {published.url}\n"
        f'AutoModel.from_pretrained("{options.repo_id}", revision="{tag or published.commit}", trust_remote_code=True)'
    )
    return published


def main(argv: list[str] | None = None):
    """Parse and run."""
    parser = ArgumentParser(
        prog="training/publish.py", description=__doc__.splitlines()[0], allow_abbrev=False, exit_on_error=False
    )
    parser.add_argument("folder", type=str, help="as training/distill.py and training/align.py leave it")
    for name in ("private", "dry_run"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_class_arguments(PublishOptions, skip={"private", "dry_run"})
    try:
        values = vars(parser.parse_args(argv))
    except ArgumentError as error:
        parser.exit(2, f"publish: {error}\n")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    folder = Path(values.pop("folder"))
    try:
        run(folder, PublishOptions(**values))
    except (PublishError, ValueError) as error:
        parser.exit(1, f"publish: {error}\n")


if __name__ == "__main__":
    main()
