"""Weight inheritance: a student starts from a part of a larger pretrained tower.

Source: the manual inheritance of TinyCLIP (Wu et al., ICCV 2023, "Weight Inheritance"), which keeps a part of the
teacher's layers and channels. Even spacing and whole heads are choices of this implementation.
"""

import logging
import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from modeling_dcclip import DCCLIPModel
from training.students.sources import SourceTower
from training.teachers.family import TOWER_MODULES, first_position

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
    (re.compile(r"^projection$"), ("rows", "width")),
)
_WIDTHS = ("width",) * 4
# BERT's token table and what is added to it
_TABLE = (
    "embeddings.word_embeddings.weight",
    "embeddings.token_type_embeddings.weight",
    "embeddings.LayerNorm.weight",
    "embeddings.LayerNorm.bias",
)
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads")

logger = logging.getLogger(__name__)


@torch.no_grad()
def inherit_weights(
    student: DCCLIPModel, source: SourceTower, tokens: Tensor | None = None
) -> list[str]:
    """Copy the weights of a source into one tower of a student.

    Weights are matched by name. Between transformers, evenly spaced layers are taken from a deeper source, and evenly
    spaced channels from a wider one: one set of channels for the residual stream, whole attention heads if their width
    agrees, and channels of the feed-forward layers. ELECTRA's narrow table of tokens, with its projection, inherits
    the best approximation of its rank. Any other tower, such as a convolutional backbone, inherits the weights that
    agree in name and shape: a student with the source's first stages starts with their weights.

    Args:
        student: Student whose tower and projection are changed in place.
        source: Source of the same kind of tower.
        tokens: The source's id of each token of the student, or -1 (see `match_tokens`), (V,) int64; None if the
            vocabularies are the same.

    Returns:
        Names of the student's weights that stay random.

    Raises:
        ValueError: The student is larger than the source, or no weight agrees.

    Source: Wu et al., TinyCLIP, ICCV 2023, "Weight Inheritance".
    """
    module, projection = TOWER_MODULES[source.tower]
    tower = getattr(student, module)
    weights = {_canonical(name): tensor for name, tensor in source.weights.items()}
    is_cut = _is_transformer(source.config) and _is_transformer(tower.config)
    cutter = _Cutter(source, tower, tokens) if is_cut else None
    random: list[str] = []
    num_inherited = 0
    for full_name, target in student.state_dict().items():
        if full_name == f"{projection}.weight":
            name = "projection"
            # with a transformation between, the projection's input is not the residual stream
            tensor = None if "transformation.weight" in weights else source.projection
        elif full_name.startswith(f"{module}."):
            name = _canonical(full_name.removeprefix(f"{module}."))
            source_name = name if cutter is None else cutter.source_name(name)
            tensor = weights.get(source_name)
        else:
            continue
        value = None
        if tensor is not None and cutter is not None:
            value = cutter.fit(name, tensor, target)
        elif tensor is not None and tensor.shape == target.shape:
            value = tensor
        if value is None:
            random.append(full_name)
            continue
        target.copy_(value)
        num_inherited += 1
    is_narrowed = (
        hasattr(tower, "embeddings_project") and "embeddings_project.weight" not in weights
    )
    if cutter is not None and is_narrowed and {*_TABLE} <= weights.keys():
        cutter.factorize_embeddings(tower, weights)
        done = {_TABLE[0], "embeddings_project.weight", "embeddings_project.bias"}
        random = [name for name in random if _canonical(name) not in done]
        num_inherited += len(done)
    if not num_inherited:
        raise ValueError(
            f"student.{source.tower}_init: no weight of {source.name!r} agrees with the student in name and "
            f"shape. Give the student the source's layers, or set student.{source.tower}_init to 'random'."
        )
    counts = f"{num_inherited} weights inherited, {len(random)} random"
    logger.info("%s tower from %s: %s", source.tower, source.name, counts)
    return random


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
            f"student: has {count} layers, channels or heads, where its source has {total}. Give it at most as many, "
            "or start it from 'random' weights."
        )
    return torch.linspace(0, total - 1, count, dtype=torch.float64).round().long()


