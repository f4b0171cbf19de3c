"""Try every bad input that we know, and print how many of each class end well.

    python -m tests.campaign                            all cases, and rewrite tests/campaign/results.json and table.md
    python -m tests.campaign --groups recipes endpoint  some classes; rewrites their rows

The exit code is 1 if a case ends badly: with an unclear error, silently, with lost files, a hang or a hole.
"""

import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from tests.campaign.cases import all_cases
from tests.campaign.outcome import FAULTS, OUTCOMES, judge
from training.utils.cli import parse_options
from training.utils.results import markdown_table

HERE = Path(__file__).parent
RESULTS_FILE, TABLE_FILE = HERE / "results.json", HERE / "table.md"


@dataclass(frozen=True, kw_only=True)
class CampaignOptions:
    """Options of the campaign.

    Args:
        groups: Classes to try. Default: all.
    """

    groups: list[str] = field(default_factory=list)


def table(counts: dict[str, dict[str, int]]) -> str:
    """Render the counts of each class as a Markdown table, with their sum in the last row."""
    total = Counter[str]()
    lines = [["class", "tried", *OUTCOMES], ["---", *["---:"] * (1 + len(OUTCOMES))]]
    for group, outcomes in counts.items():
        total.update(outcomes)
        lines.append(_line(group, outcomes))
    return markdown_table([*lines, _line("all", total)])


def _line(group: str, outcomes: dict[str, int]) -> list[str]:
    return [group, str(sum(outcomes.values())), *(str(outcomes.get(outcome, 0)) for outcome in OUTCOMES)]


def main(argv: list[str] | None = None) -> int:
    """Parse, try, print; return the number of faults."""
    options = parse_options(CampaignOptions, argv, prog="python -m tests.campaign", description=__doc__ or "")
    cases = [case for case in all_cases() if not options.groups or case.group in options.groups]
    counts: dict[str, Counter[str]] = {}
    faults = []
    for case in tqdm(cases, desc="campaign", unit="case"):
        outcome, message = judge(case)
        counts.setdefault(case.group, Counter())[outcome] += 1
        if outcome in FAULTS:
            faults.append(f"{outcome}: {case.group}, {case.name}: {message[:300]}")
    print("\n".join(faults))
    print(table(counts))
    store(counts)
    return len(faults)


def store(counts: dict[str, Counter[str]]):
    """Write the counts of the tried classes to the committed table, beside those of the others."""
    before = json.loads(RESULTS_FILE.read_text(encoding="utf-8"))
    groups = dict.fromkeys(case.group for case in all_cases())
    content = {group: counts.get(group, before.get(group)) for group in groups if group in counts or group in before}
    RESULTS_FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    TABLE_FILE.write_text(f"Written by `python -m tests.campaign`.\n\n{table(content)}\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(bool(main()))
