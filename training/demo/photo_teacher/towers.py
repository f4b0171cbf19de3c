"""Write the pretrained towers of the photo teacher as bare encoders, which can be teachers of one tower each.

    python -m training.demo.photo_teacher.towers --output_dir runs/towers

Install the extra `photos` first: `pip install -e ".[photos]"`. The command writes `lite2` (EfficientNet-Lite2 with
ImageNet weights) and `e5` (multilingual-e5-small), with image statistics and tokenizer.
"""

# torch, transformers and what needs them are imported in functions, so that `--help` is fast
from dataclasses import dataclass
from pathlib import Path

from training.demo.packaged_weights import LITE2, save_backbone
from training.utils.cli import command_name, parse_options, user_errors
from training.utils.quiet import hide_library_bars

PROGRAM = "python -m training.demo.photo_teacher.towers"
LITE2_FOLDER, E5_FOLDER = "lite2", "e5"


@dataclass(frozen=True, kw_only=True)
class TowersOptions:
    """Options of the command.

    Args:
        output_dir: Folder for the two encoders.
        max_text_length: Longest text of `e5` in tokens.
    """

    output_dir: str
    max_text_length: int = 64


def save_e5(folder: Path, max_text_length: int):
    """Write multilingual-e5-small as a text encoder of transformers, with its tokenizer.

    Args:
        folder: Folder for config, weights and tokenizer.
        max_text_length: Longest text in tokens.

    Raises:
        ValueError: The package is missing, or its file has another hash.
    """
    from transformers import XLMRobertaConfig, XLMRobertaModel

    from training.demo.photo_teacher.build import e5_config
    from training.demo.photo_teacher.e5 import read_e5, xlm_roberta_weights
    from training.demo.photo_teacher.tokenizer import make_tokenizer
    from training.utils.files import set_modes

    e5 = read_e5()
    weights = xlm_roberta_weights(e5)
    vocabulary = len(weights["embeddings.word_embeddings.weight"])
    config = XLMRobertaConfig(**e5_config(e5), vocab_size=vocabulary, pad_token_id=e5.special["pad"])
    model = XLMRobertaModel(config, add_pooling_layer=False)
    model.load_state_dict(weights)
    model.save_pretrained(folder)
    make_tokenizer(e5, max_text_length).save_pretrained(folder)
    set_modes(folder)


def main(argv: list[str] | None = None):
    """Parse the options and write the encoders."""
    options = parse_options(TowersOptions, argv, prog=PROGRAM, description=__doc__ or "")
    with user_errors(command_name(PROGRAM), extra="photos"):
        hide_library_bars()
        save_backbone(LITE2, Path(options.output_dir, LITE2_FOLDER))
        save_e5(Path(options.output_dir, E5_FOLDER), options.max_text_length)


if __name__ == "__main__":
    main()