class _Cutter:
    """Cuts the weights of a transformer to the shapes of a smaller one."""

    def __init__(self, source: SourceTower, tower: PreTrainedModel, tokens: Tensor | None):
        self.source = source.config
        self.config = tower.config
        self.tokens = tokens
        self.embedding = _embedding_name(tower) if source.tower == "text" else None
        layers = evenly_spaced(self.source.num_hidden_layers, self.config.num_hidden_layers)
        self.layers = layers.tolist()

    def source_name(self, name: str) -> str:
        """Name of a weight in the source's layer."""
        if match := _LAYER.match(name):
            return f"layers.{self.layers[int(match[1])]}.{name[match.end() :]}"
        return name

    def fit(self, name: str, tensor: Tensor, target: Tensor) -> Tensor | None:
        """The value of a student's weight: the tensor itself, a part of it, or None if no rule applies."""
        rows = None
        if name == self.embedding and self.tokens is not None:
            rows = self.tokens
        elif name == self.embedding or "token_type_embeddings" in name:
            rows = torch.arange(len(target))
        elif "position_embedding" in name and self.embedding is not None:
            first = first_position(self.source) - first_position(self.config)
            rows = torch.arange(len(target)) + first
        if rows is not None:
            return self._take_rows(tensor, target, rows)
        for pattern, roles in _ROLES:
            if pattern.search(name):
                return self._cut(tensor, target.shape, roles)
        return self._cut(tensor, target.shape, _WIDTHS)

    def _cut(self, tensor: Tensor, shape: tuple[int, ...], roles: tuple[str, ...]) -> Tensor | None:
        """Select along each dimension that is larger than the student's; None if no rule applies."""
        if tensor.ndim != len(shape):
            return None
        widths = (self.source.hidden_size, self.config.hidden_size)
        sizes = zip(tensor.shape, shape, roles, strict=False)
        for dimension, (total, count, role) in enumerate(sizes):
            if total == count:
                continue
            if role == "rows" or (role == "width" and (total, count) != widths):
                return None
            is_heads = role == "heads"
            chosen = self._head_channels(total, count) if is_heads else evenly_spaced(total, count)
            tensor = tensor.index_select(dimension, chosen.to(tensor.device))
        return tensor

    def factorize_embeddings(self, tower: Any, weights: dict[str, Tensor]):
        """Inherit ELECTRA's table of tokens and its projection: the best approximation of their rank.

        They replace what the first layer reads of each token: the source's normalized embeddings.
        """
        words, types, scale, shift = (weights[name].float() for name in _TABLE)
        epsilon = self.source.layer_norm_eps
        table = F.layer_norm(words + types[0], words.shape[1:], scale, shift, epsilon)
        table = table[:, evenly_spaced(table.shape[1], self.config.hidden_size)]
        mean = table.mean(0)
        rank = self.config.embedding_size
        left, values, right = torch.linalg.svd(table - mean, full_matrices=False)
        factors = left[:, :rank] * values[:rank]
        spread = factors.std()  # the table is normalized before it is projected
        tower.embeddings_project.weight.copy_(right[:rank].T * spread)
        tower.embeddings_project.bias.copy_(mean)
        found = tower.get_input_embeddings().weight
        rows = torch.arange(len(found)) if self.tokens is None else self.tokens
        known = (rows >= 0).nonzero().flatten()
        found[known] = (factors / spread)[rows[known]]

    def _head_channels(self, total: int, count: int) -> Tensor:
        """Whole heads if their width agrees; otherwise evenly spaced channels."""
        source_heads, heads = self.source.num_attention_heads, self.config.num_attention_heads
        width = count // heads
        if heads > source_heads or width != total // source_heads:
            return evenly_spaced(total, count)
        starts = evenly_spaced(source_heads, heads)[:, None] * width
        return (starts + torch.arange(width)).flatten()  # (heads, width) -> (count,)

    def _take_rows(self, tensor: Tensor, target: Tensor, rows: Tensor) -> Tensor | None:
        """Rows of a table by the row of the student; those that the source lacks stay the student's."""
        full = torch.full((len(target),), -1)  # a table may have more rows than there are tokens
        full[: len(rows)] = rows[: len(target)]
        known = (full >= 0) & (full < len(tensor))
        cut = self._cut(tensor, (len(tensor), *target.shape[1:]), _WIDTHS)
        if cut is None or torch.equal(full, torch.arange(len(tensor))):
            return cut
        values = target.clone()
        values[known] = cut[full[known]].to(values)
        return values


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
    name = next(name for name, module in tower.named_modules() if module is table)
    return _canonical(f"{name}.weight")
