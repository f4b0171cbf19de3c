"""Zero-shot classification of models on a labelled set, in a named language; writes `results.json`.

python training/eval.py --model runs/demo/model --data unseen=TEST.parquet --class_names NAMES.json --language zh
--output_dir out
"""

from dataclasses import dataclass

from jsonargparse import ArgumentError, ArgumentParser

from training.data import load_source
from training.results import Results, make_meta
from training.zero_shot.class_names import ClassNames
from training.zero_shot.classify import encode, evaluate, score
from training.zero_shot.models import ZeroShotModel


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """What to measure.

    Args:
        model: folder or Hub id of a model with image and text features; several are a list.
        data: labelled sets, NAME=SOURCE; SOURCE is a parquet file, a folder, a Hub id or `module:function`.
        class_names: JSON list of {language: name}, one entry a class, or the id of one of ELEVATER's sets, such as
            cifar-100.
        language: languages of the candidates (ISO 639-1 codes); en and zh where none is given.
        output_dir: where results.json goes.
        split: of the data, where there are several.
        image_column: column of the pictures.
        label_column: column of the label's name.
        label_language: language in which the data name their labels.
        stage: written to the rows.
        seed: of the model's training, written to the rows.
        text_model: folder or Hub id of another model that reads the candidates, such as the teacher of the one that
            sees the pictures: whether their embeddings can be compared.
    """

    model: list[str]
    data: list[str]
    class_names: str
    output_dir: str
    language: list[str]
    split: str = "test"
    image_column: str = "image"
    label_column: str = "label"
    label_language: str = "en"
    stage: str | None = None
    seed: int | None = None
    text_model: str | None = None


def main(argv: list[str] | None = None) -> Results:
    """Parse, measure, write, print the table."""
    parser = ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", action="config", help="options in YAML")
    for name in ("model", "data", "language"):  # several values, or the option several times
        parser.add_argument(f"--{name}", nargs="+", action="extend", type=str, default=[])
    parser.add_class_arguments(EvalOptions, skip={"model", "data", "language"})
    try:
        values = vars(parser.instantiate(parser.parse_args(argv)))
    except ArgumentError as error:
        parser.exit(2, f"eval: {error}\n")
    values.pop("config")
    values["language"] = values["language"] or ["en", "zh"]  # a default that is extended could not be replaced
    for name in ("model", "data"):
        if not values[name]:
            parser.exit(2, f"eval: --{name} is missing. See --help.\n")
    options = EvalOptions(**values)
    class_names = ClassNames.read(options.class_names, options.label_language)
    sets = {}
    for entry in options.data:
        name, _, source = entry.rpartition("=")
        sets[name or source] = load_source(source, options.split)
    results = Results(make_meta(data=" ".join(options.data), seed=options.seed, class_names=options.class_names))
    fields = {"label_column": options.label_column, "stage": options.stage, "seed": options.seed}
    reader = None
    if options.text_model is not None:
        reader = encode(ZeroShotModel.from_pretrained(options.text_model), {}, class_names, options.language)
    for name in options.model:
        model = ZeroShotModel.from_pretrained(name)
        if reader is None:
            results.rows += evaluate(
                model, sets, class_names, options.language, image_column=options.image_column, **fields
            )
        else:
            seen = encode(model, sets, class_names, [], options.image_column)
            results.rows += score(seen, reader, sets, class_names, **fields)
    path = results.write(options.output_dir)
    print(f"{results.table()}\n\n{path}")
    return results


if __name__ == "__main__":
    main()
