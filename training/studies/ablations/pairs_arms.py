"""Arms of the pairs comparison: the student with and without stage 1, on ever fewer pairs."""

from training.studies.ablations.stage2_runs import Arm, LossTerms

CONCEPT_STRIDES = {"all pairs": 1, "a quarter of the pairs": 4, "a sixteenth of the pairs": 16}

ARMS: tuple[Arm, ...] = tuple(
    arm
    for share, stride in CONCEPT_STRIDES.items()
    for arm in (
        Arm(share, "InfoNCE alone", only="align", concept_stride=stride),
        Arm(share, "stage 1 and InfoNCE", concept_stride=stride),
        Arm(share, "stage 1, InfoNCE and anchor", LossTerms(anchor_weight=5.0), concept_stride=stride),
        Arm(
            share,
            "full recipe",
            LossTerms(anchor_weight=5.0, affinity_weight=1.0, interactive_weight=1.0),
            concept_stride=stride,
        ),
    )
)
