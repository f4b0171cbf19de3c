from training.data.captions import text_id, texts_digest


def test_ids_are_63_bits_and_stay_the_same_in_every_run():
    assert text_id("青蛙") == 2142555780008885789 < 2**63
    assert text_id("frog") == text_id("fr" + "og") != text_id("Frog")


def test_digest_depends_on_the_texts_and_their_order():
    assert texts_digest(["frog", "cat"]) == texts_digest(iter(["frog", "cat"])) != texts_digest(["cat", "frog"])
    assert len(texts_digest([])) == 16
