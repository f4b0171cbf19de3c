"""Words of the names of files and folders: one index of them in the catalog.

A Chinese character is a word of the index, as Chinese has no spaces. So a run of characters is found as a phrase, or
cut into shorter phrases. By triggers, words leave in the transaction in which their file leaves.
"""

import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

# words: of each file by its id; terms: all words of the index
TABLES = """
CREATE VIRTUAL TABLE words USING fts5(name);
CREATE VIRTUAL TABLE terms USING fts5vocab(words, row);
CREATE TRIGGER file_leaves AFTER DELETE ON files BEGIN DELETE FROM words WHERE rowid = old.id; END;
"""
ENTER_WORDS = """
INSERT OR REPLACE INTO words (rowid, name) SELECT id, name_words(path) FROM files
"""
CHARACTERS = "[\u3400-\u9fff]"  # Chinese has no spaces between words, so each character is a token
IN_WORD = "[^\\W_\u3400-\u9fff]"
RUN = re.compile(f"{CHARACTERS}+|[^\\s,;，、；\u3400-\u9fff]+")
TOKEN = re.compile(rf"{CHARACTERS}|\d+|(?:(?!\d){IN_WORD})+")
# words that no photograph is named for; a query of nothing else names no photograph
FILLER = re.compile(
    r"""an?|the|of|in|on|at|with|and|or|to|from|by|for|my|our|me|i|we|is|are|all|some
    |(?:photo(?:graph)?|picture|image|pic)s?
    |(?:[的地得了在里裡和与與跟我有是拍张張些照图圖]|[我你他她]们|一[张張]|照片|相片|[图圖]片|所有)+""",
    re.X,
)
MOST_RUNS = 16  # a query with more is a sentence, and names no photograph
MOST_CHARACTERS = 12  # a longer Chinese run is not cut into words
SHORTEST = 5  # the start of a word finds it if it has so many letters or digits,
START = 0.6  # and is so large a part of the word


@dataclass(frozen=True)
class Found:
    """What has the words of a query.

    Args:
        files: Ids of files, each with the number of scripts (Chinese and others) of which it has all words, 1 or 2.
        phrases: The words and phrases that were found, each as its words in the index, the longest first.
    """

    files: dict[int, int]
    phrases: Sequence[tuple[str, ...]]


def _cut(text: str) -> Iterator[tuple[str, int, int]]:
    """The words of a text in the form of the index, without accents, each with where it starts and ends."""
    for match in TOKEN.finditer(text):
        letters = unicodedata.normalize("NFKD", match[0].lower())
        plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
        yield unicodedata.normalize("NFC", plain), match.start(), match.end()


def name_words(path: bytes) -> str:
    """The words of a path, without the folders around the user's home."""
    below = path.removeprefix(os.path.join(os.fsencode(os.path.expanduser("~")), b""))
    text = unicodedata.normalize("NFC", below.decode("utf-8", "replace"))
    return " ".join(word for word, *_ in _cut(text))


def without_fillers(query: str) -> str:
    """A query, or nothing if it only has words such as `photos of` and `我的照片`."""
    return query if any(not FILLER.fullmatch(run) for run in RUN.findall(query.lower())) else ""


def search(
    query: str, matching: Callable[[str], set[int]], starting: Callable[[str], Sequence[str]]
) -> Found:
    """Find the files that have the words of a query in their names.

    All words of one script have to be there: a photograph with the word WiFi is found by `wifi 密码`. Fillers and
    single characters are not looked for.

    Args:
        query: What was typed.
        matching: Function that returns the ids of the files that an FTS5 expression finds.
        starting: Function that returns the words of the index that start with a text.
    """
    scripts: dict[bool, list[set[int]]] = {}
    phrases: set[tuple[str, ...]] = set()

    def look_up(*alternatives: tuple[str, ...], suffix: str = "") -> set[int]:
        ids = matching(" OR ".join(f'"{" ".join(words)}"{suffix}' for words in alternatives))
        if ids:
            phrases.update(alternatives)
        return ids

    runs = [run for run in RUN.findall(query) if not FILLER.fullmatch(run.lower())]
    for run in runs if len(runs) <= MOST_RUNS else ():
        words = tuple(word for word, *_ in _cut(unicodedata.normalize("NFC", run)))
        if len("".join(words)) < 2:
            continue
        if is_chinese := bool(re.match(CHARACTERS, run)):
            ids = _cut_phrase(words, look_up)
        elif len(words) > 1:
            ids = look_up(words, suffix="*")
        else:
            ids = look_up(*((form,) for form in _forms(words[0], starting)))
        scripts.setdefault(is_chinese, []).append(ids)
    files: dict[int, int] = {}
    for found in scripts.values():
        for each in set.intersection(*found):
            files[each] = files.get(each, 0) + 1
    longest = sorted(phrases, key=lambda words: -len("".join(words)))
    return Found(files, longest if files else ())


def _forms(word: str, starting: Callable[[str], Sequence[str]]) -> list[str]:
    """A word, its singular, its plural, and the words of the index that have it as their larger part."""
    longer = starting(word) if len(word) >= SHORTEST else ()
    starts = [longer_word for longer_word in longer if len(word) >= START * len(longer_word)]
    return list(dict.fromkeys([word, word.removesuffix("s"), f"{word}s", f"{word}es", *starts]))


def _cut_phrase(
    characters: tuple[str, ...], look_up: Callable[[tuple[str, ...]], set[int]]
) -> set[int]:
    """Ids of the files that have a run of Chinese characters, or all parts that it can be cut into.

    Each part has two characters or more, or is a filler: 旅行的照片 is cut into 旅行 and fillers.
    """
    end = len(characters)
    if end > MOST_CHARACTERS:
        return look_up(characters)
    found: list[set[int] | None] = [None]  # by the start of a part, None for all files
    for stop in range(1, end + 1):
        ids: set[int] | None = set()
        for start, before in enumerate(found):
            part = characters[start:stop]
            if before == set():
                continue
            if FILLER.fullmatch("".join(part)):
                ids = None if before is None or ids is None else ids | before
            elif len(part) > 1 and ids is not None:
                has = look_up(part)
                ids = ids | (has if before is None else has & before)
        found.append(ids)
    return found[-1] or set()


def find_in(phrases: Sequence[tuple[str, ...]], text: str) -> list[str]:
    """The words and phrases that a text has, as it writes them, each once."""
    text = unicodedata.normalize("NFC", text)
    cut = [*_cut(text)]
    found: dict[str, None] = {}
    taken: set[int] = set()
    for phrase in phrases:
        for first in range(len(cut) - len(phrase) + 1):
            places = range(first, first + len(phrase))
            *others, (word, _, end) = cut[first : places.stop]
            is_here = [each for each, *_ in others] == [*phrase[:-1]]
            is_last = word.startswith(phrase[-1]) if others else word == phrase[-1]
            if is_here and is_last and taken.isdisjoint(places):
                taken.update(places)
                found[text[cut[first][1] : end]] = None
    return [*found]
