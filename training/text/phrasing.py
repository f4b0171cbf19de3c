"""Rewording of captions, as people type searches: requests, typing errors, spaces between Chinese characters."""

from training.utils.keys import keyed_uniform

REQUESTS = {
    "en": (
        "a photo of {}", "photos with {}", "show me {}", "find {}", "I am looking for {}", "do you have {}?",
        "please help me find the picture of {}", "Could you find the photo where you can see {}?",
        "the photo I took last year of {}", "hey, can you find that pic of {} for me", "where is my picture of {}",
        "{} please", "{} photo", "that one with {}",
    ),
    "zh": (
        "{}的照片", "一张{}的图片", "请帮我找{}", "找一下{}", "我想看{}的照片", "有没有{}的图", "帮我找找{}那张",
        "请帮我找一下我去年拍的{}的照片", "麻烦找出{}的照片，谢谢", "把{}的图翻出来", "我要找{}", "{}在哪张照片里",
        "之前拍的{}", "{}图片",
    ),
}  # fmt: skip
REQUEST_SHARE = (
    0.7  # share of reworded captions that become requests; the others have a typing error or spaces
)


def reword(text: str, language: str, share: float, *keys: int) -> str:
    """Reword a share of the captions. The result is a pure function of the arguments.

    Args:
        text: Caption.
        language: ISO 639-1 code. A caption in a language other than `en` and `zh` is returned unchanged.
        share: Share of the captions that are reworded, 0..1.
        keys: Integers that key the random numbers, such as the id of the text and the epoch.
    """
    if language not in REQUESTS:
        return text
    draw, kind, place, which = keyed_uniform(0, *keys, num=4)[0].tolist()
    if draw >= share:
        return text
    if kind >= REQUEST_SHARE:
        return " ".join(text.replace(" ", "")) if language == "zh" else _mistype(text, place, which)
    request = REQUESTS[language][int(place * len(REQUESTS[language]))]
    text = text.strip(" .。！!")
    if language == "en" and not text[1:2].isupper():  # not an abbreviation
        text = text[:1].lower() + text[1:]
    return request.format(text)


def _mistype(text: str, place: float, which: float) -> str:
    """Swap two letters of a text, leave one out, or double one; unchanged without two letters after the first."""
    starts = [start for start in range(1, len(text) - 1) if text[start : start + 2].isalpha()]
    if not starts:
        return text
    start = starts[int(place * len(starts))]
    first = text[start]
    second = text[start + 1]
    choices = [second + first, second, first + first + second]
    return text[:start] + choices[int(which * len(choices))] + text[start + 2 :]
