"""A contact sheet: queries in both languages, and the photographs that they find."""

from pathlib import Path

from datasets import Dataset
from PIL import Image, ImageOps

from training.corpus.free_photos import FREE_PHOTOS
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.utils.fonts import font_families

NUM_FOUND = 3
NUM_COLORS = 192  # in the file; less than a quarter of the bytes of full colour
RIGHT, OTHER = "#1a7f37", "#666666"


def plot_contact_sheet(model: ZeroShotModel, path: Path):
    """Plot the photographs that each query finds, the best first. The photograph of the query has a green cosine.

    Args:
        model: The finished student.
        path: PNG file to write.
    """
    from matplotlib.figure import Figure  # its import takes half a second

    photos = [photo.open() for photo in FREE_PHOTOS]
    images = model.encode_images(Dataset.from_dict({"image": photos}))
    languages = list(FREE_PHOTOS[0].query)
    figure = Figure(figsize=(1.3 * NUM_FOUND * len(languages) + 0.3, 1.5 * len(photos) + 0.8))
    grid = figure.add_gridspec(
        len(photos),
        NUM_FOUND * len(languages),
        left=0.01,
        right=0.99,
        top=0.94,
        bottom=0.04,
        hspace=0.5,
        wspace=0.06,
    )
    fonts = font_families()
    for side, language in enumerate(languages):
        queries = [photo.query[language] for photo in FREE_PHOTOS]
        cosines = model.encode_texts(queries) @ images.T
        for row, (query, scores) in enumerate(zip(queries, cosines, strict=True)):
            for place, found in enumerate(scores.topk(NUM_FOUND).indices.tolist()):
                axis = figure.add_subplot(grid[row, NUM_FOUND * side + place])
                axis.imshow(ImageOps.pad(photos[found], (224, 224), color="white"))
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
                axis.set_xlabel(f"{scores[found]:.2f}", fontsize=8, color=RIGHT if found == row else OTHER, labelpad=2)
                if place == 0:
                    axis.set_title(query, fontsize=10, family=fonts, loc="left", pad=4)
    figure.suptitle("The best three of seven photographs for each query, with cosines; the right one in green")
    terms = list(dict.fromkeys(f"{photo.terms} ({photo.package})" for photo in FREE_PHOTOS))
    credits = "\n".join("; ".join(part) for part in (terms[:4], terms[4:]))
    figure.text(0.5, 0.004, credits, ha="center", fontsize=6, color="grey")
    figure.savefig(path, dpi=90)
    # maximum coverage keeps the green of the few pixels of a cosine
    Image.open(path).convert("RGB").quantize(NUM_COLORS, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)
