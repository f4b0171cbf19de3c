"""The tables of sets and protocols agree with ELEVATER."""

import pytest

from tests.training.evaluation.sets.test_class_names import COUNTS
from training.evaluation.report.published import PUBLISHED
from training.evaluation.sets.class_names import SETS as NAMED
from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.labels import ClassLookup
from training.evaluation.sets.protocols import (
    CN_CLIP_TEN,
    ELEVATER,
    IMAGENET,
    METRICS,
    PROTOCOLS,
    SETS,
    find_protocol,
    find_sets,
)


def test_the_twenty_sets_have_names_and_the_sizes_of_the_benchmark():
    assert set(ELEVATER) == set(NAMED)
    assert {name: eval_set.num_classes for name, eval_set in ELEVATER.items()} == COUNTS
    assert sum(eval_set.num_images for eval_set in ELEVATER.values()) == 192_677
    assert {eval_set.metric for eval_set in ELEVATER.values()} == set(METRICS)


@pytest.mark.parametrize("name", ELEVATER)
def test_aliases_lead_to_classes(name):
    assert set(ELEVATER[name].aliases.values()) <= set(ClassNames.read(name).names["en"])


def test_folders_of_caltech_map_to_distinct_classes():
    lookup = ClassLookup(ClassNames.read("caltech-101"), ELEVATER["caltech-101"].aliases, "")
    folders = ["BACKGROUND_Google", "Faces", "Faces_easy", "Leopards", "cougar_face", "yin_yang", "water_lilly"]
    assert len({lookup.find(name) for name in folders}) == len(folders)


def test_only_kitti_is_squashed_except_in_the_protocol_of_chinese_clip():
    for protocol in (PROTOCOLS["elevater-en"], PROTOCOLS["elevater-zh"]):
        assert [name for name in SETS if protocol.squashes(SETS[name])] == ["kitti-distance"]
        assert protocol.metric_of(SETS["voc-2007-classification"]) == "11_point_map"
        assert protocol.metric_of(SETS["hateful-memes"]) == "roc_auc"
    compatible = PROTOCOLS["cn-clip-compat"]
    assert all(
        compatible.squashes(eval_set) and compatible.metric_of(eval_set) == "top1" for eval_set in SETS.values()
    )


def test_selections_are_sets_in_the_order_of_the_table():
    assert find_sets(["all"]) == [*ELEVATER, IMAGENET]
    assert find_sets(["cn-clip-10"]) == [name for name in ELEVATER if name in CN_CLIP_TEN]
    assert find_sets(["mnist", "cifar-10", "mnist", "imagenet"]) == ["cifar-10", "mnist", IMAGENET]


def test_published_rows_have_known_sets_and_the_published_mean():
    rows = {row.model: row for row in PUBLISHED}
    assert all(set(row.values) <= set(SETS) and row.source for row in PUBLISHED)
    means = {"CN-CLIP RN50 (77 M)": 41.5, "CN-CLIP ViT-B/16 (188 M)": 54.5}  # as published
    for model, mean in means.items():
        ten = [rows[model].values[name] for name in CN_CLIP_TEN]
        assert sum(ten) / len(ten) == pytest.approx(mean, abs=0.06)


def test_unknown_protocols_and_sets_are_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"protocol: there is no 'elevater-fr', only elevater-en, elevater-zh"):
        find_protocol("elevater-fr")
    with pytest.raises(ValueError, match=r"sets: there is no 'cifar10'\. Give all, .*cifar-10"):
        find_sets(["cifar10"])
