"""Words near to vectors, and what CoOp's report makes of them."""

import pytest
import torch
from clip_adapt.methods.coop import CoOp

from clip_adapt.backbone import words
from clip_adapt.data.task import Task


def embedded(backbone, *texts):
    return torch.cat([backbone.embed_words(text) for text in texts])


def test_the_nearest_word_of_an_embedding_is_the_word_itself(tiny_backbone):
    vectors = embedded(tiny_backbone, "photo", "cataract", "dog")[[0, -1]]
    found = words.find_nearest_words(tiny_backbone, vectors, 3)
    assert [near[0] for near in found] == [("photo", 0.0), ("dog", 0.0)]
    assert all(len(near) == 3 for near in found)
    assert all(near == sorted(near, key=lambda pair: pair[1]) for near in found)


def test_the_distance_is_euclidean(tiny_backbone):
    photo, dog = embedded(tiny_backbone, "photo", "dog").double()
    vector = photo + 0.01 * (dog - photo)
    ((name, distance),) = words.find_nearest_words(tiny_backbone, vector.unsqueeze(0), 1)[0]
    assert name == "photo"
    assert distance == pytest.approx(0.01 * (dog - photo).norm().item(), rel=1e-3)


def test_pieces_and_special_tokens_are_no_words(tiny_backbone):
    tokenizer = tiny_backbone.tokenizer
    whole = tokenizer.encoder["cat</w>"]
    assert words.decode_word(tokenizer, whole) == "cat"
    assert words.decode_word(tokenizer, tokenizer.encoder["cat"]) is None
    assert words.decode_word(tokenizer, tokenizer.encoder["<start_of_text>"]) is None
    assert words.decode_word(tokenizer, tokenizer.encoder["!</w>"]) is None


class Hub:
    """A tokenizer as open_clip wraps those of the hub, of a vocabulary that is given."""

    def __init__(self, vocabulary):
        self.tokenizer, self.vocabulary, self.all_special_ids = self, vocabulary, [0]

    def get_vocab(self):
        return {token: i for i, token in enumerate(self.vocabulary)}

    def convert_ids_to_tokens(self, token):
        return self.vocabulary[token] if token < len(self.vocabulary) else None

    def decode(self, tokens):
        return self.vocabulary[tokens[0]].strip("#\u2581\u0120")


@pytest.mark.parametrize(
    "vocabulary",
    [
        ["[CLS]", "eye", "##lid", "."],
        ["<s>", "\u2581eye", "lid", "."],
        ["<s>", "\u0120eye", "lid", "."],
    ],
    ids=["wordpiece", "sentencepiece", "bytes"],
)
def test_words_of_the_tokenizers_of_the_hub(vocabulary):
    tokenizer = Hub(vocabulary)
    assert [words.decode_word(tokenizer, i) for i in range(5)] == [None, "eye", None, None, None]


def test_coop_shows_the_words_of_its_context(tiny_backbone):
    task = Task(("cat", "dog"))
    (table,) = CoOp(tiny_backbone, task, ctx_init="a photo of").tables()
    assert table.columns == ["vector", "words"]
    assert [row[0] for row in table.rows] == ["1", "2", "3"]
    assert [row[1].split(",")[0] for row in table.rows] == ["a 0.000", "photo 0.000", "of 0.000"]
    assert "need not mean anything" in table.note


def test_coop_shows_the_words_of_each_class(tiny_backbone):
    task = Task(("cat", "dog"))
    (table,) = CoOp(tiny_backbone, task, ctx_init="a photo", csc=True).tables()
    assert table.columns == ["class", "1", "2"]
    assert table.rows == [["cat", "a 0.000", "photo 0.000"], ["dog", "a 0.000", "photo 0.000"]]
