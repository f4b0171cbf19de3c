"""Weight inheritance: a student starts from a part of a larger pretrained tower.

Source: the manual inheritance of TinyCLIP (Wu et al., ICCV 2023, "Weight Inheritance"), which keeps a part of the
teacher's layers and channels. Even spacing and whole heads are choices of this implementation.
"""

import math
import re
from dataclasses import dataclass, field

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from modeling_dcclip import DCCLIPModel
from training.students.sources import SourceTower
from training.teachers.family import first_position

_PROJECTIONS = {
    "vision": "visual_projection.weight",
    "text": "text_projection.weight",
}  # of the student
# prefixes of weight names that depend on the class around the tower
_WRAPPER = re.compile(r"^(?:(?:model|vision_model|text_model|bert|roberta)\.)+")
_LAYER = re.compile(r"^(?:encoder\.|transformer\.)?layers?\.(\d+)\.")
# roles of the dimensions of a layer's matrices; all other dimensions have the residual width, or are not cut
_ROLES = (
    (re.compile(r"(?:query|key|value|[qkv]_proj|[qkv]_lin)\.\w+$"), ("heads", "width")),
    (
        re.compile(r"(?:attention\.output\.dense|out_proj|o_proj|out_lin)\.weight$"),
        ("width", "heads"),
    ),
    (re.compile(r"(?:intermediate\.dense|fc1|lin1)\.\w+$"), ("feed_forward", "width")),
    (re.compile(r"(?:output\.dense|fc2|lin2)\.weight$"), ("width", "feed_forward")),
)
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads")


@dataclass(frozen=True)
class Inheritance:
    """Weights that one tower of a student inherited, by the student's names.

    Args:
        source: Name of the source.
        tower: Kind of tower, `vision` or `text`.
        whole: Names of the weights that were copied unchanged.
        cut: Names of the weights that were copied in part or resampled.
        random: Names of the weights that the source does not have.
        tokens: Number of the student's tokens that have an embedding in the source, and number of all its tokens.
    """

    source: str
    tower: str
    whole: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    random: list[str] = field(default_factory=list)
    tokens: tuple[int, int] | None = None

    def __str__(self) -> str:
        tokens = "; token embeddings of {} of {} pieces".format(*self.tokens) if self.tokens else ""
        return (
            f"{self.tower} tower from {self.source}: {len(self.whole)} weights whole, {len(self.cut)} cut, "
            f"{len(self.random)} random{tokens}"
        )


@torch.no_grad()
def inherit_weights(
    student: DCCLIPModel, source: SourceTower, tokens: Tensor | None = None
) -> Inheritance:
    """Copy the weights of a source into one tower of a student.

    Weights are matched by name. Between transformers, evenly spaced layers are taken from a deeper source, and evenly
    spaced channels from a wider one: one set of channels for the residual stream, whole attention heads if their width
    agrees, and channels of the feed-forward layers. Any other tower, such as a convolutional backbone, inherits the
    weights that agree in name and shape: a student with the source's first stages starts with their weights.

    Args:
        student: Student whose tower and projection are changed in place.
        source: Source of the same kind of tower.
        tokens: The source's id of each token of the student, or -1 (see `match_tokens`), (V,) int64; None if the
            vocabularies are the same.

    Returns:
        Names of the weights that were inherited, and of those that stay random.

    Raises:
        ValueError: The student is larger than the source, or no weight agrees.

    Source: Wu et al., TinyCLIP, ICCV 2023, "Weight Inheritance".
    """
    tower = getattr(student, f"{source.tower}_model")
    cutter = _Cutter(source, tower, tokens)
    pairs = {
        f"{source.tower}_model.{name}": cutter.pair(name, target)
        for name, target in tower.state_dict().items()
    }
    projection = _PROJECTIONS[source.tower]
    pairs[projection] = cutter.pair_projection(student.get_parameter(projection))
    report = Inheritance(source.name, source.tower, tokens=cutter.count_tokens())
    for name, target in student.state_dict().items():
        if name not in pairs:  # a weight of the other tower
            continue
        source_value, value = pairs[name]
        if value is None:
            report.random.append(name)
            continue
        target.copy_(value)
        (report.whole if value is source_value else report.cut).append(name)
    if not report.whole and not report.cut:
        raise ValueError(
            f"student.{source.tower}_init: no weight of {source.name!r} agrees with the student in name and "
            f"shape. Give the student the source's layers, or set student.{source.tower}_init to 'random'."
        )
    return report


