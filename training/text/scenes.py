"""Sentences like captions in English and Chinese: who does what, or what there is, and where."""

import json
from pathlib import Path

import numpy as np

from training.utils.keys import keyed_uniform

FORMS = {
    "en": ("{who} {does} {where}", "{who} and {what} {where}", "{what} {where}"),
    "zh": ("{who}{where}{does}", "{where}有{who}和{what}", "{where}有{what}"),
}
FORM_SHARES = (0.7, 0.85)  # where the second and the third form begin


def scenes(language: str, count: int) -> list[str]:
    """Compose sentences.

    Args:
        language: `en` or `zh`. Sentences of the same number mean the same.
        count: Number of sentences; of 1,000, about 20 are equal to others.
    """
    parts = json.loads((Path(__file__).parent / "scenes.json").read_text(encoding="utf-8"))
    sentences = []
    for form, *draws in keyed_uniform(0, np.arange(count), num=1 + len(parts)).tolist():
        chosen = {}
        for (name, choices), draw in zip(parts.items(), draws, strict=True):
            chosen[name] = choices[int(draw * len(choices))][language]
        pattern = FORMS[language][np.searchsorted(FORM_SHARES, form)]
        sentences.append(pattern.format(**chosen))
    return sentences
