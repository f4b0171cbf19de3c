"""Code blocks of the manual of search."""

import re

from tests.tiny import ROOT

MANUAL = (ROOT / "training" / "search" / "README.md").read_text(encoding="utf-8")


def block_under(heading: str) -> str:
    """The first Python block under a heading of the manual."""
    found = re.search(rf"^##+ {heading}\n.*?^```py\n(.*?)^```", MANUAL, re.S | re.M)
    assert found is not None, heading
    return found[1]
