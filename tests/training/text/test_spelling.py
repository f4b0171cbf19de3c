import pytest

from training.text.spelling import ignore_case, simplified_pieces, space_separators

LOWERCASE = {"type": "Lowercase"}
NFKC = {"type": "NFKC"}
UNDERSCORE = {"type": "Replace", "pattern": {"String": "_"}, "content": " "}
HYPHEN = {"type": "Replace", "pattern": {"String": "-"}, "content": " "}


@pytest.mark.parametrize(
    ("normalizer", "steps"),
    [
        (None, [LOWERCASE]),
        (NFKC, [NFKC, LOWERCASE]),
        ({"type": "Sequence", "normalizers": [NFKC]}, [NFKC, LOWERCASE]),
    ],
)
def test_lower_case_is_the_last_step_of_the_normalizer(normalizer, steps):
    pipeline = {"normalizer": normalizer, "model": {}}
    assert ignore_case(pipeline) == {"normalizer": {"type": "Sequence", "normalizers": steps}, "model": {}}
    assert pipeline["normalizer"] == normalizer


@pytest.mark.parametrize(
    "normalizer",
    [LOWERCASE, {"type": "Sequence", "normalizers": [LOWERCASE]}, {"type": "BertNormalizer", "lowercase": True}],
)
def test_a_pipeline_that_ignores_case_stays_the_same(normalizer):
    assert ignore_case({"normalizer": normalizer}) == {"normalizer": normalizer}


@pytest.mark.parametrize("normalizer", [None, NFKC, {"type": "Sequence", "normalizers": [NFKC]}])
def test_separators_are_replaced_first_and_once(normalizer):
    pipeline = space_separators({"normalizer": normalizer, "model": {}})
    steps = [UNDERSCORE, HYPHEN] if normalizer is None else [UNDERSCORE, HYPHEN, NFKC]
    assert pipeline == {"normalizer": {"type": "Sequence", "normalizers": steps}, "model": {}}
    assert space_separators(pipeline) is pipeline


def test_a_pipeline_that_reads_underscores_learns_to_read_hyphens():
    pipeline = space_separators({"normalizer": {"type": "Sequence", "normalizers": [UNDERSCORE, NFKC]}, "model": {}})
    assert pipeline["normalizer"]["normalizers"] == [HYPHEN, UNDERSCORE, NFKC]


def test_traditional_pieces_are_matched_to_simplified_ones():
    pieces = ["<s>", "猫", "▁dog", "貓", "▁小貓", "▁小猫", "龍", "山"]
    assert simplified_pieces(pieces) == {3: 1, 4: 5}  # the simplified form of 龍 is no piece
