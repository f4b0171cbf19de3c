"""The list of faults of `python -m tests.mutants` fits the code and the tests."""

from tests.mutants import ROOT, read_faults


def test_every_fault_changes_its_file_and_names_tests_that_exist():
    for fault in read_faults():
        text = (ROOT / fault.file).read_text(encoding="utf-8")
        assert fault.mutate(text) != text, fault.fault
        for name in filter(lambda each: each.startswith("tests"), fault.tests.split()):
            path, _, test = name.partition("::")
            assert (ROOT / path).is_dir() or f"def {test}" in (ROOT / path).read_text(encoding="utf-8"), name
