from training.demo.make_teacher import train_tokenizer

TEXTS = ["red apple", "woman farmer: medium-dark skin tone", "红苹果", "女农民 中等-深肤色"]


def test_no_character_is_unknown(tokenizer):
    for text in ("красное яблоко", "تفاحة", "🍎", "りんご"):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id and len(ids) > 3
        assert None not in ids and all(0 <= number < len(tokenizer) for number in ids)


def test_training_texts_have_fewer_tokens_than_bytes(train_rows, tokenizer):
    byte_tokenizer = train_tokenizer(["x"], 270)  # bytes only
    names = [*train_rows["en"], *train_rows["zh"]]
    num_tokens, num_bytes = (sum(map(len, t(names)["input_ids"])) for t in (tokenizer, byte_tokenizer))
    assert num_tokens < 0.6 * num_bytes


def test_the_order_of_the_texts_does_not_matter():
    straight, reverse = train_tokenizer(TEXTS, 300), train_tokenizer(TEXTS[::-1], 300)
    assert straight.backend_tokenizer.to_str() == reverse.backend_tokenizer.to_str()


def test_decoding_returns_the_text(tokenizer):
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text
