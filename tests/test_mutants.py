"""The draw of faults of `python -m tests.mutants`."""

from itertools import islice

import pytest

from tests.mutants import ROOT, draw, mirror, mutations_of


@pytest.fixture(scope="module")
def faults():
    return list(islice(draw(1), 5))


@pytest.mark.slow
def test_a_draw_depends_on_the_seed_only(faults):
    assert list(islice(draw(1), 5)) == faults
    assert next(draw(2)) != faults[0]


@pytest.mark.slow
def test_a_fault_is_other_code_that_compiles(faults):
    for fault in faults:
        assert fault.content != (ROOT / fault.file).read_text(encoding="utf-8")
        compile(fault.content, fault.file, "exec")


def test_messages_and_prose_are_not_mutated():
    _, kinds = mutations_of("training/utils/files.py")
    strings = [mutation.original_node.value for mutation in kinds["SimpleString"]]
    assert strings and not any(" " in each for each in strings)


def test_a_file_is_tested_by_its_twin_and_then_by_its_room():
    room = "tests/training/tasks"
    assert mirror("training/tasks/losses.py") == [f"{room}/test_losses.py", room]
