"""Names of the synsets of ImageNet-21k in both languages."""

import pytest

from training.demo.object_names import ObjectName, hold_out, lemmas, read_nouns, read_object_names


def test_names_of_one_synset_meet_in_both_languages():
    names = read_object_names({"02121620": ["猫"]})
    cat = next(name for name in names if name.zh)
    assert cat.en[0] == "cat" and cat.zh == ("猫",)
    assert len(names) > 21_000 and all(name.en and all(name.en) for name in names)


def test_latin_names_of_species_are_left_out():
    names = {name.en[0]: name.en for name in read_object_names({})}
    assert names["great white shark"][1:] == ("white shark", "man-eater", "man-eating shark")


def test_a_name_that_shares_a_lemma_with_validation_is_not_trained_on():
    names = [ObjectName(("jack",), ("千斤顶",)), ObjectName(("jack",), ()), ObjectName(("crane",), ())]
    training, validation = hold_out(names, 1, seed=0)
    assert validation == names[:1] and training == names[2:]
    assert lemmas(validation) == {"jack", "千斤顶"}


def test_the_draw_for_validation_follows_the_seed():
    names = [ObjectName((f"thing {number}",), (f"物{number}",)) for number in range(100)]
    assert hold_out(names, 10, 0) == hold_out(names, 10, 0) != hold_out(names, 10, 1)
    training, validation = hold_out(names, 10, 0)
    assert len(validation) == 10 and sorted([*training, *validation], key=str) == sorted(names, key=str)


def test_nouns_are_read_without_plus_signs(tmp_path):
    path = tmp_path / "wordnet_zh_cow.tab"
    path.write_text("# a comment\n02131777-n\tcmn:lemma\t猫\n13742358-n\tcmn:lemma\t导+水管\n0266-a\tcmn:lemma\t红\n")
    assert read_nouns(path) == {"02131777": ["猫"], "13742358": ["导水管"]}


def test_a_file_without_nouns_is_refused(tmp_path):
    path = tmp_path / "wordnet_zh_cow.tab"
    path.write_text("nothing\n")
    with pytest.raises(ValueError, match="has no lines"):
        read_nouns(path)
