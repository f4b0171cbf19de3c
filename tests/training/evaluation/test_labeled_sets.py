"""Test sets are loaded from any source and compared with the protocol."""

import io
import shutil
import tarfile

import pytest
from datasets import ClassLabel, Features

from tests.training.evaluation.drawings import (
    CIFAR_10,
    drawing,
    rows_of,
    write_folders,
    write_parquet,
)
from training.evaluation.sets import labeled_sets
from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.labeled_sets import (
    HUB,
    LABEL_COLUMNS,
    ClassLookup,
    MissingDataError,
    Source,
    class_ids,
    open_set,
)
from training.evaluation.sets.protocols import ELEVATER, SETS

NAMES = ClassNames.read("cifar-10")
EXPECTED = [name for name, codes in CIFAR_10.items() for _ in codes]
NUM = len(EXPECTED)


def open_cifar(location, **fields):
    return open_set("cifar-10", Source(str(location), **fields), NAMES, SETS["cifar-10"])


def names_of(labeled):
    return [NAMES.names["en"][number] for number in labeled.labels.tolist()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folders(tmp_path_factory.mktemp("cifar"), CIFAR_10)


def test_one_folder_per_class(folder):
    labeled = open_cifar(folder)
    assert names_of(labeled) == sorted(EXPECTED)
    assert labeled.rows.column_names == ["image"]
    assert labeled.differences == [f"{NUM} images, the protocol's test has 10,000"]
    assert labeled.source == str(folder)
    assert labeled.split is None
    assert labeled.revision is None


def test_lists_of_one_label_are_single_labels(tmp_path):
    rows = rows_of(CIFAR_10)

    def open_lists(labels):
        lists = rows.remove_columns("label").add_column("label", labels)
        return open_cifar(write_parquet(tmp_path / "rows.parquet", lists))

    single = open_lists([[name] for name in rows["label"]])
    assert names_of(single) == EXPECTED
    several = open_lists([[name, "cat"] for name in rows["label"]])
    assert several.labels.shape == (NUM, 10)
    assert several.differences[1] == "several labels per image, the protocol has one label"
    assert several.version != single.version


def test_the_test_split_of_a_folder_is_read_unless_one_is_named(tmp_path):
    write_folders(tmp_path / "test", {"dog": ["1f415"]})
    write_folders(tmp_path / "val", {"dog": ["1f415", "1f436"]})
    assert open_cifar(tmp_path).split == "test"
    assert len(open_cifar(tmp_path).labels) == 1
    named = open_cifar(tmp_path, split="val")
    assert named.split == "val"
    assert len(named.labels) == 2


def test_an_image_in_no_class_folder_is_refused(tmp_path):
    write_folders(tmp_path, {"dog": ["1f415", "1f436"]})
    shutil.copyfile(next((tmp_path / "dog").glob("*.png")), tmp_path / "lost.png")
    with pytest.raises(ValueError, match=r"^data: cifar-10 .* has none of the columns label, "):
        open_cifar(tmp_path)


def test_numbers_in_another_order_are_mapped_by_name(tmp_path):
    order = sorted(CIFAR_10, reverse=True)
    rows = rows_of(CIFAR_10)
    features = Features({"image": rows.features["image"], "label": ClassLabel(names=order)})
    path = write_parquet(tmp_path / "rows.parquet", rows.cast(features))
    assert names_of(open_cifar(path)) == EXPECTED


def test_a_column_of_names_comes_before_one_of_numbers(tmp_path):
    rows = rows_of(CIFAR_10)
    rows = rows.rename_column("label", LABEL_COLUMNS[1]).add_column("label", [99] * NUM)
    assert names_of(open_cifar(write_parquet(tmp_path / "rows.parquet", rows))) == EXPECTED


def test_the_own_data_set_on_the_hub_is_loaded_with_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path)
    )  # the layout of a download
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "datasets--clip-benchmark--wds_vtab-cifar10"
    snapshot = repository / "snapshots" / commit
    (snapshot / "test").mkdir(parents=True)
    (snapshot / "test" / "nshards.txt").write_text("1\n")
    with tarfile.open(snapshot / "test" / "0.tar", "w") as archive:
        for ending, content in (("png", drawing("1f438").read_bytes()), ("cls", b"1")):
            info = tarfile.TarInfo(f"s0000000.{ending}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    (snapshot / "classnames.txt").write_text("truck\nfrog\n", encoding="utf-8")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    labeled = open_cifar("hub")
    assert names_of(labeled) == ["frog"]
    assert labeled.split == "test"
    assert labeled.revision == commit
    assert labeled.source == SETS["cifar-10"].hub
    downloaded = open_cifar(snapshot)
    assert names_of(downloaded) == ["frog"]
    assert downloaded.split == "test"


# labels to classes

LOOKED_UP = ClassNames(
    {
        "en": ["head of a  crocodile", "crème brûlée", "palm tree", "7"],
        "zh": ["鳄鱼头", "焦糖布丁", "棕榈树", "七"],
    }
)


@pytest.fixture
def lookup():
    return ClassLookup(LOOKED_UP, {"crocodile_head": "head of a  crocodile"}, "a set (a file)")


def test_names_of_all_languages_and_aliases_are_found(lookup):
    labels = ["crocodile_head", "Head of a crocodile", "Creme Brulee", "palm_tree", "棕榈树", "7"]
    assert class_ids(labels, lookup, None).tolist() == [0, 0, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("cells", "listed"),
    [
        ([["palm tree", "Head of a crocodile"], [], ["7"]], None),
        ([[1, 2], [], [0]], ["7", "palm tree", "crocodile head"]),
        ([[0, 1, 1], [0, 0, 0], [1, 0, 0]], ["7", "palm tree", "crocodile head"]),
    ],
)
def test_several_labels_are_names_numbers_or_flags(lookup, cells, listed):
    expected = [[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    assert class_ids(cells, lookup, listed).tolist() == expected


def test_numbers_of_classes_are_not_taken_for_flags(lookup):
    listed = ["7", "palm tree", "crocodile head"]
    assert class_ids([[1, 0], [1]], lookup, listed).tolist() == [[0, 0, 1, 1], [0, 0, 1, 0]]
    assert class_ids([[1, 0, 2]], lookup, listed).tolist() == [[1, 0, 1, 1]]


def test_equal_class_names_are_resolved_by_an_ordered_list_but_not_by_a_label():
    names = ClassNames(
        {"wordnet": ["n1", "n2", "n3"], "en": ["missile", "tench", "missile"]}, "wordnet"
    )
    lookup = ClassLookup(names, {}, "imagenet (file)")
    assert class_ids([0, 1, 2], lookup, ["missile", "missile", "tench"]).tolist() == [0, 2, 1]
    assert class_ids(["n3", "tench"], lookup, None).tolist() == [2, 1]
    with pytest.raises(ValueError, match=r"imagenet \(file\): 'missile' is the name of 2 of the 3"):
        class_ids(["missile"], lookup, None)


@pytest.mark.parametrize(
    ("cells", "listed", "name"),
    [
        (["palm tree", "oak"], None, "oak"),
        ([0, 1], None, "0"),
        ([0, 4], ["7", "palm tree"], "4"),
        ([["7"], None], None, "None"),
    ],
)
def test_unknown_labels_are_refused_with_set_and_file(lookup, cells, listed, name):
    message = rf"label: a set \(a file\): '{name}' is the name of 0 of the 4.*--label_column"
    with pytest.raises(ValueError, match=message):
        class_ids(cells, lookup, listed)


def test_names_that_differ_in_signs_alone_are_found_by_their_spelling():
    names = ClassNames({"en": ["C", "C++", "C#", "+1", "-1"], "zh": ["丙", "加", "升", "赞", "踩"]})
    lookup = ClassLookup(names, {}, "a set")
    assert class_ids(["C#", "C", " C++", "-1", "赞"], lookup, None).tolist() == [2, 0, 1, 4, 3]
    with pytest.raises(ValueError, match="'c' is the name of 3 of the 5"):
        lookup.find("c")
    with pytest.raises(ValueError, match="'!' is the name of 0 of the 5"):
        lookup.find("!")


def test_an_unreachable_hub_is_contacted_once_for_all_sets(monkeypatch):
    requests = []

    class Session:
        def head(self, url, timeout):
            requests.append(url)
            raise OSError("Name or service not known")

    labeled_sets._connection_error.cache_clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(labeled_sets, "get_session", Session)
    monkeypatch.setattr(
        labeled_sets, "open_source", lambda *arguments: pytest.fail("a download was tried")
    )
    for name, eval_set in ELEVATER.items():
        with pytest.raises(MissingDataError, match="Name or service not known"):
            open_set(name, Source(HUB), NAMES, eval_set)
    assert len(requests) == 1
    labeled_sets._connection_error.cache_clear()
