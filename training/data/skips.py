"""What was left out, by cause."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

LEAST_SEEN = 200  # samples of a stream before their share of skips says anything


class SkipError(ValueError):
    """Too large a share of the data had to be skipped."""


def _list(samples: Counter[str], captions: Counter[str]) -> str:
    skipped = [f"{cause}: {count}" for cause, count in samples.most_common()]
    lost = [f"{cause}: {count}" for cause, count in captions.most_common()]
    return ", ".join(skipped or ["none skipped"]) + (f"; captions: {', '.join(lost)}" if lost else "")


@dataclass
class SkipReport:
    """Counts what was left out, by cause, and stops a run that leaves out too much.

    Args:
        total: samples in the source.
        max_share: largest share of them that may be skipped, 0..1.
        causes: why a sample was skipped, by row.
        captions: unusable or cut captions by cause and language; their samples may have others and go on.
        num_known: how many of `causes` everybody finds who opens the data.
    """

    total: int
    max_share: float
    causes: dict[int, str] = field(default_factory=dict)
    captions: Counter[str] = field(default_factory=Counter)
    num_known: int = 0

    def add(self, row: int, cause: str):
        """Count row number `row`, once, however often it is met.

        Raises:
            SkipError: the limit is passed.
        """
        self.causes.setdefault(row, cause)
        if len(self.causes) > self.max_share * self.total:
            raise SkipError(
                f"data: {len(self.causes)} of {self.total} samples had to be skipped ({self}), more than "
                "max_skip_share="
                f"{self.max_share}. The last was row {row}. Mend the data or raise data.max_skip_share."
            )

    def state(self) -> dict[str, Any]:
        """What was found on the way, which another process, or this run when it goes on, cannot know; as JSON."""
        return {"causes": [[row, cause] for row, cause in islice(self.causes.items(), self.num_known, None)]}

    def merge(self, states: Sequence[dict[str, Any]]):
        """Count what these met too: other processes, or this run before it stopped."""
        for state in states:
            for row, cause in state["causes"]:
                self.add(row, cause)

    def __str__(self) -> str:
        return _list(Counter(self.causes.values()), self.captions)


@dataclass
class StreamSkips:
    """The same for a stream, whose rows are too many to be remembered: a sample that is met again counts again, among
    those seen too.

    Args:
        max_share: largest share of the samples seen that may be skipped, 0..1, once they are `LEAST_SEEN`.
        seen: samples read so far.
        samples: skipped ones by cause.
        captions: unusable or cut captions by cause and language; their samples may have others and go on.
    """

    max_share: float
    seen: int = 0
    samples: Counter[str] = field(default_factory=Counter)
    captions: Counter[str] = field(default_factory=Counter)

    def add(self, row: int, cause: str, source: str):
        """Count one sample.

        Raises:
            SkipError: the limit is passed.
        """
        self.samples[cause] += 1
        skipped = sum(self.samples.values())
        if self.seen >= LEAST_SEEN and skipped > self.max_share * self.seen:
            raise SkipError(
                f"data: {skipped} of the {self.seen} samples seen so far had to be skipped ({self}), more than "
                f"max_skip_share={self.max_share}. The last was number {row & (1 << 32) - 1} of shard "
                f"{row >> 32 & (1 << 24) - 1} of {source!r}. Mend the data or raise data.max_skip_share."
            )

    def state(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return {"seen": self.seen, "samples": dict(self.samples), "captions": dict(self.captions)}

    def merge(self, states: Sequence[dict[str, Any]]):
        """Become the sum of these: of all decoding processes, or of all training processes."""
        self.seen = sum(state["seen"] for state in states)
        self.samples = sum((Counter(state["samples"]) for state in states), Counter[str]())
        self.captions = sum((Counter(state["captions"]) for state in states), Counter[str]())

    def __str__(self) -> str:
        text = _list(self.samples, self.captions)
        return f"{text} (of {self.seen} seen)" if self.samples or self.captions else text
