"""Candidate texts cleaned as the tokenizer that an encoder was trained with cleans them."""

import open_clip
import pytest
import torch
from transformers import CLIPConfig

from conversion.clip_folder import clip_tokenizer
from modeling_unimur import UniMuRProcessor, UniVLDRProcessor, conversation
from modeling_unimur.conversation import clean_texts
from modeling_unimur.modeling_open_clip import same_space, space_name
from modeling_unimur.training.frozen_towers import TextEncoder
from modeling_unimur.verbalization import join_caption

# Texts that OpenAI's tokenizer, whose code open_clip carries, reads otherwise without its cleaning.
CHANGED = [
    "it's the \u201cOld Town\u201d", "\u2018single\u2019 quotes", "cats &amp; dogs", "it&amp;#39;s &lt;b&gt;",
    "a&nbsp;b", "a \ufb01ne \ufb02ower", "\uff26\uff35\uff2c\uff2c\u3000\uff57ide", "caf\u00c3\u00a9 au lait",
    "\u039f\u0394\u039f\u03a3", "\ufeffmarked", "a\x07b", "\x1b[31mred\x1b[0m",
    "&lt;b&gt;bold&lt;/b&gt;", "it&#39;s", "&nbsp;x", "&copy;", "https://a.b/c?d=1&copy=2", "\u01c6",
    "\u0149", "a\x00b", "a\x0bb\x1cc",
]  # fmt: skip
SAME = [
    "a photo of a cat", "Don't  count: 1, 22 and 333!", "  padded  ", "a\tb\nc", "one\u2028two", "a\u00a0b",
    "na\u00efve caf\u00e9", "e\u0301te\u0301", "Stra\u00dfe", "\u6771\u4eac\u30bf\u30ef\u30fc \U0001f388",
    "\u0645\u0631\u062d\u0628\u0627", "\u00bd cup, 3 \u00d7 4", "zero\u200bwidth", "x\u00b2 \u00ae\u00a9\u2122",
    "", "one two three four five " * 20,
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizers():
    """transformers' tokenizer, and OpenAI's."""
    return clip_tokenizer(CLIPConfig()), open_clip.SimpleTokenizer(context_length=77)


def ids(tokenizer, text):
    return tokenizer([text], padding="max_length", max_length=77, truncation=True)["input_ids"][0]


def expected(reference, text, end):
    row = reference([text])[0].tolist()  # open_clip fills up with 0, transformers with the end
    return [*row[: row.index(end) + 1], *[end] * (76 - row.index(end))]


@pytest.mark.parametrize("text", [*CHANGED, *SAME], ids=ascii)
def test_cleaned_texts_have_the_tokens_of_the_original(tokenizers, text):
    tokenizer, reference = tokenizers
    right = expected(reference, text, tokenizer.eos_token_id)
    assert ids(tokenizer, clean_texts([text], "clip")[0]) == right
    assert (ids(tokenizer, text) == right) == (text in SAME)


@pytest.mark.parametrize("text", ["\ud800x", "a\udfff", "\ud83d\ude00"], ids=ascii)
def test_surrogates_that_stand_alone_are_cleaned_away(tokenizers, text):
    tokenizer, reference = tokenizers
    assert ids(tokenizer, clean_texts([text], "clip")[0]) == expected(reference, text, tokenizer.eos_token_id)


def test_the_processors_clean_where_they_are_told_to(language_folder, clip_folder, tmp_path):
    raw, plain = ["\u201cA  cat\u201d &amp;amp; a \ufb01sh", "hi"], ['"a cat" & a fish', "hi"]
    makers = {
        "UniMuR": lambda **chosen: UniMuRProcessor.from_backbones(str(language_folder), str(clip_folder), **chosen),
        "UniVL-DR": lambda **chosen: UniVLDRProcessor.from_backbones(str(clip_folder), **chosen),
    }
    for name, make in makers.items():
        made, default = make(clean_text="clip"), make()
        right = default.process_texts(plain)["input_ids"]
        assert torch.equal(made.process_texts(raw)["input_ids"], right)
        assert default.process_texts(raw)["input_ids"].tolist() != right.tolist()
        made.save_pretrained(tmp_path / name)
        again = type(made).from_pretrained(tmp_path / name)
        assert torch.equal(again.process_texts(raw)["input_ids"], right)
        with pytest.raises(ValueError, match="clean_text"):
            make(clean_text="ftfy")
    # Queries, captions and joined captions go the same way.
    assert torch.equal(made.process_queries(raw)["input_ids"], right)
    assert torch.equal(made.process_captions(raw)["input_ids"], right)
    assert torch.equal(made.process_context(raw)["input_ids"], right)
    room = make(clean_text="clip", max_target_tokens=16, verbalization_tokens=4)
    bare = make(max_target_tokens=16, verbalization_tokens=4)
    joined = [join_caption(maker, "cat &amp; &amp; cat &amp; cat", "a dog").split() for maker in (room, bare)]
    assert len(joined[0]) > len(joined[1])  # room is counted in the tokens that are read


def test_training_reads_the_same_texts(pair, clip_folder):
    model, _ = pair
    made = UniVLDRProcessor.from_backbones(str(clip_folder), clean_text="clip")
    plain, cleaned = (TextEncoder(model.clip, made.tokenizer, choice) for choice in (None, "clip"))
    with torch.no_grad():
        assert torch.equal(cleaned(["\u201ca cat\u201d"]), plain(['"a cat"']))
    assert cleaned.key.startswith(plain.key)
    assert cleaned.key != plain.key  # kept features are told apart


def test_candidates_that_are_prepared_otherwise_lie_in_a_space_of_their_own(make_model):
    made = [make_model(processor=chosen) for chosen in ({}, {}, {"clean_text": "clip"}, {"squash_images": True})]
    model = made[0][0]
    names = [space_name(model, processor) for _, processor in made]
    assert [same_space(names[0], name) for name in names] == [True, True, False, False]
    assert not same_space(*names[2:])


def test_what_is_missing_is_named(monkeypatch, clip_folder):
    monkeypatch.setattr(conversation, "ftfy", None)
    made = UniVLDRProcessor.from_backbones(str(clip_folder), clean_text="clip")
    with pytest.raises(ImportError, match=r"unimur\[clean_text\]"):
        made.process_texts("a cat")
    assert UniVLDRProcessor.from_backbones(str(clip_folder)).process_texts("a cat")
