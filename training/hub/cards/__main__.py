"""Render the committed cards of the published models from their results.

python -m training.hub.cards                    all cards
python -m training.hub.cards --names demo tiny  some of them
"""

from dataclasses import dataclass, field

from training.utils.cli import parse_options, user_errors


@dataclass(frozen=True, kw_only=True)
class CardsOptions:
    """Options of the command.

    Args:
        names: Names of the YAML files under model_cards/cards, without their suffix; none renders all.
    """

    names: list[str] = field(default_factory=list)


def main(argv: list[str] | None = None):
    """Parse the options, render the cards, print the paths of the files."""
    options = parse_options(CardsOptions, argv, prog="python -m training.hub.cards", description=__doc__)
    with user_errors("cards", extra="train"):
        # after parsing, so that --help answers without PyTorch
        from training.hub.cards.published import list_published, write_published

        for path in write_published(options.names or list_published()):
            print(path)


if __name__ == "__main__":
    main()
