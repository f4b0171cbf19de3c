"""Options of the command that writes the model of photographs."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class PhotoModelOptions:
    """Options of the command.

    Args:
        runs: Folder with the outputs of both stages: `vision`, `distilled` and `aligned`.
        start: Finished model that the later rounds started from, instead of `runs`. Its recipes and logs are kept.
        earlier: Earlier rounds of both stages, each NAME=FOLDER, the first one first. Their recipes and logs are kept
            under their names.
        output_dir: Folder for the model, a complete Hub repository.
        results: Results of `training/eval.py`, each ROLE=FOLDER. ROLE may be given several times. It is `teacher`,
            `distilled` (stage 1), `aligned` (the finished model), `no_teacher`, or `baselines` (of
            `python -m training.studies.photographs`).
        keep_results: Whether the results of roles that are not given are kept from the report in `report_dir`.
        report_dir: Folder for all results and the contact sheet; the model's own folder has those of its card. If none
            is given, they are not written.
        stage_2_weight: Weight of stage 2 in the mean with stage 1, 0..1. With 1, stage 2 stays unchanged.
        later: Rounds of one stage alone, each NAME=FOLDER, the first one first. Each started from the model of the
            round before. Its weights are mixed into that model's, and its recipe and log are kept under its name.
        later_weights: Weight of each of them in that mean, 0..1. A round with other towers needs 1.
        vocabulary: Folder of a vocabulary that `python -m training.prepare.vocabulary` cut from the tokenizer of these
            models. The finished model keeps only its pieces. Without it, the model keeps all pieces.
        rotate_by: Images with captions, such as those of training. The model's space is rotated to the principal axes
            of their embeddings, so that the leading dimensions can be used alone. None rotates nothing.
        overwrite: Whether to replace a model in `output_dir`.
    """

    output_dir: str
    runs: str | None = None
    start: str | None = None
    earlier: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    report_dir: str | None = None
    keep_results: bool = False
    stage_2_weight: float = 1.0
    later: list[str] = field(default_factory=list)
    later_weights: list[float] = field(default_factory=list)
    vocabulary: str | None = None
    rotate_by: str | None = None
    overwrite: bool = False

    def __post_init__(self):
        for name, weights in (("stage_2_weight", [self.stage_2_weight]), ("later_weights", self.later_weights)):
            for weight in weights:
                if not 0 <= weight <= 1:
                    raise ValueError(f"{name}: must be 0 to 1, got {weight}.")
        if len(self.later) != len(self.later_weights):
            raise ValueError(
                f"later_weights: {len(self.later_weights)} are given for {len(self.later)} rounds in later. Give one "
                "for each."
            )
        if (self.runs is None) == (self.start is None):
            raise ValueError("runs: give either --runs, the outputs of both stages, or --start, a finished model.")
        if self.start is not None and (self.earlier or self.stage_2_weight != 1):
            raise ValueError("start: a finished model needs neither --earlier nor --stage_2_weight. Remove them.")
        if self.keep_results and (self.report_dir is None or not self.results):
            raise ValueError("keep_results: needs --report_dir with an earlier report, and --results. Add them.")
