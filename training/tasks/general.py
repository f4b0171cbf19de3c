"""Loss on general texts: class names and sentences that come with this project, whose embeddings the student keeps."""

import torch
from torch import Tensor

from training.config import AlignRecipe
from training.data import tokenize
from training.tasks.losses import LossInputs, embedding_loss
from training.tasks.task import Models, OwnInputs, Task
from training.teachers.targets import TargetSource, encode_bank
from training.text.scenes import FORMS, scenes

NUM_SCENES = 1000  # sentences of each language
NUM_TEXTS = 64  # texts that each step encodes


class GeneralTexts(OwnInputs):
    """Cosine distance to the teacher's embeddings of general texts.

    Args:
        tokens: `input_ids` and `attention_mask` of the texts, (N, L) int64, padded on the right.
        targets: The teacher's embeddings of them, (N, D) float32.
    """

    def __init__(self, tokens: dict[str, Tensor], targets: Tensor):
        super().__init__(**tokens, targets=targets)
        self.lengths = tokens["attention_mask"].sum(1)  # stay on the host

    @classmethod
    def prepare(
        cls, recipe: AlignRecipe, models: Models, targets: TargetSource, device: torch.device
    ) -> "GeneralTexts":
        """Encode class names and sentences in the student's languages with the teacher."""
        # most runs need neither evaluation nor its packages
        from training.evaluation.sets.class_names import general_pairs

        assert models.teacher is not None  # the row has needs_teacher
        config = models.student.config
        texts = list(general_pairs(config.languages, held_out=False).texts)
        for language in config.languages:
            if language in FORMS:
                texts += scenes(language, NUM_SCENES)
        tokens = tokenize(models.processor.tokenizer, texts, config.max_text_length)
        return cls(tokens, encode_bank(models.teacher.with_towers(("text",)).to(device), texts))

    def encode(self, task: Task, teacher: dict[str, Tensor]) -> dict[str, Tensor]:
        """Embeddings of student and teacher of drawn texts, `general` and `teacher_general` (n, D)."""
        drawn = task.draw(len(self.lengths), NUM_TEXTS)
        index = task.on_device(drawn)
        ids = self.get_buffer("input_ids")[index]
        mask = self.get_buffer("attention_mask")[index]
        return {
            "general": task.encode_texts(ids, mask, self.lengths[drawn])[1].float(),
            "teacher_general": task.to_student_space(self.get_buffer("targets")[index]),
        }

    def forward(self, inputs: LossInputs) -> Tensor:
        """The mean cosine distance."""
        return embedding_loss(inputs.cut("general"), inputs.cut("teacher_general"))
