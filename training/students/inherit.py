"""Weight inheritance: a student starts from a part of a larger pretrained tower.

Source: the manual inheritance of TinyCLIP (Wu et al., ICCV 2023, "Weight Inheritance"), which keeps a part of the
teacher's layers and channels. That they are evenly spaced, and that heads stay whole, is chosen here.
"""

import math
import re
from dataclasses import dataclass, field

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from modeling_dcclip import DCCLIPModel
from training.students.sources import PROJECTIONS, SourceTower
from training.teachers.families import ROBERTA_LIKE

# wrappers around a tower, which differ between the classes that hold it
_WRAPPER = re.compile(r"^(?:(?:model|vision_model|text_model|bert|roberta)\.)+")
_LAYER = re.compile(r"^(?:encoder\.|transformer\.)?layers?\.(\d+)\.")
# what the dimensions of a layer's matrices stand for; all others are of the residual width, or not cut
_ROLES = (
    (re.compile(r"(?:query|key|value|[qkv]_proj|[qkv]_lin)\.\w+$"), ("heads", "width")),
    (re.compile(r"(?:attention\.output\.dense|out_proj|o_proj|out_lin)\.weight$"), ("width", "heads")),
    (re.compile(r"(?:intermediate\.dense|fc1|lin1)\.\w+$"), ("feed_forward", "width")),
    (re.compile(r"(?:output\.dense|fc2|lin2)\.weight$"), ("width", "feed_forward")),
)
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads")


