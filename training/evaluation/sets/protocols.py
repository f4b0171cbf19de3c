"""Test sets and protocols: ELEVATER's twenty sets and ImageNet-1k, in English and in Chinese.

Source: the toolkit of ELEVATER (Li et al., arXiv 2204.08790) for classes, test sizes, metrics and KITTI's squashed
images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class EvalSet:
    """One test set.

    Args:
        num_classes: Number of classes in the protocol.
        num_images: Number of images in the test split of the protocol.
        metric: Metric of the protocol: `top1`, `mean_per_class`, `11_point_map` or `roc_auc`.
        hub: Data set on the Hub that is the default source. If its test split differs from the protocol's, the results
            say so.
        split: Test split of the data set on the Hub.
        clip_benchmark: Name of the set in the package `clip-benchmark`, if its English templates there are ELEVATER's.
        cn_clip: Name of the list of templates in the package `cn-clip`.
        squashed: Whether images are resized to the square input of the model. Otherwise the short side is resized and
            the center cropped.
        several_labels: Whether an image can have several labels.
        aliases: Class names in common copies of the set, each mapped to the English name of the protocol.
    """

    num_classes: int
    num_images: int
    metric: str
    hub: str
    split: str = "test"
    clip_benchmark: str | None = None
    cn_clip: str = "openai_templates"
    squashed: bool = False
    several_labels: bool = False
    aliases: dict[str, str] = field(default_factory=dict)


_WDS = "clip-benchmark/wds_"

ELEVATER = {
    "caltech-101": EvalSet(
        102, 6084, "mean_per_class", f"{_WDS}vtab-caltech101", "test", "caltech101", "caltech101_templates",
        aliases={
            "BACKGROUND_Google": "background", "airplanes": "airplane", "car_side": "side of a car",
            "cougar_body": "body of a cougar cat", "cougar_face": "face of a cougar cat",
            "crocodile_head": "head of a  crocodile", "flamingo_head": "head of a flamingo",
            "Faces_easy": "centered face", "Faces": "off-center face", "Leopards": "leopard",
            "Motorbikes": "motorbike", "snoopy": "snoopy (cartoon beagle)", "yin_yang": "yin and yang symbol",
        },
    ),
    "cifar-10": EvalSet(10, 10000, "top1", f"{_WDS}vtab-cifar10", "test", "cifar10"),
    "cifar-100": EvalSet(100, 10000, "top1", f"{_WDS}vtab-cifar100", "test", "cifar100", "cifar100_templates"),
    "country211": EvalSet(211, 21100, "top1", f"{_WDS}country211", "test", "country211", "country211_templates"),
    "dtd": EvalSet(47, 1880, "top1", f"{_WDS}vtab-dtd", "test", "dtd", "dtd_templates"),
    "eurosat_clip": EvalSet(
        10, 5000, "top1", f"{_WDS}vtab-eurosat", "test", "eurosat", "eurosat_templates",
        aliases={
            "AnnualCrop": "annual crop land", "Forest": "forest", "HerbaceousVegetation": "brushland or shrubland",
            "Highway": "highway or road", "Industrial": "industrial buildings or commercial buildings",
            "Pasture": "pasture land", "PermanentCrop": "permanent crop land",
            "Residential": "residential buildings or homes or apartments", "River": "river", "SeaLake": "lake or sea",
        },
    ),
    "fer-2013": EvalSet(
        7, 3589, "top1", f"{_WDS}fer2013", "test", "fer2013", "fer_templates",
        aliases={
            "anger": "angry", "disgust": "disgusted", "fear": "fearful", "happiness": "happy", "smiling": "happy",
            "bored": "neutral", "sadness": "sad", "depressed": "sad", "surprise": "surprised",
            "shocked": "surprised", "spooked": "surprised",
        },
    ),
    "fgvc-aircraft-2013b-variants102": EvalSet(
        100, 3333, "mean_per_class", f"{_WDS}fgvc_aircraft", "test", "fgvc_aircraft", "aircraft_templates"
    ),
    "food-101": EvalSet(101, 25250, "top1", "ethz/food101", "validation", "food101", "food_templates"),
    "gtsrb": EvalSet(43, 12630, "top1", f"{_WDS}gtsrb", "test", "gtsrb"),
    "hateful-memes": EvalSet(
        2, 500, "roc_auc", "Multimodal-Fatima/Hatefulmemes_validation", "validation", None, "hatefulmemes_templates",
        aliases={"not-hateful": "meme", "hateful": "hatespeech meme"},
    ),
    "kitti-distance": EvalSet(
        4, 711, "top1", f"{_WDS}vtab-kitti_closest_vehicle_distance", "test", "kitti_closest_vehicle_distance",
        "kitti_templates", squashed=True,
    ),
    "mnist": EvalSet(10, 10000, "top1", f"{_WDS}mnist", "test", "mnist"),
    "oxford-flower-102": EvalSet(
        102, 6149, "mean_per_class", f"{_WDS}vtab-flowers", "test", "flowers", "flower_templates"
    ),
    "oxford-iiit-pets": EvalSet(37, 3669, "mean_per_class", f"{_WDS}vtab-pets", "test", "pets", "pet_templates"),
    "patch-camelyon": EvalSet(2, 32768, "top1", f"{_WDS}vtab-pcam", "test", None, "patch_templates"),
    "rendered-sst2": EvalSet(2, 1821, "top1", f"{_WDS}renderedsst2", "test", "renderedsst2"),
    "resisc45_clip": EvalSet(45, 25200, "top1", f"{_WDS}vtab-resisc45", "test", None, "eurosat_templates"),
    "stanford-cars": EvalSet(196, 8041, "top1", f"{_WDS}cars", "test", "cars", "cars_templates"),
    "voc-2007-classification": EvalSet(
        20, 4952, "11_point_map", f"{_WDS}voc2007_multilabel", "test", "voc2007_multilabel", several_labels=True
    ),
}  # fmt: skip
IMAGENET = "imagenet-1k"
OURS = "ours"  # source of templates and class names that were written for this project
SETS = ELEVATER | {
    IMAGENET: EvalSet(1000, 50000, "top1", f"{_WDS}imagenet1k", "test", "imagenet1k")
}

SELECTIONS: dict[str, tuple[str, ...]] = {
    "all": tuple(SETS),
    "elevater": tuple(ELEVATER),
    "imagenet": (IMAGENET,),
}


PROTOCOLS = {"elevater-en": "en", "elevater-zh": "zh"}  # languages of class names and templates
CLASS_NAMES = "class-names"  # protocol of the user's own sets and classes: the plain names, unless templates are given


def set_title(name: str, num_images: int) -> str:
    """Name of a set in results; a part of a set of the protocol says how large it is.

    Args:
        name: Id of the set, or the name of a set of the user.
        num_images: Number of images that were measured.
    """
    total = SETS[name].num_images if name in SETS else num_images
    return name if num_images == total else f"{name} ({num_images:,} of {total:,} images)"


def find_sets(names: Sequence[str]) -> list[str]:
    """Expand ids and selections to ids of sets, in the order of the table.

    Raises:
        ValueError: A name is neither an id nor a selection.
    """
    found: set[str] = set()
    for name in names:
        if name not in SETS and name not in SELECTIONS:
            raise ValueError(
                f"sets: {name!r} does not exist. Give {', '.join(SELECTIONS)}, or sets by name: {', '.join(SETS)}."
            )
        found |= set(SELECTIONS.get(name, (name,)))
    return [name for name in SETS if name in found]
