"""Allowed ranges of the numbers in a recipe."""

import math
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Allowed range of a number.

    Args:
        at_least: Smallest allowed value.
        at_most: Largest allowed value.
        above: Value that the number must exceed.
        below: Value that the number must stay under.
        ceiling: Largest value that can be meant, where no `at_most` or `below` is natural.
        advice: What to do instead of a value outside the range.
    """

    at_least: float = -math.inf
    at_most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    ceiling: float = 1e9
    advice: str = ""

    def __contains__(self, value: float) -> bool:
        return self.at_least <= value <= min(self.at_most, self.ceiling) and self.above < value < self.below

    def describe(self, value: float) -> str:
        """Describe the range for a value outside it. The ceiling is named only to a value above it."""
        return f"at most {self.ceiling:,.0f}" if value > self.ceiling else str(self)

    def __str__(self) -> str:
        words = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "less than": self.below}
        return " and ".join(f"{word} {limit}" for word, limit in words.items() if math.isfinite(limit))


# by field name, for all dataclasses of a recipe
LIMITS = {
    "weight": Limits(above=0, advice="Leave the source out instead."),
    "workers": Limits(at_least=0, ceiling=1024),
    "shuffle_buffer": Limits(at_least=1, ceiling=10_000_000),
    "max_skip_share": Limits(at_least=0, at_most=1),
    "flip": Limits(at_least=0, at_most=1),
    "blur": Limits(at_least=0, at_most=1),
    "downscale": Limits(at_least=0, at_most=1),
    "mix": Limits(at_least=0, at_most=1),
    "background": Limits(at_least=0, at_most=255),
    "max_steps": Limits(at_least=1),
    "batch_size": Limits(at_least=1, ceiling=1_000_000),
    "accumulate_steps": Limits(at_least=1, ceiling=1_000_000),
    "learning_rate": Limits(at_least=0, ceiling=1e3),
    "weight_decay": Limits(at_least=0, ceiling=1e3),
    "warmup_steps": Limits(at_least=0),
    "max_grad_norm": Limits(above=0),
    "ema_decay": Limits(at_least=0, below=1),
    "log_every": Limits(at_least=1),
    "save_every": Limits(at_least=0),
    "keep_checkpoints": Limits(at_least=1),
    "eval_every": Limits(at_least=0),
    "teacher_views": Limits(at_least=1, ceiling=1000),
    "chunk_size": Limits(at_least=0, ceiling=1_000_000),
    "max_logit_scale": Limits(at_least=1, ceiling=1e6),
    "seed": Limits(at_least=0, ceiling=2**32 - 1),
    "image_size": Limits(at_least=1, ceiling=4096),
    "max_text_length": Limits(at_least=2, ceiling=8192),
    "projection_dim": Limits(at_least=1, ceiling=65536),
    "smooth_l1_beta": Limits(at_least=0),
    "map_weight": Limits(at_least=0),
    "embedding_weight": Limits(at_least=0),
    "contrastive_weight": Limits(at_least=0),
    "text_text_weight": Limits(at_least=0),
    "affinity_weight": Limits(at_least=0),
    "interactive_weight": Limits(at_least=0),
    "anchor_weight": Limits(at_least=0),
    "general_weight": Limits(at_least=0),
    "photo_weight": Limits(at_least=0),
    "classifier_weight": Limits(at_least=0),
    "zoom": Limits(at_least=0, at_most=4),
    "rotate": Limits(at_least=0, at_most=180),
    "stretch": Limits(at_least=0, at_most=4),
    "shift": Limits(at_least=0, at_most=1),
    "brightness": Limits(at_least=0, at_most=1),
    "contrast": Limits(at_least=0, at_most=4),
    "saturation": Limits(at_least=0, at_most=4),
    "tint": Limits(at_least=0, at_most=1),
}


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Base class that checks every number of a dataclass against `LIMITS`.

    It is a dataclass itself, because jsonargparse expands `--data.train` only if all base classes are.
    """

    path: ClassVar[str] = ""  # where the dataclass is in a recipe, such as `data.`, for error messages
    limits: ClassVar[dict[str, Limits]] = LIMITS  # a recipe outside this folder may have limits of its own

    def __post_init__(self):
        for name, limits in self.limits.items():
            value = getattr(self, name, None)
            if isinstance(value, (int, float)) and value not in limits:
                raise ValueError(
                    f"{self.path}{name}: must be {limits.describe(value)}, got {value}. {limits.advice}".rstrip()
                )
