"""The list of faults of `python -m tests.mutants` fits the code."""

from tests.mutants import ROOT, read_faults


def test_every_fault_changes_its_file():
    for fault in read_faults():
        text = (ROOT / fault.file).read_text(encoding="utf-8")
        assert fault.mutate(text) != text, fault.fault
        assert all(
            (ROOT / name.partition("::")[0]).exists() for name in fault.tests.split() if name.startswith("tests")
        )
