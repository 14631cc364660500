"""Sentence embeddings equal one text at a time, whatever the batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from paperkit import models
from paperkit.models import ModelNotInstalled, SentenceEncoder, loading

TEXTS = ["red fish", "", "the big red fish is in the blue sea", "fish", "sea sea sea"]
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    *["the", "big", "red", "fish", "is", "in", "blue", "sea"],
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    from transformers import BertConfig, BertModel, BertTokenizerFast

    path = tmp_path_factory.mktemp("words") / "vocab.txt"
    path.write_text("\n".join(WORDS) + "\n")
    tokenizer = BertTokenizerFast(str(path))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.3,
    )
    return SentenceEncoder(BertModel(config).eval(), tokenizer, "tiny")


def states_of(encoder, words):
    ids = [WORDS.index(w) for w in ["[CLS]", *words.split(), "[SEP]"]]
    with torch.no_grad():
        return encoder.model(torch.tensor([ids])).last_hidden_state[0]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_embedding_is_the_mean_state_of_the_text_alone(encoder, batch_size):
    found = encoder.encode(TEXTS, max_tokens=32, batch_size=batch_size)
    assert (found.dtype, found.shape) == (np.float32, (5, 16))
    for text, row in zip(TEXTS, found, strict=True):
        expected = states_of(encoder, text).mean(0) if text else np.zeros(16)
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_normalised_embeddings_have_length_one(encoder):
    found = encoder.encode(TEXTS, normalize=True, max_tokens=32)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1, 0, 1, 1, 1], atol=1e-5)


@pytest.mark.parametrize(("side", "kept"), [("right", "the big red"), ("left", "the blue sea")])
def test_long_texts_lose_the_named_end(encoder, side, kept):
    found = encoder.encode([TEXTS[2]], max_tokens=5, truncation_side=side)
    np.testing.assert_allclose(found[0], states_of(encoder, kept).mean(0), atol=1e-5)
    states, _ = encoder.token_states([TEXTS[2]], max_tokens=5, truncation_side=side)
    torch.testing.assert_close(states[0], states_of(encoder, kept), atol=1e-5, rtol=0)


def test_truncation_side_does_not_stay(encoder):
    encoder.encode(TEXTS, max_tokens=5, truncation_side="left")
    test_long_texts_lose_the_named_end(encoder, "right", "the big red")


def test_token_states_have_a_fixed_shape_and_zero_padding(encoder):
    states, mask = encoder.token_states(TEXTS, max_tokens=14)
    assert (states.shape, mask.shape, mask.dtype) == ((5, 14, 16), (5, 14), torch.bool)
    assert mask.sum(1).tolist() == [4, 2, 11, 3, 5]
    assert (states[~mask] == 0).all()
    for text, row, seen in zip(TEXTS, states, mask, strict=True):
        torch.testing.assert_close(row[seen], states_of(encoder, text), atol=1e-5, rtol=0)


def test_no_texts_and_only_empty_texts(encoder):
    assert encoder.encode([], max_tokens=8).shape == (0, 16)
    np.testing.assert_array_equal(encoder.encode(["", " "], max_tokens=8), np.zeros((2, 16)))
    with pytest.raises(ValueError, match="texts is empty"):
        encoder.token_states([], max_tokens=8)


@pytest.mark.parametrize(
    ("texts", "changes", "error", "message"),
    [
        ("fish", {}, TypeError, "got one text"),
        (["a", 3], {}, TypeError, r"texts\[1\] must be a text, got int"),
        (["a"], {"max_tokens": 2}, ValueError, r"max_tokens must be an integer in \[3, 32\]"),
        (["a"], {"max_tokens": 33}, ValueError, "max_tokens"),
        (["a"], {"batch_size": 0}, ValueError, "batch_size"),
        (["a"], {"truncation_side": "middle"}, ValueError, "truncation_side"),
    ],
)
def test_bad_arguments(encoder, texts, changes, error, message):
    with pytest.raises(error, match=message):
        encoder.encode(texts, **({"max_tokens": 8} | changes))


def test_missing_package_and_bad_source(monkeypatch, tmp_path):
    package = loading.SENTENCE_ENCODERS["minilm-l6"]
    absent = replace(package, module="no_such_weights_package")
    monkeypatch.setitem(loading.SENTENCE_ENCODERS, "minilm-l6", absent)
    with pytest.raises(ModelNotInstalled, match=r"python -m paperkit\.models install"):
        models.load_sentence_encoder()
    with pytest.raises(ValueError, match="unknown packaged model"):
        models.load_sentence_encoder("mini")
    with pytest.raises(ValueError, match="a model folder"):
        models.load_sentence_encoder(source=tmp_path / "no")


@pytest.mark.model
def test_minilm_knows_what_is_alike():
    encoder = models.load_sentence_encoder()
    assert (encoder.label, encoder.dimension) == ("all-MiniLM-L6-v2", 384)
    texts = ["A cat sits on the mat.", "A kitten is resting on a rug.", "Taxes rose in 1997.", ""]
    found = encoder.encode(texts, normalize=True)
    alike = found @ found.T
    assert alike[0, 1] > 0.5 > 0.2 > alike[0, 2]
    alone = np.concatenate([encoder.encode([t], normalize=True) for t in texts])
    np.testing.assert_allclose(found, alone, atol=1e-5)
    states, mask = encoder.token_states(["a red circle", ""], max_tokens=14)
    assert mask.sum(1).tolist() == [5, 2]
    assert states.shape == (2, 14, 384)
