"""Labels are mapped to classes by name, however a copy spells and orders them."""

import pytest
import torch

from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.labels import ClassLookup, class_ids, normalize_name

NAMES = ClassNames(
    {"en": ["head of a  crocodile", "crème brûlée", "palm tree", "7"], "zh": ["鳄鱼头", "焦糖布丁", "棕榈树", "七"]}
)


@pytest.fixture
def lookup():
    return ClassLookup(NAMES, {"crocodile_head": "head of a  crocodile"}, "a set (a file)")


def test_case_accents_and_signs_do_not_matter():
    assert normalize_name("Palm_Tree") == normalize_name("palm tree")
    assert normalize_name("Crème-Brûlée") == normalize_name("creme brulee")
    assert normalize_name("A310") != normalize_name("A-319") and normalize_name("鳄鱼头") == "鳄鱼头"


def test_names_of_all_languages_and_aliases_are_found(lookup):
    labels = ["crocodile_head", "Head of a crocodile", "Creme Brulee", "palm_tree", "棕榈树", "7"]
    assert class_ids(labels, lookup, None).tolist() == [0, 0, 1, 2, 2, 3]


def test_numbers_index_the_names_that_the_data_list(lookup):
    listed = ["palm tree", "7", "creme brulee", "crocodile head"]
    assert class_ids([0, 1, 2, 3], lookup, listed).tolist() == [2, 3, 1, 0]


def test_numbers_that_are_class_names_need_no_list(lookup):
    assert class_ids([7, 7], lookup, None).tolist() == [3, 3]


def test_several_labels_are_names_numbers_or_flags(lookup):
    expected = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.int8)
    names = [["palm tree", "crocodile head"], [], ["7"]]
    listed = ["7", "palm tree", "crocodile head"]
    flags = [[0, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert torch.equal(
        class_ids(names, ClassLookup(NAMES, {"crocodile head": NAMES.names["en"][0]}, ""), None), expected
    )
    assert torch.equal(class_ids([[1, 2], [], [0]], lookup, listed), expected)
    assert torch.equal(class_ids(flags, lookup, listed), expected)


def test_equal_class_names_are_resolved_by_an_ordered_list_but_not_by_a_label():
    names = ClassNames({"wordnet": ["n1", "n2", "n3"], "en": ["missile", "tench", "missile"]}, "wordnet")
    lookup = ClassLookup(names, {}, "imagenet (file)")
    assert class_ids([0, 1, 2], lookup, ["missile", "missile", "tench"]).tolist() == [0, 2, 1]
    assert class_ids(["n3", "tench"], lookup, None).tolist() == [2, 1]
    with pytest.raises(ValueError, match=r"imagenet \(file\): 'missile' is the name of 2 classes"):
        class_ids(["missile"], lookup, None)


@pytest.mark.parametrize(
    ("cells", "listed", "message"),
    [
        (["palm tree", "oak"], None, r"label: a set \(a file\): 'oak' is not among the 4 classes"),
        ([0, 1], None, r"label: a set \(a file\): label 0 has no name.*--label_names SET=FILE"),
        ([0, 4], ["7", "palm tree"], r"label: a set \(a file\): label 4 is out of range 0\.\.1"),
        ([-1], ["7", "palm tree"], r"label -1 is out of range"),
        ([0], ["oak"], r"'oak' is not among"),
        ([None], None, r"got None, need a name"),
        ([["7"], ["oak"]], None, r"'oak' is not among"),
    ],
    ids=["another name", "no names", "beyond the list", "negative", "listed, not ours", "none", "one of several"],
)
def test_unknown_labels_are_refused_with_set_and_file(lookup, cells, listed, message):
    with pytest.raises(ValueError, match=message):
        class_ids(cells, lookup, listed)


def test_names_that_differ_in_signs_alone_are_found_by_their_spelling():
    names = ClassNames({"en": ["C", "C++", "C#", "+1", "-1"], "zh": ["丙", "加", "升", "赞", "踩"]})
    lookup = ClassLookup(names, {}, "a set")
    assert class_ids(["C#", "C", " C++", "-1", "赞"], lookup, None).tolist() == [2, 0, 1, 4, 3]
    with pytest.raises(ValueError, match="'c' is the name of 3 classes"):
        lookup.find("c")
    with pytest.raises(ValueError, match="'!' is not among the 5 classes"):
        lookup.find("!")
