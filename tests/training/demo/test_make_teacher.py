from training.demo.make_teacher import train_tokenizer

TEXTS = ["red apple", "woman farmer: medium-dark skin tone", "红苹果", "女农民 中等-深肤色"]


def test_no_character_of_any_language_is_unknown(tokenizer):
    for text in ("красное яблоко", "تفاحة", "🍎", "りんご"):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id and len(ids) > 3
        assert None not in ids and all(0 <= number < len(tokenizer) for number in ids)


def test_words_that_it_was_fitted_to_are_short(train_rows, tokenizer):
    other = train_tokenizer(["x"], 270)  # bytes, and nothing else
    names = [*train_rows["en"], *train_rows["zh"]]
    ours, theirs = (sum(map(len, t(names)["input_ids"])) for t in (tokenizer, other))
    assert ours < 0.6 * theirs


def test_the_order_of_the_texts_does_not_matter():
    straight, reverse = train_tokenizer(TEXTS, 300), train_tokenizer(TEXTS[::-1], 300)
    assert straight.backend_tokenizer.to_str() == reverse.backend_tokenizer.to_str()


def test_decoding_gives_the_text_back(tokenizer):
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text
