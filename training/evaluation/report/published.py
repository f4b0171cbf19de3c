"""Results published by other authors, for comparison. None was measured by this project.

Each publisher used its own protocol, and for ImageNet its own class names and templates.
"""

from dataclasses import dataclass

from training.evaluation.sets.protocols import CN_CLIP_TEN, IMAGENET


@dataclass(frozen=True)
class Published:
    """One row of a published table.

    Args:
        model: Model name with its parameters in millions.
        language: Language of the class names.
        values: Metric in percent by set.
        source: Publication of the table.
        protocol: Closest protocol of this project; None if only ImageNet is published.
    """

    model: str
    language: str
    values: dict[str, float]
    source: str
    protocol: str | None = None


_CN_CLIP = "Chinese-CLIP, arXiv 2211.01335 and its Results.md"


def _cn_clip(model: str, *percent: float) -> Published:
    *ten, imagenet = percent
    values = dict(zip(CN_CLIP_TEN, ten, strict=True)) | {IMAGENET: imagenet}
    return Published(model, "zh", values, _CN_CLIP, "cn-clip-compat")


def _imagenet(model: str, percent: float, source: str) -> Published:
    return Published(model, "en", {IMAGENET: percent}, source)


PUBLISHED = (
    _cn_clip("CN-CLIP RN50 (77 M)", 72.7, 40.6, 36.9, 27.0, 21.9, 5.4, 30.2, 50.2, 47.7, 82.1, 33.5),
    _cn_clip("CN-CLIP ViT-B/16 (188 M)", 92.0, 64.4, 43.6, 46.9, 47.2, 12.8, 33.5, 67.6, 54.0, 83.3, 48.3),
    _imagenet("CLIP RN50", 59.8, "CLIP, arXiv 2103.00020"),
    _imagenet("CLIP ViT-B/32", 63.3, "CLIP, arXiv 2103.00020"),
    _imagenet("CLIP ViT-L/14", 75.5, "CLIP, arXiv 2103.00020"),
    _imagenet("TinyCLIP ViT-8M/16", 41.1, "TinyCLIP, arXiv 2309.12314"),
    _imagenet("TinyCLIP ViT-39M/16", 63.5, "TinyCLIP, arXiv 2309.12314"),
    _imagenet("TinyCLIP ViT-40M/32", 59.8, "TinyCLIP, arXiv 2309.12314"),
    _imagenet("MobileCLIP-S0 (11.4 + 42.4 M)", 67.8, "MobileCLIP, arXiv 2311.17049"),
    # text tower by open_clip's config; the README of apple/ml-mobileclip lists 42.4 M
    _imagenet("MobileCLIP2-S0 (11.4 + 63.4 M)", 71.5, "MobileCLIP2, arXiv 2508.20691"),
)
