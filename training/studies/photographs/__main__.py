r"""Measure baselines on photographs: ConSE, heads trained on captions, and the sum of both, over frozen towers.

    python -m training.studies.photographs --train flickr8k_train.parquet \
        --retrieval flickr8k_validation=flickr8k_validation.parquet --elevater cifar-10=cifar10_test.parquet \
        --labelled tiny_imagenet=tiny_imagenet_val.parquet --class_names tiny_imagenet_names.json --label_column en \
        --output_dir model_cards/results/photograph_baselines

The towers are EfficientNet-Lite2 and the multilingual Universal Sentence Encoder, both from pip packages (extra
`photos`). `--train` has the columns `image`, `en` and `zh`; a caption cell is a list. The image features of one image
at 224 px cost 15 ms on one core; the heads train in less than a minute a seed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from training.utils.cli import command_name, command_of, parse_options, user_errors
from training.utils.quiet import hide_library_bars

if TYPE_CHECKING:
    from training.evaluation.plan import EvalPlan
    from training.studies.photographs.frozen import FrozenTowers
    from training.utils.results import Row

PROGRAM = "python -m training.studies.photographs"
SEEDS = (1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class BaselineOptions:
    """Options of the command.

    Args:
        train: Captioned images for the heads: a parquet file with `image` and lists of captions in `en` and `zh`.
        output_dir: Folder for results.json and the cached embeddings.
        retrieval: Captioned images to measure, each NAME=SOURCE, as in training/eval.py.
        elevater: Sets of ELEVATER to measure, each SET=SOURCE, with its prompts in both languages.
        labelled: Other labelled sets, each SET=SOURCE, with `class_names`.
        class_names: Candidate classes of `labelled`, as in training/eval.py.
        label_column: Column of labels in `labelled`. Default: the first usual name.
        seeds: Seeds of the heads.
        overwrite: Whether to replace results in `output_dir`.
    """

    train: str
    output_dir: str
    retrieval: list[str] = field(default_factory=list)
    elevater: list[str] = field(default_factory=list)
    labelled: list[str] = field(default_factory=list)
    class_names: str | None = None
    label_column: str | None = None
    seeds: list[int] = field(default_factory=lambda: [*SEEDS])
    overwrite: bool = False

    def __post_init__(self):
        if not (self.retrieval or self.elevater or self.labelled):
            raise ValueError("retrieval: there is nothing to measure. Give --retrieval, --elevater or --labelled.")
        if bool(self.labelled) != bool(self.class_names):
            raise ValueError("class_names: belongs to --labelled; give both or neither.")


def run(options: BaselineOptions):
    """Train the heads, measure all baselines and write results.json.

    Args:
        options: What to read and write.

    Raises:
        ValueError: A package or a source is missing, or results would be replaced.
    """
    from tempfile import TemporaryDirectory

    from training.evaluation.embedding_cache import CachedEncoder, EmbeddingCache, find_processes
    from training.evaluation.runner import Outcome, Runner
    from training.utils.output import claim_folder
    from training.utils.results import RESULTS_FILE, Results, make_meta

    program = command_name(PROGRAM)
    plans = make_plans(options)
    with (
        claim_folder(options.output_dir, [RESULTS_FILE], command=program, overwrite=options.overwrite),
        TemporaryDirectory() as scratch,
    ):
        rows: list[Row] = []
        for seed, model in baselines(options):
            encoder = CachedEncoder(model, EmbeddingCache(f"{scratch}/{seed}", find_processes()))
            for plan in plans:
                rows += Runner(plan, encoder.cache, seed=seed).measure(encoder, encoder, Outcome())
        data = " ".join([options.train, *options.retrieval, *options.elevater, *options.labelled])
        Results(make_meta(data, None, command_of(PROGRAM, options)), rows).write(options.output_dir)


def make_plans(options: BaselineOptions) -> "list[EvalPlan]":
    """Open the sets.

    Args:
        options: Sources of the sets.

    Returns:
        A plan for each kind of set.
    """
    from training.evaluation.options import EvalOptions
    from training.evaluation.plan import EvalPlan
    from training.evaluation.sets.protocols import PROTOCOLS
    from training.text.writing_systems import LANGUAGES

    common: dict[str, Any] = {"model": ["baselines"], "output_dir": options.output_dir}
    plans = []
    if options.retrieval:
        plans.append(EvalPlan.open(EvalOptions(**common, retrieval=options.retrieval)))
    if options.elevater:
        sets = [entry.partition("=")[0] for entry in options.elevater]
        protocols = [name for name in PROTOCOLS if name in {f"elevater-{language}" for language in LANGUAGES}]
        plans.append(EvalPlan.open(EvalOptions(**common, protocol=protocols, sets=sets, data=options.elevater)))
    if options.labelled:
        common |= {"class_names": options.class_names, "label_column": options.label_column}
        plans.append(EvalPlan.open(EvalOptions(**common, data=options.labelled)))
    return plans


def baselines(options: BaselineOptions) -> "Iterator[tuple[int | None, FrozenTowers]]":
    """Train the heads, and yield each baseline with its seed; ConSE has none."""
    import torch
    from torch import nn

    from training.demo.photo_teacher.lite2 import read_lite2
    from training.demo.photo_teacher.photographs import load_captioned, object_names
    from training.studies.photographs.frozen import FrozenTowers, Towers
    from training.studies.photographs.heads import Both, Captions, Conse, train_heads
    from training.studies.sentence_encoder import read_sentence_encoder
    from training.text.writing_systems import LANGUAGES

    captioned = load_captioned(options.train, {language: language for language in LANGUAGES}, "train")
    towers = Towers(read_lite2(), read_sentence_encoder())
    captions = {language: Captions.of(lists, towers.sentences) for language, lists in captioned.captions.items()}
    names = {language: towers.sentences(each) for language, each in object_names().items()}
    conse = Conse(towers.lite2, torch.stack([*names.values()]).mean(0))
    yield None, FrozenTowers(towers, name="ConSE", image_head=conse)
    pooled = towers.pooled(captioned.images)
    for seed in options.seeds:
        heads = train_heads(pooled, captions, seed)
        yield seed, FrozenTowers(towers, name="caption heads", image_head=heads.image, text_head=heads.text)
        image, text = Both(conse, heads.image), Both(nn.Identity(), heads.text)
        yield seed, FrozenTowers(towers, name="ConSE + caption heads", image_head=image, text_head=text)


def main(argv: list[str] | None = None):
    """Parse the options and write the results."""
    options = parse_options(BaselineOptions, argv, prog=PROGRAM, description=__doc__ or "")
    with user_errors(command_name(PROGRAM), extra="photos"):
        hide_library_bars()
        run(options)


if __name__ == "__main__":
    main()
