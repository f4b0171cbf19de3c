r"""Convert a checkpoint of open_clip to a folder that can be a teacher and can be evaluated.

Examples:
  python -m training.prepare.open_clip --model laion/CLIP-ViT-H-14-frozen-xlm-roberta-large-laion5B-s13B-b90k \
      --output_dir runs/teachers/xlmr_h14
  python -m training.prepare.open_clip --model ViT-B-32 --pretrained laion2b_s34b_b79k --output_dir runs/teachers/b32
"""

from training.prepare.open_clip.options import PROGRAM, OpenClipOptions
from training.utils.cli import parse_options, user_errors
from training.utils.quiet import hide_library_bars


def main(argv: list[str] | None = None):
    """Parse the options, convert, write."""
    options = parse_options(OpenClipOptions, argv, prog=PROGRAM, description=__doc__)
    with user_errors("open_clip", extra="layouts"):
        # after parsing, so that --help does not load torch
        from training.prepare.open_clip.convert import FILES, convert
        from training.utils.output import claim_folder

        hide_library_bars()
        with claim_folder(
            options.output_dir,
            FILES,
            command="open_clip",
            inputs={"model": options.model},
            overwrite=options.overwrite,
        ):
            convert(options.model, options.pretrained, options.output_dir)


if __name__ == "__main__":
    main()