def evenly_spaced(total: int, count: int) -> Tensor:
    """Select evenly spaced indices, from the first to the last.

    Args:
        total: Number of items to select from.
        count: Number of indices, at most `total`.

    Returns:
        (count,) int64, distinct and ascending.

    Raises:
        ValueError: `count` is more than `total`.
    """
    if count > total:
        raise ValueError(
            f"cannot select {count} of {total}; give the student at most as many as its source has."
        )
    return torch.linspace(0, total - 1, count, dtype=torch.float64).round().long()


class _Cutter:
    """Looks up a student's weight in the source, and cuts it to the student's shape."""

    def __init__(self, source: SourceTower, tower: PreTrainedModel, tokens: Tensor | None):
        self.source, self.source_config, self.config = source, source.config, tower.config
        self.weights = {_canonical(name): tensor for name, tensor in source.weights.items()}
        self.can_cut = _is_transformer(self.source_config) and _is_transformer(self.config)
        self.embedding = _embedding_name(tower) if source.tower == "text" else None
        self.tokens = tokens
        if self.can_cut:
            for size in ("num_hidden_layers", "hidden_size", "intermediate_size"):
                self._refuse_larger(size)
            self.layers = evenly_spaced(
                self.source_config.num_hidden_layers, self.config.num_hidden_layers
            ).tolist()

    def pair(self, name: str, target: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The source's weight, and the value for the student: the same tensor, a part of it, or None."""
        name = _canonical(name)
        if self.can_cut and (match := _LAYER.match(name)):
            name = f"layers.{self.layers[int(match[1])]}.{name[match.end() :]}"
        tensor = self.weights.get(name)
        if tensor is None:
            return None, None
        if self.can_cut:
            return tensor, self._fit(name, tensor, target)
        return tensor, tensor if tensor.shape == target.shape else None

    def pair_projection(self, target: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The same for the projection to the embedding space."""
        tensor = self.source.projection
        # with a transformation between, the projection's input is not the residual stream
        if tensor is None or "transformation.weight" in self.weights:
            return None, None
        if self.can_cut and len(tensor) == len(target):
            return tensor, self._cut_columns(tensor, target)
        return tensor, tensor if tensor.shape == target.shape else None

    def count_tokens(self) -> tuple[int, int] | None:
        """Number of the student's tokens that have an embedding in the source, and number of all its tokens."""
        if self.embedding not in self.weights:
            return None
        rows = self._token_rows(len(self.weights[self.embedding]), self.config.vocab_size)
        return int((rows >= 0).sum()), len(rows)

    def _fit(self, name: str, tensor: Tensor, target: Tensor) -> Tensor | None:
        if name == self.embedding:
            return self._take_rows(tensor, target, self._token_rows(len(tensor), len(target)))
        if "token_type_embeddings" in name:
            rows = torch.arange(len(target))
            return self._take_rows(tensor, target, rows.masked_fill(rows >= len(tensor), -1))
        if "position_embedding" in name:
            is_text = self.source.tower == "text"
            return (
                self._take_positions(tensor, target)
                if is_text
                else self._resample_positions(tensor, target)
            )
        roles = next(
            (roles for pattern, roles in _ROLES if pattern.search(name)), ("width",) * tensor.ndim
        )
        return self._cut(tensor, target.shape, roles)

    def _cut(self, tensor: Tensor, shape: tuple[int, ...], roles: tuple[str, ...]) -> Tensor | None:
        """Select along each dimension that is larger than the student's; None if no rule applies."""
        if tensor.ndim != len(shape):
            return None
        for dimension, (total, count) in enumerate(zip(tensor.shape, shape, strict=True)):
            if total == count:
                continue
            role = roles[dimension]
            if role == "width" and (total, count) != (
                self.source_config.hidden_size,
                self.config.hidden_size,
            ):
                return None
            chosen = (
                self._head_channels(total, count)
                if role == "heads"
                else evenly_spaced(total, count)
            )
            tensor = tensor.index_select(dimension, chosen.to(tensor.device))
        return tensor

    def _cut_columns(self, tensor: Tensor, target: Tensor) -> Tensor | None:
        return self._cut(tensor, (*tensor.shape[:-1], target.shape[-1]), ("width",) * tensor.ndim)

    def _head_channels(self, total: int, count: int) -> Tensor:
        """Whole heads if their width agrees; otherwise evenly spaced channels of evenly spaced heads."""
        source_heads, heads = (
            self.source_config.num_attention_heads,
            self.config.num_attention_heads,
        )
        source_width, width = total // source_heads, count // heads
        if heads > source_heads or width > source_width:
            return evenly_spaced(total, count)
        channels = evenly_spaced(source_heads, heads)[:, None] * source_width + evenly_spaced(
            source_width, width
        )
        return channels.flatten()  # (heads, width) -> (count,)

    def _take_rows(self, tensor: Tensor, target: Tensor, rows: Tensor) -> Tensor | None:
        """Rows of a table; where `rows` is -1, the student keeps its own row."""
        cut = self._cut_columns(tensor, target)
        if cut is None or torch.equal(rows, torch.arange(len(tensor))):
            return cut
        known = rows >= 0
        values = target.clone()
        values[known] = cut[rows[known]].to(values)
        return values

    def _token_rows(self, available: int, num_rows: int) -> Tensor:
        tokens = torch.arange(num_rows) if self.tokens is None else self.tokens
        rows = torch.full(
            (num_rows,), -1
        )  # a table may have more rows than the tokenizer has tokens
        rows[: len(tokens)] = tokens[:num_rows]
        return rows.masked_fill(rows >= available, -1)

    def _take_positions(self, tensor: Tensor, target: Tensor) -> Tensor | None:
        rows = (
            torch.arange(len(target))
            + first_position(self.source_config)
            - first_position(self.config)
        )
        if rows[-1] >= len(tensor):
            raise ValueError(
                f"student.text_config.max_position_embeddings is {len(target)}, but {self.source.name!r} has "
                f"only {len(tensor) - int(rows[0])}. Set it to at most that, or student.text_init to 'random'."
            )
        return self._take_rows(tensor, target, rows.clamp_min(-1))

    def _resample_positions(self, tensor: Tensor, target: Tensor) -> Tensor | None:
        """Resample a patch grid to another image or patch size; the positions of prefix tokens stay unchanged."""
        cut = self._cut_columns(tensor, target)
        if cut is None or cut.shape == target.shape:
            return cut
        count, available = target.shape[-2], cut.shape[-2]
        edge, source_edge = math.isqrt(count), math.isqrt(available)
        prefix = count - edge**2
        if available - source_edge**2 != prefix:
            return None
        batch = cut.reshape(1, *cut.shape[-2:])  # (N, D) or (1, N, D) -> (1, N, D)
        return resample_abs_pos_embed(
            batch, [edge, edge], [source_edge, source_edge], prefix
        ).reshape(target.shape)

    def _refuse_larger(self, size: str):
        limit, value = getattr(self.source_config, size, None), getattr(self.config, size, None)
        if isinstance(limit, int) and isinstance(value, int) and value > limit:
            raise ValueError(
                f"student.{self.source.tower}_config.{size} is {value}, {self.source.name!r} has {limit}: a student "
                f"cannot be larger than its source. Set it to at most {limit}, or "
                f"student.{self.source.tower}_init to 'random'."
            )


def _canonical(name: str) -> str:
    """The name of a weight, independent of the class around the tower."""
    # timm's feature extractor, which cuts off the last stages of a backbone, adds one level to the names
    name = _WRAPPER.sub("", name).replace("timm_model.model.", "timm_model.")
    return _LAYER.sub(r"layers.\1.", name)


def _is_transformer(config: PreTrainedConfig) -> bool:
    """Whether all layers have the same shape, so that layers and channels can be selected."""
    return all(isinstance(getattr(config, size, None), int) for size in _SIZES)


def _embedding_name(tower: PreTrainedModel) -> str:
    table = tower.get_input_embeddings()
    return _canonical(
        next(f"{name}.weight" for name, module in tower.named_modules() if module is table)
    )
