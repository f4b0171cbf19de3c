import pytest

from training.evaluation.sets.general import general_pairs


@pytest.mark.parametrize("languages", [["en", "zh"], ["zh"], ["en"]])
def test_the_half_that_measures_is_not_the_half_for_training(languages):
    training, held_out = (general_pairs(languages, held_out=value) for value in (False, True))
    assert set(training.texts).isdisjoint(held_out.texts)
    for pairs in (training, held_out):
        assert len(pairs.first) == len(pairs.second) > 200
        assert len(set(pairs.first)) == len(set(pairs.second)) == len(pairs.first)  # one right answer for each


def test_texts_are_in_the_languages_of_the_model():
    assert general_pairs(["zh", "en"], held_out=True).languages == ("en", "zh")
    chinese = general_pairs(["zh"], held_out=True)
    assert chinese.languages == ("zh", "zh")
    assert all(name in prompt for name, prompt in zip(chinese.first, chinese.second, strict=True))
    with pytest.raises(ValueError, match="only in en and zh"):
        general_pairs(["fr"], held_out=True)
