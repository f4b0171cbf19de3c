r"""Load one model folder in every tool, and compare the ranking of photographs with that of transformers.

Examples:
  python -m training.studies.tools --data photos.parquet --model runs/tools/model
  python -m training.studies.tools --data photos.parquet --tools "fastembed, Qdrant" open_clip

`python -m tests.tools --rankings --data photos.parquet` installs the tools first. Each tool opens the image files,
encodes the captions and ranks all images for each caption. The exit code is 1 if a tool in fp32 has other ten best
images than transformers for more than 1 % of the captions, or if a file in int8 loses more recall than an export may.
"""

import sys

from training.studies.tools.options import ToolsOptions
from training.utils.cli import parse_options, user_errors
from training.utils.quiet import hide_library_bars, hide_torchao_messages

PROGRAM = "python -m training.studies.tools"


def main(argv: list[str] | None = None):
    """Parse the options, measure, print the table."""
    options = parse_options(ToolsOptions, argv, prog=PROGRAM, description=__doc__ or "")
    with user_errors("tools", extra="layouts"):
        hide_torchao_messages()
        # after parsing, so that --help does not load torch
        from training.studies.tools.measure import measure_tools, shortfalls
        from training.studies.tools.tables import tools_table

        hide_library_bars()
        results = measure_tools(options, PROGRAM)
    print(tools_table(results))
    if short := shortfalls(results):
        print("\n".join(short), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
