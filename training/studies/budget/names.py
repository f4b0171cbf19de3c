"""Names of the models that the budget measures.

The names are listed here, apart from the code that builds the models, so that `--help` does not import torch. A test
compares them with `training.students.SIZES` and `baselines.BASELINES`.
"""

SIZE_NAMES = ("tiny", "small", "base")
BASELINE_NAMES = (
    "altclip",
    "clip-vit-b-32",
    "chinese-clip-vit-b-16",
    "chinese-clip-rn50",
    "mobileclip-s0",
    "mobileclip2-s0",
    "tinyclip-39m-16",
    "tinyclip-40m-32",
    "metaclip2-s-16",
)
NAMES = (*SIZE_NAMES, *BASELINE_NAMES)

# printed below the table
NOTES = {
    "mobileclip2-s0": "its text tower has 63.4 M parameters by open_clip's config (MobileCLIP2-S0.json at bd7336c), "
    "which is followed here; the README of apple/ml-mobileclip lists 42.4 M"
}
