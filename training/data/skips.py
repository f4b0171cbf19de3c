"""What was skipped and why, with a limit that stops the run."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from training.data.batch import EXPECTED_CAUSES

COUNTS = ("samples", "captions", "usable", "damaged")  # counters of a stream
MIN_SEEN = 200  # number of samples of a stream before the share of skipped ones is checked


class SkipError(ValueError):
    """Raised if too large a share of the data was skipped."""


@dataclass(kw_only=True)
class _Captions:
    """Counts usable and unusable captions, so that a damaged column of one language is noticed.

    Args:
        max_share: Largest share of rows, and of the captions of a language, that may be skipped or damaged, 0..1.
        captions: Number of unusable or truncated captions, by cause and language. Their rows may have other captions
            and are not skipped.
        usable: Number of usable captions, by language.
        damaged: Number of unusable captions, without missing and empty ones and those in the wrong script.
    """

    max_share: float
    captions: Counter[str] = field(default_factory=Counter)
    usable: Counter[str] = field(default_factory=Counter)
    damaged: Counter[str] = field(default_factory=Counter)

    def add_captions(self, language: str, num_usable: int, causes: Sequence[str]):
        """Count the captions of a cell: the usable ones, and the cause of each other one."""
        self.captions.update(f"{cause} ({language})" for cause in causes)
        num_damaged = sum(cause not in EXPECTED_CAUSES for cause in causes)
        for counts, number in ((self.usable, num_usable), (self.damaged, num_damaged)):
            if number:  # an entry of 0 would differ between a resumed run and an unbroken one
                counts[language] += number

    def check_languages(self, least: int = 0):
        """Raise SkipError if too many captions of a language with at least `least` captions are damaged."""
        for language, damaged in self.damaged.items():
            total = damaged + self.usable[language]
            if total >= least and damaged > self.max_share * total:
                raise SkipError(
                    f"data: {damaged} of {total} captions in {language!r} cannot be used, more than max_skip_share="
                    f"{self.max_share}. Fix data.caption_columns.{language}, or raise data.max_skip_share."
                )

    def _list(self, samples: Counter[str]) -> str:
        text = _joined(samples) or "none skipped"
        return f"{text}; captions: {_joined(self.captions)}" if self.captions else text


def _joined(counts: Counter[str]) -> str:
    return ", ".join(f"{cause}: {count}" for cause, count in counts.most_common())


@dataclass(kw_only=True)
class SkipReport(_Captions):
    """Counts skipped rows and unusable captions by cause.

    Args:
        total: Number of rows in the data.
        causes: Cause for each skipped row, by row number.
        num_known: Number of entries of `causes` that every process finds when it opens the data.
    """

    total: int
    causes: dict[int, str] = field(default_factory=dict)
    num_known: int = 0

    def add(self, row: int, cause: str):
        """Count a skipped row once, even if it is added again.

        Raises:
            SkipError: More than `max_share` of all rows were skipped.
        """
        self.causes.setdefault(row, cause)
        if len(self.causes) > self.max_share * self.total:
            raise SkipError(
                f"data: {len(self.causes)} of {self.total} samples were skipped ({self}), more than max_skip_share="
                f"{self.max_share}. The last was row {row}. Fix the data or raise data.max_skip_share."
            )

    def state(self) -> dict[str, Any]:
        """Return, as JSON, the rows skipped during training. Other processes and a resumed run do not know them."""
        return {"causes": list(self.causes.items())[self.num_known :]}

    def merge(self, states: Sequence[dict[str, Any]]):
        """Add the rows that other processes, or this run before it was resumed, have skipped."""
        for state in states:
            for row, cause in state["causes"]:  # the share is checked when the next one is added
                self.causes.setdefault(row, cause)

    def __str__(self) -> str:
        return self._list(Counter(self.causes.values()))


@dataclass(kw_only=True)
class StreamSkipReport(_Captions):
    """Counts skipped samples and unusable captions of a stream by cause, again in each epoch: a stream has too many
    rows to remember each. The share is checked after `MIN_SEEN` samples.

    Args:
        num_seen: Number of samples read so far.
        samples: Number of skipped samples, by cause.
    """

    num_seen: int = 0
    samples: Counter[str] = field(default_factory=Counter)

    def add(self, row: int, cause: str, source: str):
        """Count a skipped sample of the source of this name. Its row number encodes shard and offset.

        Raises:
            SkipError: More than `max_share` of the samples read were skipped.
        """
        self.samples[cause] += 1
        skipped = sum(self.samples.values())
        if self.num_seen >= MIN_SEEN and skipped > self.max_share * self.num_seen:
            raise SkipError(
                f"data: {skipped} of the {self.num_seen} samples seen so far were skipped ({self}), more than "
                f"max_skip_share={self.max_share}. The last was number {row & (1 << 32) - 1} of shard "
                f"{row >> 32 & (1 << 24) - 1} of {source!r}. Fix the data or raise data.max_skip_share."
            )

    def state(self) -> dict[str, Any]:
        """Return all counts as JSON."""
        return {"seen": self.num_seen} | {name: dict(getattr(self, name)) for name in COUNTS}

    def merge(self, states: Sequence[dict[str, Any]]):
        """Replace the counts by the sum over workers or training processes, including this one."""
        self.num_seen = sum(state["seen"] for state in states)
        for name in COUNTS:
            total: Counter[str] = Counter()
            for state in states:
                total.update(state[name])
            setattr(self, name, total)

    def __str__(self) -> str:
        text = self._list(self.samples)
        return f"{text} (of {self.num_seen} seen)" if self.samples or self.captions else text
