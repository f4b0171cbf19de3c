"""Composed sentences: the same number means the same in both languages."""

import pytest

from training.text.scenes import scenes

SENTENCES = {
    "en": [
        "a bronze statue at a table",
        "a man in sunglasses and a hat blowing bubbles in the forest",
        "an old couple sitting and talking on the grass",
        "a climber throwing a ball on a boat",
        "a teenager on his own snowboarding at night in the city",
        "a baby and fresh fruit beside a lake",
    ],
    "zh": [
        "在桌子旁有一座铜像",
        "一个戴墨镜和帽子的男人在森林里吹泡泡",
        "一对老夫妇在草地上坐着聊天",
        "一名登山者在船上扔球",
        "一个独自一人的少年在夜晚的城市里玩雪板",
        "在湖边有一个婴儿和新鲜的水果",
    ],
}


@pytest.mark.parametrize("language", SENTENCES)
def test_sentences_are_the_same_in_every_run(language):
    found = scenes(language, 1000)
    assert found[:6] == SENTENCES[language]
    assert len(set(found)) > 950
