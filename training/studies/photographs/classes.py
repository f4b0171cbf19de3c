r"""Measure which classes of a classifier models still know: on photographs whose class the classifier is sure of.

Example:
  python -m training.demo.packaged_weights --network lite2 --classifier --output_dir runs/lite2_classifier
  python -m training.studies.photographs.classes --classifier runs/lite2_classifier \
      --images photos_coco_unlabelled.parquet \
      --models teacher=runs/photo_teacher dcclip-tiny-photo=model_cards/dcclip-tiny-photo \
      --output_dir runs/classes

The image tower of `dcclip-tiny-photo` comes from a classifier of ImageNet's thousand classes. No caption names most of
them, so a model can lose them in training, and no set of captions shows it. The photographs need no labels: the label
is the classifier's prediction. It is sometimes wrong, but it is the same for all models.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from training.studies.named_models import named_models
from training.text.writing_systems import LANGUAGE_NAMES, LANGUAGES
from training.utils.cli import command_name, command_of, parse_options, user_errors
from training.utils.process import keep_freed_memory
from training.utils.quiet import hide_library_bars
from training.utils.results import RESULTS_FILE, Results, Row, make_meta, markdown_table, percent_cells

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from training.evaluation.models.zero_shot_model import ZeroShotModel
    from training.evaluation.sets.class_names import ClassNames

PROGRAM = "python -m training.studies.photographs.classes"
SURE = 0.5  # probability from which the classifier is sure
TOPS = (1, 5)
BATCH = 64


@dataclass(frozen=True, kw_only=True)
class ClassesOptions:
    """Options of the command.

    Args:
        images: Photographs in the column `image`: Hub id, folder or parquet files.
        classifier: Folder or Hub id of an image classifier of ImageNet's classes, of transformers or timm.
        models: Models to measure, each NAME=FOLDER.
        output_dir: Folder for results.json.
        overwrite: Whether to replace results in `output_dir`.
    """

    images: str
    classifier: str
    models: list[str] = field(default_factory=list)
    output_dir: str
    overwrite: bool = False

    def __post_init__(self):
        named_models(self.models)
        if not self.models:
            raise ValueError("models: there is none to measure. Name at least one, such as mine=runs/mine/model.")


def run(options: ClassesOptions) -> Results:
    """Measure all models and write results.json.

    Args:
        options: What to read and write.

    Raises:
        ValueError: A model, the classifier or the source cannot be opened, the classifier has other classes or is sure
            of no photograph, or results would be replaced.
    """
    from training.evaluation.models.zero_shot_model import ZeroShotModel
    from training.evaluation.sets.imagenet import CLIP_BENCHMARK, imagenet_names
    from training.studies.rows import open_rows
    from training.utils.output import claim_folder

    program = command_name(PROGRAM)
    with claim_folder(options.output_dir, [RESULTS_FILE], command=program, overwrite=options.overwrite):
        names, _ = imagenet_names(CLIP_BENCHMARK)
        rows = open_rows(options.images, ["image"], "images")
        photographs, classes = sure_classes(rows, options.classifier, len(names.in_language("en")))
        results = Results(make_meta(options.images, None, command_of(PROGRAM, options)))
        results.meta |= {"num_images": len(rows), "num_sure": len(photographs)}
        for name, folder in named_models(options.models):
            results.rows += measure(ZeroShotModel.from_pretrained(folder), name, photographs, classes, names)
        results.write(options.output_dir)
    return results


def sure_classes(rows: "Dataset", classifier: str, num_names: int) -> tuple["Dataset", "Tensor"]:
    """Select the photographs whose class a classifier is sure of.

    Args:
        rows: Photographs in the column `image`.
        classifier: Folder or Hub id of the classifier.
        num_names: Number of classes that have names.

    Returns:
        Those photographs, and the class of each, (N,) int64.

    Raises:
        ValueError: The classifier has another number of classes, or is sure of no photograph.
    """
    import torch
    from tqdm.auto import tqdm

    from training.evaluation.models.image_loading import ImagePreparation, prepared_batches
    from training.teachers.classifier import Classifier

    network = Classifier.from_pretrained(classifier, torch.float32, torch.device("cpu"))
    network.require_classes(num_names, classifier)
    prepare = ImagePreparation(network.normalize.image_size, network.normalize, classifier).fit
    batches = prepared_batches(rows, "image", BATCH, prepare)
    number = -(-len(rows) // BATCH)
    parts = [network.probabilities(part) for part in tqdm(batches, "classify", number, unit="batch", leave=False)]
    probability, classes = torch.cat(parts).max(-1)
    sure = (probability > SURE).nonzero().flatten()
    if not len(sure):
        raise ValueError(f"images: the classifier is sure of none of {len(rows)} photographs. Name others.")
    return rows.select(sure.tolist()), classes[sure]


def measure(
    model: "ZeroShotModel", name: str, photographs: "Dataset", classes: "Tensor", names: "ClassNames"
) -> list[Row]:
    """Measure how often a model names the class of a photograph, among all classes.

    Args:
        model: Model to measure.
        name: Its name, written to the rows.
        photographs: Photographs in the column `image`.
        classes: Class of each, (N,) int64.
        names: Names of all classes in both languages.
    """
    import torch

    from training.evaluation.classify import class_embeddings
    from training.evaluation.measure import measure as measure_classes
    from training.evaluation.sets.general import general_templates

    images, rows = model.encode_images(photographs), []
    for language in LANGUAGES:
        listed = names.in_language(language)
        distinct = list(dict.fromkeys(listed))  # ImageNet has two classes of the name "sunglasses"
        texts = class_embeddings(model, distinct, general_templates(language))
        labels = torch.tensor([distinct.index(listed[label]) for label in classes.tolist()])
        measured = measure_classes(images, texts, labels, [f"top{top}" for top in TOPS])
        rows += measured.rows(model=name, set="classes", language=language)
    return rows


def table(results: Results) -> str:
    """Render the shares in percent, with a line for each model.

    Args:
        results: Results of this study.
    """
    columns = [(top, language) for top in TOPS for language in LANGUAGES]
    head = [f"top-{top}, {LANGUAGE_NAMES[language]}" for top, language in columns]
    lines = [["%", *head], ["---", *["---:"] * len(columns)]]
    for name in dict.fromkeys(row.model for row in results.rows):
        values = [results.mean(model=name, metric=f"top{top}", language=language) for top, language in columns]
        lines.append([name, *percent_cells(values)])
    return markdown_table(lines)


def main(argv: list[str] | None = None):
    """Parse the options, measure, print the table."""
    options = parse_options(ClassesOptions, argv, prog=PROGRAM, description=__doc__)
    with user_errors("classes", extra="photos"):
        hide_library_bars()
        keep_freed_memory()
        results = run(options)
        print(f"\n{results.meta['num_sure']:,} of {results.meta['num_images']:,} photographs\n\n{table(results)}")


if __name__ == "__main__":
    main()
