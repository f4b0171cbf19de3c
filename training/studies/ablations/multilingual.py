"""A teacher with a multilingual vocabulary, for the ablation of vocabulary cutting.

The demo's own teacher has a byte-level vocabulary of English and Chinese, which leaves nothing to cut. The teacher
here has the demo teacher's image tower and embedding space. Its text tower has the same size and a Unigram vocabulary
of XLM-R's layout, trained on the names of the training concepts in all languages of the `emoji` package. It is
distilled from the demo teacher's embeddings of the English and Chinese names.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import XLMRobertaTokenizer

from training import distill
from training.config import DistillRecipe, StudentConfig
from training.corpus.emoji import read_concepts
from training.demo.make_teacher import TEXT_CONFIG
from training.prepare.vocabulary.cut import count_pieces, cut_vocabulary

EMOJI_LANGUAGES = ("en", "zh", "es", "ja", "ko", "pt", "it", "fr", "de", "fa", "id", "ru", "tr", "ar")
VOCABULARY_SIZE = 12000
CUT_SIZE = 3000


def training_names() -> dict[str, list[str]]:
    """Names of all training concepts in the languages of the `emoji` package, by language."""
    import emoji

    names: dict[str, list[str]] = {language: [] for language in EMOJI_LANGUAGES}
    concepts = [concept.emoji for concept in read_concepts() if not concept.is_held_out]
    for language in EMOJI_LANGUAGES:
        emoji.config.load_language(language)
        for sequence in concepts:
            if name := emoji.EMOJI_DATA[sequence].get(language):
                names[language].append(name.strip(":").replace("_", " "))
    return names


def train_unigram(texts: list[str], vocabulary_size: int) -> XLMRobertaTokenizer:
    """Train a Unigram tokenizer of XLM-R's class and layout.

    Args:
        texts: Training texts.
        vocabulary_size: Number of pieces; fewer if the texts do not contain that many.
    """
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocabulary_size,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    pieces = [(piece, score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"]]
    return XLMRobertaTokenizer(vocab=[*pieces, ("<mask>", 0.0)], model_max_length=64)


def make_multilingual_teacher(recipe: DistillRecipe, folder: Path, max_steps: int):
    """Train the teacher and cut its vocabulary.

    Args:
        recipe: Recipe of the demo's stage 1, whose data and teacher are used.
        folder: Parent of the new folders `teacher`, a finished model, and `vocabulary`, its cut.
        max_steps: Optimizer steps of the text tower.
    """
    names = training_names()
    tokenizer = train_unigram([name for by_language in names.values() for name in by_language], VOCABULARY_SIZE)
    tokenizer.save_pretrained(folder / "tokenizer")
    student = StudentConfig(
        vision_init="teacher",
        text_init="random",
        text_config=TEXT_CONFIG | {"hidden_dropout_prob": 0.0},
        tokenizer=str(folder / "tokenizer"),
    )
    distill.run(
        replace(
            recipe,
            student=student,
            tower="text",
            target="embedding",
            freeze=[],
            teacher_cache=str(folder / "targets"),
            max_steps=max_steps,
            learning_rate=1e-3,
            output_dir=str(folder / "teacher"),
        )
    )
    texts = [*names["en"], *names["zh"]]
    vocabulary = cut_vocabulary(
        tokenizer, count_pieces(tokenizer, texts), CUT_SIZE, source=str(folder / "teacher"), corpus="training names"
    )
    vocabulary.save(folder / "vocabulary")
    shutil.rmtree(folder / "targets")
