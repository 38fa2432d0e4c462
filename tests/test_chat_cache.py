"""A chat's cache: the same embeddings as without it, from its new tokens alone, in bounded memory."""

import pytest
import torch
from PIL import Image

from modeling_unimur import MultimodalRetrievalPipeline
from modeling_unimur.prefix_cache import ChatCache
from tests import tiny
from tests.hits import assert_same_answer

WORDS = ["a cat slept on my keyboard", "she plays guitar", "what a beautiful morning", "do you have a picture?", "no"]


def chat(turns: int, pictures=(), name: str = "") -> list:
    """So many messages; every third one shows a picture."""
    messages = []
    for turn in range(turns):
        content = [{"type": "text", "text": f"{WORDS[turn % 5]} {turn} {name}"}]
        if len(pictures) and turn % 3 == 1:
            content.insert(turn % 2, {"type": "image", "image": pictures[turn % len(pictures)]})
        messages.append({"role": "user" if turn % 2 == 0 else "assistant", "content": content})
    return messages


def plain(pair, conversation, **options) -> torch.Tensor:
    with torch.no_grad():
        return pair[0].get_multimodal_features(**pair[1].process_context(conversation, **options)).pooler_output


def run_lengths(model, monkeypatch) -> list:
    """Tokens of each run of the language model, from now on."""
    lengths, embed = [], model.get_inputs_embeds

    def counted(ids, features):
        lengths.append(ids.shape[1])
        return embed(ids, features)

    monkeypatch.setattr(model, "get_inputs_embeds", counted)
    return lengths


def test_every_turn_equals_the_plain_path(pair, pictures, monkeypatch):
    cache = ChatCache(*pair)
    assert cache.works
    whole = [plain(pair, chat(turns, pictures)) for turns in range(2, 13)]
    lengths = run_lengths(pair[0], monkeypatch)
    for turns, expected in zip(range(2, 13), whole, strict=True):
        torch.testing.assert_close(cache.embed(chat(turns, pictures)), expected, atol=1e-5, rtol=0)
    assert len(cache) == 1
    total = pair[1].process_context(chat(12, pictures))["input_ids"].shape[1]
    assert max(lengths[1:]) < total / 4  # only what is new
    lengths.clear()
    cache.embed(chat(12, pictures))
    assert lengths == [pair[1].readout_length]


@pytest.mark.parametrize(
    "processor",
    [{"readout_prompt": " so:", "num_ret_tokens": 2}, {"num_visual_tokens": 3}, {"start_after_pictures": True}],
)
def test_other_readouts_and_pictures(make_model, pictures, processor):
    pair = make_model(processor=processor, ret_layers=[1, -1])
    cache = ChatCache(*pair)
    for turns in range(2, 8):
        found = cache.embed(chat(turns, pictures))
        torch.testing.assert_close(found, plain(pair, chat(turns, pictures)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["gpt2", "opt", "bloom", "mistral"])
def test_every_family_gives_the_same_numbers(make_model, tmp_path, family):
    pair = make_model(language=tiny.language_model(tmp_path / family, family))
    retriever = MultimodalRetrievalPipeline(model=pair[0], processor=pair[1])
    retriever.add(texts=WORDS)
    anew = MultimodalRetrievalPipeline(model=pair[0], processor=pair[1])
    anew.add(texts=WORDS)
    anew.chats.max_bytes = 0
    for turns in range(2, 6):
        assert_same_answer(retriever(chat(turns)), anew(chat(turns)))
    assert len(anew.chats) == 0
    assert len(retriever.chats) == int(retriever.chats.works)
    if family == "mistral":  # a sliding window cannot be cut
        assert not retriever.chats.works
    if family == "gpt2":
        assert retriever.chats.works


def test_a_chat_that_is_too_long_equals_the_plain_path(pair):
    cache = ChatCache(*pair)
    for turns in range(2, 20, 3):
        found = cache.embed(chat(turns), max_length=40)
        torch.testing.assert_close(found, plain(pair, chat(turns), max_length=40), atol=1e-5, rtol=0)


def test_chats_that_begin_alike_or_change(pair, pictures):
    cache, start = ChatCache(*pair), chat(5, pictures)
    other = [*start[:4], {"role": "user", "content": "something else entirely"}, *chat(2, pictures, "x")]
    edited = [*start[:2], {"role": "user", "content": "edited"}, *start[3:]]
    for conversation in (start, other, edited, start, other, start[:3]):
        torch.testing.assert_close(cache.embed(conversation), plain(pair, conversation), atol=1e-5, rtol=0)
    # Another picture in the same place is another chat.
    swapped = chat(5, pictures[2:])
    torch.testing.assert_close(cache.embed(swapped), plain(pair, swapped), atol=1e-5, rtol=0)


def test_a_picture_file_that_changes_is_read_anew(pair, tmp_path):
    cache, path = ChatCache(*pair), tmp_path / "p.png"
    Image.new("RGB", (40, 40), "red").save(path)
    cache.embed(chat(3, [str(path)]))
    Image.new("RGB", (44, 44), "blue").save(path)
    found = cache.embed(chat(3, [str(path)]))
    torch.testing.assert_close(found, plain(pair, chat(3, [str(path)])), atol=1e-5, rtol=0)


def test_memory_is_bounded_and_the_oldest_goes_first(pair, monkeypatch):
    cache = ChatCache(*pair)
    cache.embed(chat(4, name="a"))
    one = cache.num_bytes
    cache.max_bytes = int(2.5 * one)
    cache.embed(chat(4, name="b"))
    cache.embed(chat(4, name="a"))
    cache.embed(chat(4, name="c"))
    assert len(cache) == 2
    assert cache.num_bytes <= cache.max_bytes
    lengths = run_lengths(pair[0], monkeypatch)
    for name in "acb":
        cache.embed(chat(4, name=name))
    short = pair[1].readout_length
    assert [length == short for length in lengths] == [True, True, False]
    cache.max_bytes = 0
    cache.embed(chat(4))
    assert len(cache) == 0
    cache.clear()
    assert cache.num_bytes == 0


def test_in_the_pipeline(pair, pictures, monkeypatch):
    retriever = MultimodalRetrievalPipeline(model=pair[0], processor=pair[1])
    retriever.add(images=pictures, texts=WORDS)
    batch = [chat(turns, pictures) for turns in range(2, 6)]
    together = retriever(batch, top_k=3)  # a batch keeps nothing
    assert len(retriever.chats) == 0
    retriever("hi")
    assert len(retriever.chats) == 0
    for conversation, expected in zip(batch, together, strict=True):
        assert_same_answer(retriever(conversation, top_k=3), expected)
    assert len(retriever.chats) == 1
    joint = retriever(batch[0], modality="joint", top_k=2, max_length=60)
    assert len(joint) == 2
    for wrong, words in [
        ([*batch[0], {"role": "user", "content": [{"type": "image", "image": "gone.png"}]}], "turn 2"),
        ([*batch[0], {"role": "user", "content": 7}], "turn 2"),
    ]:
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            retriever(wrong)
