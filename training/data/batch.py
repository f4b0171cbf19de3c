"""The batch that data, tasks and the training loop share. mypy checks its keys everywhere."""

from typing import TypedDict

from torch import Tensor


class Batch(TypedDict, total=False):
    """Tensors of B samples and their T captions.

    Without images a batch has no `images`. Without captions it has only `rows`, `sources`, `view_ids` and `images`.

    Args:
        rows: (B,) int64, row number of each sample in all data. In a stream it encodes source, shard and offset.
        sources: (B,) int64, index of the source of each sample in the mixture; 0 without a mixture.
        view_ids: (B,) int64, number of the random view of each image.
        images: (B, 3, S, S) uint8, decoded; squashed to the square, or with the short side resized to S and the center
            cropped.
        input_ids: (T, L) int64, student tokens of the captions of these rows in all languages.
        attention_mask: (T, L) int64, 1 for tokens and 0 for padding.
        owner: (T,) int64, index in the batch of the sample that each caption belongs to.
        caption_ids: (T,) int64, equal for equal captions on all processes.
        language: (T,) int64, index into the languages of the recipe.
        teacher_input_ids: (T, L') int64, teacher tokens; only if the teacher has another tokenizer.
        teacher_attention_mask: (T, L') int64, mask of the teacher tokens. Both fields of further teachers have names
            that end with the number of the teacher, such as `teacher_input_ids_1`; see `captions.teacher_tokens`.
        aligned: (T,) bool, whether student and teacher split the caption into the same pieces; only if the student's
            vocabulary is a cut of the teacher's.
    """

    rows: Tensor
    sources: Tensor
    view_ids: Tensor
    images: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    owner: Tensor
    caption_ids: Tensor
    language: Tensor
    teacher_input_ids: Tensor
    teacher_attention_mask: Tensor
    aligned: Tensor
