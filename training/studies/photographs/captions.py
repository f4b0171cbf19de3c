r"""Measure how well captions tell photographs apart, without any image: a caption finds the others of its photograph.

Example:
  python -m training.studies.photographs.captions --retrieval flickr8k_validation.parquet \
      --models teacher=runs/photo_teacher dcclip-tiny-photo=model_cards/dcclip-tiny-photo \
      --output_dir runs/captions

A query is one caption. A candidate is the mean embedding of the other captions of a photograph, the best description
of it at hand. If queries in one language find fewer photographs here, they carry less information, and no image tower
can make up for that.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

from training.studies.named_models import named_models
from training.text.writing_systems import LANGUAGE_NAMES, LANGUAGES
from training.utils.cli import command_name, command_of, parse_options, user_errors
from training.utils.process import keep_freed_memory
from training.utils.quiet import hide_library_bars
from training.utils.results import RESULTS_FILE, Results, Row, make_meta, markdown_table, percent_cells

if TYPE_CHECKING:
    from torch import Tensor

PROGRAM = "python -m training.studies.photographs.captions"
SENTENCE_ENCODER = "multilingual USE"
SHOWN = 5  # of the table


@dataclass(frozen=True, kw_only=True)
class CaptionsOptions:
    """Options of the command.

    Args:
        retrieval: Photographs with lists of at least two captions in the columns `en` and `zh`.
        models: Models whose text towers embed the captions, each NAME=FOLDER, beside the Universal Sentence Encoder,
            which knows no photograph.
        output_dir: Folder for results.json.
        overwrite: Whether to replace results in `output_dir`.
    """

    retrieval: str
    output_dir: str
    models: list[str] = field(default_factory=list)
    overwrite: bool = False

    def __post_init__(self):
        named_models(self.models)


def run(options: CaptionsOptions) -> Results:
    """Measure all encoders and write results.json.

    Args:
        options: What to read and write.

    Raises:
        ValueError: A model or a source cannot be opened, a photograph has too few captions, or results would be
            replaced.
    """
    from training.evaluation.models.zero_shot_model import ZeroShotModel
    from training.studies.rows import CAPTIONED, open_rows
    from training.studies.sentence_encoder import read_sentence_encoder
    from training.utils.output import claim_folder

    program = command_name(PROGRAM)
    with claim_folder(options.output_dir, [RESULTS_FILE], command=program, overwrite=options.overwrite):
        rows = open_rows(options.retrieval, CAPTIONED, "retrieval")
        captions = equally_many({language: list(rows[language]) for language in LANGUAGES})
        results = Results(make_meta(options.retrieval, None, command_of(PROGRAM, options)))
        results.rows += measure(read_sentence_encoder(), SENTENCE_ENCODER, captions)
        for name, folder in named_models(options.models):
            results.rows += measure(ZeroShotModel.from_pretrained(folder).encode_texts, name, captions)
        results.write(options.output_dir)
    return results


def equally_many(captions: dict[str, list[list[str]]]) -> dict[str, list[list[str]]]:
    """Keep as many captions of each photograph as every one has in both languages, from the first.

    Args:
        captions: Captions of each photograph by language.

    Raises:
        ValueError: A photograph has fewer than two captions in a language, or cells are no lists.
    """
    for language, cells in captions.items():
        for row, cell in enumerate(cells):
            if isinstance(cell, str) or len(cell or ()) < 2:
                raise ValueError(
                    f"retrieval: row {row} has no list of at least two captions in the column {language!r}, got "
                    f"{cell!r}. Name photographs with several captions each."
                )
    number = min(len(cell) for cells in captions.values() for cell in cells)
    return {language: [cell[:number] for cell in cells] for language, cells in captions.items()}


def measure(
    encode: Callable[[Sequence[str]], "Tensor"], name: str, captions: dict[str, list[list[str]]]
) -> Iterator[Row]:
    """Measure the recall of photographs by captions, among captions.

    Args:
        encode: Function that embeds N texts, (N, D).
        name: Name of the encoder, written to the rows.
        captions: Captions of each photograph by language, equally many, at least two.

    Yields:
        Rows for each pair of languages: `language` is that of the queries, `protocol` that of the candidates.
    """
    import torch
    from torch.nn.functional import normalize

    from training.evaluation.metrics import grouped_interval
    from training.evaluation.retrieval import KS, ranks

    embeddings = {}
    for language, cells in captions.items():
        flat = encode([caption for cell in cells for caption in cell]).float()
        embeddings[language] = normalize(flat, dim=-1).unflatten(0, (len(cells), -1))  # (N, C, D)
    for asked, found in product(captions, repeat=2):
        queries, candidates = embeddings[asked], embeddings[found]
        photographs = torch.arange(len(queries))
        own = torch.stack([photographs, photographs], 1)
        # the caption that asks, and the one of the same number in the other language, describe no candidate
        others = normalize(candidates.sum(1, keepdim=True) - candidates, dim=-1)
        place = torch.cat([ranks(queries[:, number], others[:, number], own) for number in range(queries.shape[1])])
        for k in KS:
            hits = place < k
            yield Row(
                model=name,
                set="captions",
                protocol=found,
                language=asked,
                metric=f"caption_R@{k}",
                value=int(hits.sum()) / len(hits),
                interval=grouped_interval(hits, photographs.repeat(queries.shape[1])),
            )


def table(results: Results) -> str:
    """Render recall at 5 in percent, with a line for each pair of languages and a column for each encoder.

    Args:
        results: Results of this study.
    """
    encoders = list(dict.fromkeys(row.model for row in results.rows))
    lines = [["R@5 in %, captions as queries and as candidates", *encoders], ["---", *["---:"] * len(encoders)]]
    for asked, found in product(LANGUAGES, repeat=2):
        fields = {"language": asked, "protocol": found, "metric": f"caption_R@{SHOWN}"}
        values = [results.mean(model=encoder, **fields) for encoder in encoders]
        lines.append([f"{LANGUAGE_NAMES[asked]} queries, {LANGUAGE_NAMES[found]} candidates", *percent_cells(values)])
    return markdown_table(lines)


def main(argv: list[str] | None = None):
    """Parse the options, measure, print the table."""
    options = parse_options(CaptionsOptions, argv, prog=PROGRAM, description=__doc__)
    with user_errors("captions", extra="photos"):
        hide_library_bars()
        keep_freed_memory()
        print(f"\n{table(run(options))}")


if __name__ == "__main__":
    main()
