"""What was left out, by cause."""

from collections import Counter
from dataclasses import dataclass, field


class SkipError(ValueError):
    """Too large a share of the data had to be skipped."""


@dataclass
class SkipReport:
    """Counts what was left out, by cause, and stops a run that leaves out too much.

    Args:
        total: samples in the source.
        max_share: largest share of them that may be skipped, 0..1.
        causes: why a sample was skipped, by row.
        captions: unusable or cut captions by cause and language; their samples may have others and go on.
    """

    total: int
    max_share: float
    causes: dict[int, str] = field(default_factory=dict)
    captions: Counter[str] = field(default_factory=Counter)

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

    def __str__(self) -> str:
        samples = [f"{cause}: {count}" for cause, count in Counter(self.causes.values()).most_common()]
        captions = [f"{cause}: {count}" for cause, count in self.captions.most_common()]
        return ", ".join(samples or ["none skipped"]) + (f"; captions: {', '.join(captions)}" if captions else "")
