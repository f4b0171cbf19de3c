"""Options of the conversion."""

from dataclasses import dataclass

PROGRAM = "python -m training.prepare.open_clip"


@dataclass(frozen=True, kw_only=True)
class OpenClipOptions:
    """Options of the conversion.

    Args:
        model: Folder with `open_clip_config.json` and weights, Hub id of such a repository, or name of a built-in
            model of open_clip, such as `xlm-roberta-large-ViT-H-14`.
        output_dir: Folder for the converted model.
        pretrained: Tag or file of the weights of a built-in model, such as `frozen_laion5b_s13b_b90k`.
        overwrite: Replace files in `output_dir` that this command has not written.
    """

    model: str
    output_dir: str
    pretrained: str | None = None
    overwrite: bool = False
