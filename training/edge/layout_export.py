"""Write a model in the layout of another tool, and compare its embeddings and rankings with those of transformers."""

import importlib.metadata
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from datasets import Image as ImageFeature
from PIL import Image

from modeling_dcclip import DCCLIPProcessor
from training.data import open_image
from training.edge.export import open_model, open_output
from training.edge.formats import ExportOptions
from training.edge.gate_data import GateData
from training.edge.graphs import trace
from training.edge.layouts import LAYOUTS, Layout
from training.edge.output import STAYS, copy_model
from training.edge.towers import TOWERS
from training.edge.verdict import TOP, class_image_pairs, recall, same_top
from training.evaluation.zero_shot_model import ZeroShotModel
from training.teachers import weights_fingerprint
from training.utils.results import RESULTS_FILE, Results, make_meta

# a tool that encodes the same tokens gives the same embeddings, up to rounding
MAX_TEXT_DIFFERENCE = 1e-5
# a tool that resizes an image in its own code may round a pixel in the other direction
MIN_COSINE = 0.999
MIN_SAME_TOP = 0.99


@dataclass(frozen=True)
class LayoutVerdict:
    """The comparison of a tool with transformers in fp32, where Pillow resizes, on the data of the gate.

    Args:
        layout: Name of the layout and of its folder.
        kept: Whether the folder is written.
        reasons: Reasons why it is not written, a sentence each.
        bytes: Size of the folder in bytes.
        text_difference: Largest difference of a component of the text embeddings.
        image_difference: Largest difference of a component of the image embeddings.
        image_cosine: Lowest cosine between the image embeddings.
        same_top: Share of the class names (0..1) whose ten best images are the same, in any order, by language; empty
            without labels.
        recall: Recall at 10 of text-to-image retrieval (0..1) in the tool, by language; empty without labels.
        expected_recall: Recall at 10 in transformers, by language.
    """

    layout: str
    kept: bool
    reasons: list[str]
    bytes: int
    text_difference: float
    image_difference: float
    image_cosine: float
    same_top: dict[str, float]
    recall: dict[str, float]
    expected_recall: dict[str, float]

    def line(self) -> str:
        """The verdict in one line, for the terminal."""
        if not self.kept:
            return f"{self.layout}: not written. {' '.join(self.reasons)}"
        size = f"{self.layout}: {self.bytes / 1e6:.2f} MB, largest difference from transformers: texts "
        size += f"{self.text_difference:.1g}, images {self.image_difference:.1g}"
        if not self.same_top:
            return f"{size}; rankings unchecked"
        same = ", ".join(f"{language} {100 * share:.1f} %" for language, share in self.same_top.items())
        return f"{size}; same ten best images: {same}"


def export_layout(options: ExportOptions) -> LayoutVerdict:
    """Write a model folder with the folder of one layout in it, if the tool ranks as transformers does.

    Args:
        options: Model, output folder, layout, and data of the gate.

    Returns:
        The verdict.

    Raises:
        ValueError: The folder is not a complete model, the options ask for single towers or number formats, a package
            is missing, the tool cannot represent the model, or the labelled set cannot be used.
    """
    layout = LAYOUTS[options.format]
    if options.towers != "both" or options.variants not in (None, ["fp32"]):
        raise ValueError(
            f"format: {layout.name} holds both towers in fp32. Leave out --towers, and name no --variants but fp32."
        )
    layout.check()
    student, processor = open_model(options.folder)
    model = ZeroShotModel(student, processor, options.folder)
    data = GateData.from_options(options)
    folder, output_dir = Path(options.folder), Path(options.output_dir)
    target = output_dir / layout.name
    with open_output(options) as scratch:
        graphs = {tower: scratch / f"{tower}_model.onnx" for tower in TOWERS} if layout.graphs else {}
        for tower, path in graphs.items():
            trace(student, tower, path)
        weights = weights_fingerprint(student)
        earlier, aside = _results_of(output_dir, weights), scratch / "earlier"
        if _is_accepted(earlier, layout, weights) and target.exists():
            target.replace(aside)
        shutil.rmtree(target, ignore_errors=True)  # of other weights
        try:
            # in its final place, which some layouts contain as a path
            layout.write(folder, graphs, target)
            verdict = _compare(layout, target, model, data)
        except BaseException:
            _restore(aside, target)
            raise
        if stays := not verdict.kept and aside.exists():
            verdict = replace(verdict, reasons=[*verdict.reasons, STAYS])
        if not verdict.kept:
            _restore(aside, target)
        copy_model(folder, output_dir, scratch)
        if earlier is not None:  # the copy has replaced them by the results of the model's own folder
            earlier.write(output_dir)
        if not stays:
            _record(verdict, layout, weights, data.source, output_dir)
    return verdict


def _is_accepted(earlier: Results | None, layout: Layout, weights: str) -> bool:
    """Whether an earlier export of these weights to this layout was accepted."""
    entry = earlier.meta.get("layouts", {}).get(layout.name) if earlier is not None else None
    return entry is not None and entry["kept"] and entry["weights"] == weights


