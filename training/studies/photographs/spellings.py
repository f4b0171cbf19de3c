r"""Measure how models cope with spelling variants of texts: letter case, underscores, hyphens, traditional characters.

Examples:
  python -m training.studies.photographs.spellings --models before=runs/old after=runs/model \
      --retrieval flickr8k_validation.parquet --labelled tiny_imagenet.parquet --output_dir runs/spellings

OpenCC converts simplified Chinese to traditional: no captions by people who write traditional Chinese were at hand.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from training.studies.named_models import named_models
from training.text.writing_systems import LANGUAGE_NAMES
from training.utils.cli import command_name, command_of, parse_options, user_errors
from training.utils.process import keep_freed_memory
from training.utils.quiet import hide_library_bars
from training.utils.results import RESULTS_FILE, Results, Row, make_meta, markdown_table, percent_cells

if TYPE_CHECKING:
    from training.evaluation.models.zero_shot_model import ZeroShotModel
    from training.evaluation.sets.retrieval_sets import RetrievalSet
    from training.studies.labelled import LabelledPhotographs

PROGRAM = "python -m training.studies.photographs.spellings"
AS_WRITTEN, TITLE, UPPER = "as written", "Title Case", "UPPER CASE"
UNDERSCORES, HYPHENS = "with_underscores", "with-hyphens"
TRADITIONAL = "traditional"
SPELLINGS = {"en": (AS_WRITTEN, TITLE, UPPER, UNDERSCORES, HYPHENS), "zh": (AS_WRITTEN, TRADITIONAL)}
SPELLERS: dict[str, Callable[[str], str]] = {
    AS_WRITTEN: str,
    TITLE: str.title,
    UPPER: str.upper,
    UNDERSCORES: lambda text: text.replace(" ", "_"),
    HYPHENS: lambda text: text.replace(" ", "-"),
}
RECALL, TOP1 = "text_to_image_R@5", "top1"


@dataclass(frozen=True, kw_only=True)
class SpellingsOptions:
    """Options of the command.

    Args:
        models: Models to measure, each NAME=FOLDER.
        retrieval: Photographs with the columns `image`, `en` and `zh`.
        labelled: Labelled photographs with the columns `image`, `label`, `en` and `zh`.
        num_labelled: Largest number of labelled photographs, evenly spaced.
        output_dir: Folder for results.json.
        overwrite: Whether to replace results in `output_dir`.
    """

    models: list[str]
    retrieval: str
    labelled: str
    output_dir: str
    num_labelled: int = 2000
    overwrite: bool = False

    def __post_init__(self):
        named_models(self.models)
        if self.num_labelled < 1:
            raise ValueError(f"num_labelled: must be at least 1, got {self.num_labelled}.")


def run(options: SpellingsOptions) -> Results:
    """Measure all models and write results.json.

    Args:
        options: What to read and write.

    Raises:
        ValueError: A model or a source cannot be opened, or results would be replaced.
    """
    from training.evaluation.models.zero_shot_model import ZeroShotModel
    from training.evaluation.sets.retrieval_sets import make_retrieval_set
    from training.studies.labelled import LabelledPhotographs
    from training.studies.photographs.short_runs import COLUMNS
    from training.studies.rows import CAPTIONED, open_rows
    from training.utils.output import claim_folder

    program = command_name(PROGRAM)
    with claim_folder(options.output_dir, [RESULTS_FILE], command=program, overwrite=options.overwrite):
        rows = open_rows(options.retrieval, CAPTIONED, "retrieval")
        pairs = make_retrieval_set("retrieval", rows, COLUMNS, "image", options.retrieval)
        labelled = LabelledPhotographs.open(options.labelled, options.num_labelled)
        results = Results(make_meta(f"{options.retrieval} {options.labelled}", None, command_of(PROGRAM, options)))
        for name, folder in named_models(options.models):
            results.rows += measure(ZeroShotModel.from_pretrained(folder), name, pairs, labelled)
        results.write(options.output_dir)
    return results


def measure(
    model: "ZeroShotModel", name: str, pairs: "RetrievalSet", labelled: "LabelledPhotographs"
) -> Iterator[Row]:
    """Measure text-to-image recall and top-1 accuracy in each spelling.

    Args:
        model: Model to measure.
        name: Its name, written to the rows.
        pairs: Photographs with captions in each language.
        labelled: Photographs with class names in each language.

    Yields:
        Two rows for each spelling, which is their protocol.
    """
    from training.evaluation import retrieval

    images, photographs = model.encode_images(pairs.rows), model.encode_images(labelled.rows)
    for language, spellings in SPELLINGS.items():
        for spelling in spellings:
            spell = speller(spelling)
            texts = model.encode_texts([spell(text) for text in pairs.captions[language]])
            for row in retrieval.score(pairs, language, images, texts, name):
                if row.metric == RECALL:
                    yield replace(row, protocol=spelling)
            names = [spell(text) for text in labelled.names[language]]
            fields = {"model": name, "protocol": spelling, "language": language}
            yield from labelled.score(model, photographs, names, **fields)


def speller(spelling: str) -> Callable[[str], str]:
    """The function that writes a text in a spelling.

    Args:
        spelling: One of `SPELLINGS`.
    """
    if spelling == TRADITIONAL:
        from opencc import OpenCC

        return OpenCC("s2t").convert
    return SPELLERS[spelling]


def table(results: Results) -> str:
    """Render recall and accuracy in percent, with a line for each spelling and a column for each model.

    Args:
        results: Results of this study.
    """
    models = list(dict.fromkeys(row.model for row in results.rows))
    lines = [["R@5 / top-1 in %", *models], ["---", *["---:"] * len(models)]]
    for language, spellings in SPELLINGS.items():
        for spelling in spellings:
            cells = [_cell(results, model=model, language=language, protocol=spelling) for model in models]
            lines.append([f"{LANGUAGE_NAMES[language]}, {spelling}", *cells])
    return markdown_table(lines)


def _cell(results: Results, **fields: str) -> str:
    values = [results.mean(**fields, metric=metric) for metric in (RECALL, TOP1)]
    return " / ".join(percent_cells(values))


def main(argv: list[str] | None = None):
    """Parse the options, measure, print the table."""
    options = parse_options(SpellingsOptions, argv, prog=PROGRAM, description=__doc__)
    with user_errors("spellings", extra="photos"):
        hide_library_bars()
        keep_freed_memory()
        print(f"\n{table(run(options))}")


if __name__ == "__main__":
    main()
