"""The campaign of bad inputs: all fast cases, some of the others, and the committed table."""

import json

import pytest

from tests.campaign.__main__ import RESULTS_FILE, TABLE_FILE, table
from tests.campaign.cases import all_cases
from tests.campaign.outcome import CLEAR, FAULTS, HANG, LOST, RIGHT, SILENT, UNCLEAR, Case, Lost, judge

CASES = all_cases()
PARSED = ("types of recipes", "recipe files", "options of recipes")  # parsing a recipe takes a quarter of a second
EVERY = 8


def test_no_case_ends_badly():
    slow = [case for case in CASES if case.group in PARSED]
    tried = [case for case in CASES if case.group not in PARSED] + slow[::EVERY]
    found = {f"{case.group}, {case.name}": judge(case) for case in tried}
    assert not {name: outcome for name, outcome in found.items() if outcome[0] in FAULTS}


def test_the_committed_table_is_of_these_cases_and_has_no_fault():
    counts = json.loads(RESULTS_FILE.read_text(encoding="utf-8"))
    groups = dict.fromkeys(case.group for case in CASES)
    tried = {group: sum(case.group == group for case in CASES) for group in groups}
    assert {group: sum(outcomes.values()) for group, outcomes in counts.items()} == tried
    assert sum(tried.values()) >= 700
    assert not [group for group, outcomes in counts.items() if any(outcomes.get(fault) for fault in FAULTS)]
    assert table(counts) in TABLE_FILE.read_text(encoding="utf-8")


def _raise(error: BaseException):
    raise error


@pytest.mark.parametrize(
    ("run", "expected", "outcome"),
    [
        (lambda folder: None, RIGHT, RIGHT),
        (lambda folder: None, CLEAR, SILENT),
        (lambda folder: _raise(ValueError("data: none. Name one.")), CLEAR, CLEAR),
        (lambda folder: _raise(ValueError("data: none. Name one.")), RIGHT, UNCLEAR),
        (lambda folder: _raise(ValueError("expected str, got 5")), CLEAR, UNCLEAR),
        (lambda folder: _raise(KeyError("data")), CLEAR, UNCLEAR),
        (lambda folder: _raise(Lost("README.md")), CLEAR, LOST),
    ],
)
def test_outcomes_are_told_apart(run, expected, outcome):
    assert judge(Case("group", "name", run, expected))[0] == outcome


def test_a_hang_is_ended(monkeypatch):
    monkeypatch.setattr("tests.campaign.outcome.LIMIT_S", 1)

    def run(folder):
        while True:
            pass

    assert judge(Case("group", "name", run, RIGHT))[0] == HANG