def _restore(aside: Path, target: Path):
    """Remove a folder that is incomplete or refused, and put back the accepted one that was set aside, if any."""
    shutil.rmtree(target, ignore_errors=True)
    if aside.exists():
        aside.replace(target)


def _results_of(output_dir: Path, weights: str) -> Results | None:
    """The results in an output folder if they tell of exports of these weights; else None."""
    path = output_dir / RESULTS_FILE
    if not path.exists():
        return None
    results = Results.read(path)
    exports = [results.meta.get("export", {}), *results.meta.get("layouts", {}).values()]
    return results if any(entry.get("weights") == weights for entry in exports) else None


def _compare(layout: Layout, folder: Path, model: ZeroShotModel, data: GateData) -> LayoutVerdict:
    """Encode the data with the tool and with transformers, and compare embeddings and rankings."""
    tool, column = layout.open(folder), data.image_column
    # the tools resize in Pillow; torchvision, the default of transformers, rounds pixels in another way, which
    # reorders similar images
    processor = DCCLIPProcessor.from_pretrained(model.name, backend="pil")
    cells = [
        row[column] for rows in data.sets.values() for row in rows.cast_column(column, ImageFeature(decode=False))
    ]
    opened = [_with_even_margins(open_image(cell), model.image_size) for cell in cells]
    found_images = tool.encode_images(opened)
    # by the processor of the folder: evaluation crops with the rounding of ELEVATER's toolkit
    images = np.concatenate([_encode(model, processor, image) for image in opened])
    names = {language: data.class_names.in_language(language) for language in data.languages}
    found_texts = {language: tool.encode_texts(texts) for language, texts in names.items()}
    texts = {language: model.encode_texts(texts).numpy() for language, texts in names.items()}
    found = {language: torch.from_numpy(found_texts[language] @ found_images.T) for language in names}
    expected = {language: torch.from_numpy(texts[language] @ images.T) for language in names}
    # without labels, the images are few or noise, and their rankings tell nothing
    ranked = list(names) if data.is_checked else []
    pairs = class_image_pairs(data) if data.is_checked else torch.empty(0, 2)
    verdict = LayoutVerdict(
        layout=layout.name,
        kept=True,
        reasons=[],
        bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        text_difference=max(float(abs(found_texts[language] - texts[language]).max()) for language in names),
        image_difference=float(abs(found_images - images).max()),
        image_cosine=float((found_images * images).sum(1).min()),
        same_top={language: same_top(found[language], expected[language]) for language in ranked},
        recall={language: recall(found[language], pairs) for language in ranked},
        expected_recall={language: recall(expected[language], pairs) for language in ranked},
    )
    reasons = _reasons_against(verdict)
    return replace(verdict, kept=not reasons, reasons=reasons)


def _with_even_margins(image: Image.Image, size: int) -> Image.Image:
    """Shorten an image so that the center crop cuts as many pixels on one side as on the other.

    Tools round half a pixel up or down. That moves the crop by a pixel, and tells nothing about the conversion.
    """
    short, long = sorted(image.size)
    length = next(length for length in range(long, 0, -1) if (size * length // short - size) % 2 == 0)
    left, top = (max(0, edge - length) // 2 for edge in image.size)
    return image.crop((left, top, left + min(image.width, length), top + min(image.height, length)))


def _encode(model: ZeroShotModel, processor: DCCLIPProcessor, image: Image.Image) -> np.ndarray:
    return model.embed_images(processor(images=image, return_tensors="pt")["pixel_values"]).cpu().numpy()


def _reasons_against(verdict: LayoutVerdict) -> list[str]:
    reasons = []
    if not verdict.text_difference <= MAX_TEXT_DIFFERENCE:
        reasons.append(
            f"Text embeddings differ from those of transformers by up to {verdict.text_difference:.1g}; "
            f"{MAX_TEXT_DIFFERENCE} is allowed."
        )
    if not verdict.image_cosine >= MIN_COSINE:
        reasons.append(
            f"The cosine of an image embedding with that of transformers is {verdict.image_cosine:.5f}; at least "
            f"{MIN_COSINE} is required."
        )
    for language, share in verdict.same_top.items():
        if share < MIN_SAME_TOP:
            reasons.append(
                f"{100 * share:.1f} % of the class names in {language} have the same {TOP} best images as in "
                f"transformers; {100 * MIN_SAME_TOP:.0f} % are required."
            )
    return reasons


def _record(verdict: LayoutVerdict, layout: Layout, weights: str, source: str, output_dir: Path):
    """Add the verdict to the results of the folder, in place of an earlier one on this layout or on other weights."""
    path = output_dir / RESULTS_FILE
    run = make_meta(source, None)
    run["versions"] |= {name: importlib.metadata.version(name) for name in layout.packages.values()}
    results = Results.read(path) if path.exists() else Results(run)
    earlier = results.meta.get("layouts", {})
    kept = {name: entry for name, entry in earlier.items() if entry["weights"] == weights and name != layout.name}
    entry = {"weights": weights, "run": run} | asdict(verdict)
    Results(results.meta | {"layouts": kept | {layout.name: entry}}, results.rows).write(output_dir)
