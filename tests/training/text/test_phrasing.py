"""Captions in other words: keyed, of the asked share, and with the whole caption inside a request."""

from training.text.phrasing import REQUESTS, reword

ENGLISH, CHINESE = "A brown dog runs .", "一只棕色的狗在跑。"


def test_a_share_of_the_captions_is_reworded_the_same_way_for_the_same_keys():
    def reworded(epoch: int) -> list[str]:
        return [reword(ENGLISH, "en", 0.3, number, epoch) for number in range(2000)]

    assert 0.67 < reworded(1).count(ENGLISH) / 2000 < 0.73
    assert reworded(1) == reworded(1) != reworded(2)


def test_requests_hold_the_caption_without_its_period():
    requests = {request.format("a brown dog runs") for request in REQUESTS["en"]}
    found = {reword(ENGLISH, "en", 1.0, number) for number in range(1000)}
    # two letters swapped, one missing, one doubled
    mistyped = {"A brwon dog runs .", "A bown dog runs .", "A bbrown dog runs ."}
    assert requests | mistyped <= found


def test_chinese_captions_become_requests_or_get_spaces():
    requests = {request.format("一只棕色的狗在跑") for request in REQUESTS["zh"]}
    found = {reword(CHINESE, "zh", 1.0, number) for number in range(1000)}
    assert found == requests | {" ".join(CHINESE)}


def test_captions_in_other_languages_stay():
    assert {reword("Ein Hund", "de", 1.0, number) for number in range(50)} == {"Ein Hund"}


def test_short_words_and_abbreviations_keep_their_letters():
    found = {reword("TV", "en", 1.0, number) for number in range(200)}
    assert found == {request.format("TV") for request in REQUESTS["en"]} | {"TV"}
