"""Render the committed cards of the published sizes from their results.

python -m training.hub.cards            all of them
python -m training.hub.cards demo       one
"""

import argparse

from training.hub.cards.published import list_published, write_published


def main(argv: list[str] | None = None):
    """Parse, render, name the files."""
    parser = argparse.ArgumentParser(prog="python -m training.hub.cards", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(list_published())}; default: all")
    names = parser.parse_args(argv).names or list_published()
    if unknown := sorted(set(names) - set(list_published())):
        parser.error(f"there is no card {', '.join(unknown)}; choose of {', '.join(list_published())}.")
    try:
        paths = write_published(names)
    except ValueError as error:
        parser.exit(1, f"cards: {error}\n")
    print("\n".join(str(path) for path in paths))


if __name__ == "__main__":
    main()
