"""How many pairs stage 2 needs: the demo's student with and without stage 1, on ever fewer pairs, over several seeds.

    python -m training.studies.ablations.pairs --seeds 0 1 2

Stage 1 learns from images and from captions, each apart, and has all of them in every arm that has it. Pairs are
what is scarce: stage 2 has all of them, or those of a quarter or a sixteenth of the concepts. All else is as in
`training.studies.ablations.stage2`; the candidates are the names of all concepts, as ever.
"""

from dataclasses import dataclass, replace

from training.studies.ablations.arms import parse_options, print_and_plot
from training.studies.ablations.stage2 import AFFINITY, ANCHOR, INTERACTIVE, Alignment, AlignmentOptions, Arm

NAME = "pairs"
MODULE = "training.studies.ablations.pairs"
SHARES = {"all pairs": 1, "a quarter of the pairs": 4, "a sixteenth of the pairs": 16}

KINDS: tuple[Arm, ...] = (
    Arm("", "InfoNCE alone", only="align"),
    Arm("", "stage 1 and InfoNCE"),
    Arm("", "stage 1, InfoNCE and anchor", ANCHOR),
    Arm("", "full recipe", ANCHOR | AFFINITY | INTERACTIVE),
)
ARMS = tuple(replace(kind, start=share, pairs_of=number) for share, number in SHARES.items() for kind in KINDS)


@dataclass(frozen=True, kw_only=True)
class PairsOptions(AlignmentOptions):
    """What to run."""

    output_dir: str = "runs/pairs"


def main(argv: list[str] | None = None):
    """Parse, run, write, print the table."""
    options = parse_options(PairsOptions, MODULE, argv)
    print_and_plot(Alignment(options, ARMS, MODULE).run(), options, NAME)


if __name__ == "__main__":
    main()