@dataclass(frozen=True)
class Inheritance:
    """What one tower of a student took over, by the student's names.

    Args:
        source: name of the source.
        tower: `vision` or `text`.
        whole: weights copied as they are.
        cut: weights of which a part was copied, or that were resampled.
        random: weights that the source does not have.
        tokens: how many pieces of the student's vocabulary have an embedding in the source, and of how many.
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
def inherit_weights(student: DCCLIPModel, source: SourceTower, tokens: Tensor | None = None) -> Inheritance:
    """Copy into one tower of a student what a source has of it.

    Weights are matched by name. Between transformers, a deeper source gives evenly spaced layers, a wider one evenly
    spaced channels: one set of channels for the residual stream, whole attention heads where their width agrees, and
    channels of the feed-forward layers. Any other tower, such as a convolutional backbone, takes over what agrees in
    name and shape: a student of the source's first stages starts as they are.

    Args:
        student: its tower and its projection are changed in place.
        source: of the same kind of tower.
        tokens: (V,) int64, the source's id of each token of the student, or -1 (see `match_tokens`); None where the
            vocabularies are the same.

    Raises:
        ValueError: the student is larger than the source, or there was nothing to inherit.

    Source: Wu et al., TinyCLIP, ICCV 2023, "Weight Inheritance".
    """
    tower = getattr(student, f"{source.tower}_model")
    cutter = _Cutter(source, tower, tokens)
    pairs = {f"{source.tower}_model.{name}": cutter.pair(name, target) for name, target in tower.state_dict().items()}
    projection = PROJECTIONS[source.tower]
    pairs[projection] = cutter.pair_projection(student.get_parameter(projection))
    report = Inheritance(source.name, source.tower, tokens=cutter.count_tokens())
    for name, target in student.state_dict().items():
        if name not in pairs:  # the other tower's
            continue
        theirs, value = pairs[name]
        if value is None:
            report.random.append(name)
            continue
        target.copy_(value)
        (report.whole if value is theirs else report.cut).append(name)
    if not report.whole and not report.cut:
        raise ValueError(
            f"student.{source.tower}_init: no weight of {source.name!r} has a name and shape that the student has "
            f"too. Give the student its layers, or set student.{source.tower}_init to 'random'."
        )
    return report


def evenly_spaced(total: int, count: int) -> Tensor:
    """(count,) int64, distinct indices into `total`, from the first to the last.

    Raises:
        ValueError: there are fewer than `count`.
    """
    if count > total:
        raise ValueError(f"cannot select {count} of {total}; give the student at most as many as its source has.")
    return torch.linspace(0, total - 1, count, dtype=torch.float64).round().long()


class _Cutter:
    """Finds what a student's weight is in the source, and cuts it to the student's shape."""

    def __init__(self, source: SourceTower, tower: PreTrainedModel, tokens: Tensor | None):
        self.source, self.theirs, self.ours = source, source.config, tower.config
        self.weights = {_canonical(name): tensor for name, tensor in source.weights.items()}
        self.can_cut = _is_transformer(self.theirs) and _is_transformer(self.ours)
        self.embedding = _embedding_name(tower) if source.tower == "text" else None
        self.tokens = tokens
        if self.can_cut:
            for size in ("num_hidden_layers", "hidden_size", "intermediate_size"):
                self._refuse_larger(size)
            self.layers = evenly_spaced(self.theirs.num_hidden_layers, self.ours.num_hidden_layers).tolist()

    def pair(self, name: str, target: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The source's weight, and what the student takes of it: the same, a part, or None."""
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
        """The same for the projection onto the shared space: it reads the residual stream, if nothing lies between."""
        tensor = self.source.projection
        if tensor is None or "transformation.weight" in self.weights:
            return None, None
        if self.can_cut and len(tensor) == len(target):
            return tensor, self._cut_columns(tensor, target)
        return tensor, tensor if tensor.shape == target.shape else None

    def count_tokens(self) -> tuple[int, int] | None:
        """How many of the student's tokens have an embedding in the source, and of how many."""
        if self.embedding not in self.weights:
            return None
        rows = self._token_rows(len(self.weights[self.embedding]), self.ours.vocab_size)
        return int((rows >= 0).sum()), len(rows)

    def _fit(self, name: str, tensor: Tensor, target: Tensor) -> Tensor | None:
        if name == self.embedding:
            return self._take_rows(tensor, target, self._token_rows(len(tensor), len(target)))
        if "token_type_embeddings" in name:
            return self._take_rows(tensor, target, _first_rows(len(tensor), len(target)))
        if "position_embedding" in name:
            is_text = self.source.tower == "text"
            return self._take_positions(tensor, target) if is_text else self._resample_positions(tensor, target)
        roles = next((roles for pattern, roles in _ROLES if pattern.search(name)), ("width",) * tensor.ndim)
        return self._cut(tensor, target.shape, roles)

    def _cut(self, tensor: Tensor, shape: tuple[int, ...], roles: tuple[str, ...]) -> Tensor | None:
        """Select along each dimension that is larger than the student's; None where no rule says how."""
        if tensor.ndim != len(shape):
            return None
        for dimension, (total, count) in enumerate(zip(tensor.shape, shape, strict=True)):
            if total == count:
                continue
            role = roles[dimension]
            if role == "width" and (total, count) != (self.theirs.hidden_size, self.ours.hidden_size):
                return None
            chosen = self._head_channels(total, count) if role == "heads" else evenly_spaced(total, count)
            tensor = tensor.index_select(dimension, chosen.to(tensor.device))
        return tensor

    def _cut_columns(self, tensor: Tensor, target: Tensor) -> Tensor | None:
        return self._cut(tensor, (*tensor.shape[:-1], target.shape[-1]), ("width",) * tensor.ndim)

    def _head_channels(self, total: int, count: int) -> Tensor:
        """Whole heads where their width agrees; evenly spaced channels of evenly spaced heads otherwise."""
        their_heads, heads = self.theirs.num_attention_heads, self.ours.num_attention_heads
        their_width, width = total // their_heads, count // heads
        if heads > their_heads or width > their_width:
            return evenly_spaced(total, count)
        channels = evenly_spaced(their_heads, heads)[:, None] * their_width + evenly_spaced(their_width, width)
        return channels.flatten()  # (heads, width) -> (count,)

    def _take_rows(self, tensor: Tensor, target: Tensor, rows: Tensor) -> Tensor | None:
        """A table's rows; where `rows` is -1, the student's own stay."""
        cut = self._cut_columns(tensor, target)
        if cut is None or torch.equal(rows, torch.arange(len(tensor))):
            return cut
        known = rows >= 0
        values = target.clone()
        values[known] = cut[rows[known]].to(values)
        return values

    def _token_rows(self, available: int, wanted: int) -> Tensor:
        tokens = torch.arange(wanted) if self.tokens is None else self.tokens
        rows = torch.full((wanted,), -1)  # a table may have more rows than the tokenizer has tokens
        rows[: len(tokens)] = tokens[:wanted]
        return rows.masked_fill(rows >= available, -1)

    def _take_positions(self, tensor: Tensor, target: Tensor) -> Tensor | None:
        rows = torch.arange(len(target)) + _first_position(self.theirs) - _first_position(self.ours)
        if rows[-1] >= len(tensor):
            raise ValueError(
                f"student.text_config.max_position_embeddings is {len(target)}, of which {self.source.name!r} has "
                f"only {len(tensor) - int(rows[0])}. Set it to at most that, or student.text_init to 'random'."
            )
        return self._take_rows(tensor, target, rows.clamp_min(-1))

    def _resample_positions(self, tensor: Tensor, target: Tensor) -> Tensor | None:
        """The patch grid of another image or patch size; the tokens before it stay as they are."""
        cut = self._cut_columns(tensor, target)
        if cut is None or cut.shape == target.shape:
            return cut
        count, available = target.shape[-2], cut.shape[-2]
        edge, their_edge = math.isqrt(count), math.isqrt(available)
        prefix = count - edge**2
        if available - their_edge**2 != prefix:
            return None
        batch = cut.reshape(1, *cut.shape[-2:])  # (N, D) or (1, N, D) -> (1, N, D)
        return resample_abs_pos_embed(batch, [edge, edge], [their_edge, their_edge], prefix).reshape(target.shape)

    def _refuse_larger(self, size: str):
        theirs, ours = getattr(self.theirs, size, None), getattr(self.ours, size, None)
        if isinstance(theirs, int) and isinstance(ours, int) and ours > theirs:
            raise ValueError(
                f"student.{self.source.tower}_config.{size} is {ours}, {self.source.name!r} has {theirs}: a student "
                f"cannot inherit more than there is. Set it to at most {theirs}, or "
                f"student.{self.source.tower}_init to 'random'."
            )


def _canonical(name: str) -> str:
    """The name of a weight without what only says which class holds its tower."""
    # timm's feature extractor, which cuts a backbone short, names it with one level more
    name = _WRAPPER.sub("", name).replace("timm_model.model.", "timm_model.")
    return _LAYER.sub(r"layers.\1.", name)


def _is_transformer(config: PreTrainedConfig) -> bool:
    """Whether all layers are alike, so that layers and channels can be chosen among."""
    return all(isinstance(getattr(config, size, None), int) for size in _SIZES)


def _embedding_name(tower: PreTrainedModel) -> str:
    table = tower.get_input_embeddings()
    return _canonical(next(f"{name}.weight" for name, module in tower.named_modules() if module is table))


def _first_position(config: PreTrainedConfig) -> int:
    return config.pad_token_id + 1 if config.model_type in ROBERTA_LIKE else 0


def _first_rows(available: int, wanted: int) -> Tensor:
    rows = torch.arange(wanted)
    return rows.masked_fill(rows >= available, -1)
