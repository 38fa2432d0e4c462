"""What the processor makes of dialogues, pictures and texts."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_unimur import UniMuRModel, UniMuRProcessor
from tests import tiny
from tests.rounding import assert_same_outputs


def decoded(processor, batch, row: int = 0) -> str:
    """A context as text, without its padding."""
    ids = batch["input_ids"][row][batch["attention_mask"][row].bool()]
    return processor.tokenizer.decode(ids)


def message(*parts, role: str = "user") -> dict:
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part[0]}
        for part in parts
    ]
    return {"role": role, "content": content}


# -- the forms of a dialogue ----------------------------------------------------------------------------------------
def test_every_form_of_the_same_words_is_the_same_context(pair):
    _, processor = pair
    expected = processor.process_context("a cat slept")["input_ids"]
    forms = [
        ["a cat slept"],
        {"role": "user", "content": "a cat slept"},
        [{"role": "user", "content": "a cat slept"}],
        ({"role": "user", "content": "a cat slept"},),
        [[{"role": "user", "content": "a cat slept"}]],
        [message("a cat slept")],
        [message("a cat ", "slept")],
        [{"role": "user", "content": ["a cat slept"]}],
    ]
    for form in forms:
        assert torch.equal(processor.process_context(form)["input_ids"], expected), form


def test_every_form_of_the_same_picture_is_the_same_context(pair, pictures, tmp_path):
    _, processor = pair
    expected = processor.process_context(pictures[0])
    assert decoded(processor, expected) == "<image>[RET]"
    picture = Image.open(pictures[0])
    forms = [
        [pictures[0]],
        picture,
        np.asarray(picture),
        tmp_path.__class__(pictures[0]),
        [message([pictures[0]])],
        [{"role": "user", "content": [{"type": "image", "path": pictures[0]}]}],
        [{"role": "user", "content": [{"type": "image", "url": pictures[0]}]}],
    ]
    for form in forms:
        batch = processor.process_context(form)
        assert torch.equal(batch["input_ids"], expected["input_ids"])
        assert_same_outputs(batch["pixel_values"], expected["pixel_values"])


def test_a_dialogue_is_rendered_turn_by_turn(pair, pictures):
    _, processor = pair
    dialogue = [message("look ", [pictures[0]], " and ", [pictures[1]]), {"role": "assistant", "content": "nice"}]
    before = copy.deepcopy(dialogue)
    batch = processor.process_context(dialogue)
    assert decoded(processor, batch) == "look <image> and <image>\nnice[RET]"
    assert dialogue == before
    expected = processor.process_images(pictures[:2])["pixel_values"]
    assert_same_outputs(batch["pixel_values"], expected)


def test_a_batch_is_its_rows(pair, pictures):
    _, processor = pair
    dialogues = ["hi", [message([pictures[1]], "what is this?")], "the red balloon over the town", pictures[2]]
    batch = processor.process_context(dialogues)
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert_same_outputs(batch["pixel_values"], processor.process_images(pictures[1:3])["pixel_values"])
    for row, dialogue in enumerate(dialogues):
        alone = processor.process_context(dialogue)
        assert decoded(processor, batch, row) == decoded(processor, alone)
        padding = batch["attention_mask"][row].diff()
        assert (padding >= 0).all()  # on the left
    assert "pixel_values" not in processor.process_context(["hi", "no"])


def test_empty_turns_and_parts_are_left_out(pair, pictures):
    _, processor = pair
    dialogue = [
        {"role": "user", "content": ""},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": []},
        message("", "  ", [pictures[0]]),
    ]
    assert decoded(processor, processor.process_context(dialogue)) == "hi\n<image>[RET]"


@pytest.mark.parametrize(
    "text",
    [
        "😀 👩‍👩‍👧‍👦 🇩🇪",
        "שלום עולם, מה שלומך?",
        "مرحبا بالعالم",
        "e\u0301 \u202etxet\u202c",
        "a\tb\r\nc",
        "\U0001f9d1\u200d\U0001f33e",
    ],
    ids=["emoji", "hebrew", "arabic", "direction marks", "tabs", "joined emoji"],
)
def test_any_script_survives(pair, text):
    _, processor = pair
    assert decoded(processor, processor.process_context(text)) == f"{text}[RET]"


@pytest.mark.parametrize(
    "text",
    [
        "[RET]",
        "<image>",
        "say [RET] and <image>, then [RET]",
        "[[RET]RET] <<image>image>",
        "[RET1] is one too",
    ],
)
@pytest.mark.parametrize("form", ["string", "message", "two parts", "text call"])
def test_typed_tokens_are_words(make_model, pictures, text, form):
    model, processor = make_model(processor={"num_ret_tokens": 2})
    if form == "text call":
        if "<image>" in text:
            return  # there it is the place of a picture
        batch = processor(text=text)
    elif form == "two parts":
        batch = processor.process_context([message(text[:3], text[3:], [pictures[0]])])
    else:
        batch = processor.process_context(text if form == "string" else [message(text)])
    ids = batch["input_ids"][0].tolist()
    assert ids[-2:] == processor.ret_token_ids
    assert not set(ids[:-2]) & set(processor.ret_token_ids)
    assert ids.count(processor.image_token_id) == (form == "two parts")
    with torch.no_grad():
        model.get_multimodal_features(**batch)


def test_typed_tokens_in_captions_are_words(pair, pictures):
    model, processor = pair
    captions = processor.process_captions(["a <image> of [RET]", "a cat"])
    assert (captions["caption_input_ids"] == processor.image_token_id).sum() == 2
    assert captions["caption_labels"].max() < model.get_input_embeddings().num_embeddings
    pixels = processor.process_images(pictures[:2])["pixel_values"]
    assert torch.isfinite(model(**captions, caption_pixel_values=pixels).caption_loss)


# -- long dialogues -------------------------------------------------------------------------------------------------
def test_of_a_long_dialogue_the_latest_turns_stay(pair):
    _, processor = pair
    turns = [{"role": "user", "content": f"turn number {number}"} for number in range(40)]
    whole = processor.process_context(turns, max_length=2000)["input_ids"][0]
    for length in (2, 7, 30):
        cut = processor.process_context(turns, max_length=length)["input_ids"][0]
        assert cut.tolist() == whole[-length:].tolist()
    assert processor.process_context(turns)["input_ids"].shape == (1, processor.max_context_tokens)


def test_the_start_the_prompt_and_ret_survive_any_cut(make_model, tmp_path):
    folder = tiny.language_model(tmp_path / "lm", bos=True)
    _, processor = make_model(folder, processor={"readout_prompt": " so:", "num_ret_tokens": 2})
    whole = processor.process_context("the red balloon over the town " * 9)["input_ids"][0].tolist()
    overhead = processor.overhead_tokens
    cut = processor.process_context("the red balloon over the town " * 9, max_length=overhead + 3)["input_ids"][0]
    assert len(cut) == overhead + 3
    assert cut.tolist() == [whole[0], *whole[-(overhead + 2) :]]
    assert whole[0] == 0
    # The tokenizer alone does the same, whoever calls it.
    assert processor.tokenizer("hi " * 50, truncation=True, max_length=9)["input_ids"][-2:] == processor.ret_token_ids


@pytest.mark.parametrize("tokens", [1, 3])
def test_a_picture_that_does_not_fit_whole_falls_away_with_its_pixels(make_model, pictures, tokens):
    model, processor = make_model(processor={"num_visual_tokens": tokens})
    dialogue = [message([pictures[0]]), message("hi", [pictures[1]]), message([pictures[2]], "no")]
    other = [message([pictures[3]])]
    full = processor.process_context(dialogue)["input_ids"].shape[1]
    seen = set()
    for length in range(2, full + 1):
        batch = processor.process_context([dialogue, other], max_length=length)
        if length < tokens + 1:
            continue  # the other dialogue's only picture does not fit
        row = batch["input_ids"][0]
        places = int((row == processor.image_token_id).sum())
        assert places % tokens == 0
        kept = pictures[3 - places // tokens : 3]
        expected = processor.process_images([*kept, pictures[3]])["pixel_values"]
        assert_same_outputs(batch["pixel_values"], expected)
        assert batch["attention_mask"][0].sum() <= length
        with torch.no_grad():
            model.get_multimodal_features(**batch)
        seen.add(places // tokens)
    assert seen == {0, 1, 2, 3}


def test_a_cut_that_leaves_nothing_keeps_ret(make_model, pictures):
    _, processor = make_model(processor={"num_visual_tokens": 4})
    batch = processor.process_context(pictures[0], max_length=4)
    assert batch["input_ids"].tolist() == [processor.ret_token_ids]
    assert "pixel_values" not in batch


# -- the call of every processor ------------------------------------------------------------------------------------
def test_call_with_text_and_images(pair, pictures):
    _, processor = pair
    placed = processor(text="look <image> here", images=pictures[0])
    assert decoded(processor, placed) == "look <image> here[RET]"
    in_front = processor(text="what is this?", images=[pictures[0], pictures[1]])
    assert decoded(processor, in_front) == "<image><image>what is this?[RET]"
    both = processor(text=["one", "<image> two <image>"], images=[[], pictures[:2]])
    assert both["pixel_values"].shape[0] == 2
    each = processor(text=["one", "two"], images=pictures[:2])
    assert [decoded(processor, each, row) for row in (0, 1)] == ["<image>one[RET]", "<image>two[RET]"]
    assert processor(images=pictures)["pixel_values"].shape == (4, 3, 32, 32)
    assert processor(text="hi").keys() == {"input_ids", "attention_mask"}


# -- candidates and captions ----------------------------------------------------------------------------------------
def test_candidate_texts_are_cut_and_keep_their_end(pair):
    _, processor = pair
    batch = processor.process_texts(["hi", "the red balloon over the town " * 20])
    assert batch["input_ids"].shape == (2, processor.max_target_tokens) == (2, 32)
    assert batch["input_ids"][1, -1] == processor.target_tokenizer.eos_token_id
    assert processor.ret_token_ids[0] not in batch["input_ids"][0]


def test_captions_follow_their_picture(make_model):
    _, processor = make_model(processor={"num_visual_tokens": 2})
    batch = processor.process_captions(["a cat", "the red balloon over the town"], max_length=4)
    ids, mask, labels = (batch[f"caption_{name}"] for name in ("input_ids", "attention_mask", "labels"))
    picture, end = processor.image_token_id, processor.tokenizer.eos_token_id
    for row, caption in enumerate(["a cat", "the red balloon over the town"]):
        body = [*processor.tokenizer(caption, add_special_tokens=False)["input_ids"][:4], end]
        assert ids[row][mask[row].bool()].tolist() == [picture, picture, *body]
        assert labels[row][labels[row] != -100].tolist() == body
        assert labels[row][-len(body) :].tolist() == body


def test_prompts_have_no_readout(make_model, pictures):
    _, processor = make_model(processor={"readout_prompt": " so:", "num_ret_tokens": 2})
    prompt = processor.process_prompt(["hi", pictures[0]])
    assert [decoded(processor, prompt, row) for row in (0, 1)] == ["hi", "<image>"]


def test_scores_are_cosines():
    torch.manual_seed(0)
    queries, candidates = torch.randn(2, 5) * 3, torch.randn(4, 5)
    scores = UniMuRProcessor.score_retrieval(queries, candidates)
    torch.testing.assert_close(scores[1, 2], torch.nn.functional.cosine_similarity(queries[1], candidates[2], dim=0))
    assert scores.shape == (2, 4)


def test_the_callers_tokenizer_template_may_be_another(make_model, language_folder, clip_folder):
    template = "{% for m in messages %}{{ m.role }}: {% for p in m.content %}{{ p.text }}{% endfor %};{% endfor %}"
    processor = UniMuRProcessor.from_backbones(str(language_folder), str(clip_folder), chat_template=template)
    dialogue = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "no"}]
    assert decoded(processor, processor.process_context(dialogue)) == "user: hi;assistant: no;[RET]"


def test_contexts_of_text_alone_need_no_dual_encoder(language_folder):
    processor = UniMuRProcessor.from_backbones(str(language_folder))
    model = UniMuRModel.from_backbones(str(language_folder), processor=processor, projection_dim=6)
    with torch.no_grad():
        assert model.get_multimodal_features(**processor.process_context("hi")).pooler_output.shape == (1, 6)


def test_the_start_token_may_follow_pictures_in_front(tmp_path, clip_folder):
    language = tiny.language_model(tmp_path / "lm", bos=True)
    makers = {late: {"num_visual_tokens": 2, "start_after_pictures": late} for late in (False, True)}
    made = {late: UniMuRProcessor.from_backbones(str(language), str(clip_folder), **kw) for late, kw in makers.items()}
    image, start = made[True].image_token_id, made[True].tokenizer.bos_token_id
    texts = ["<image>a cat", "a cat<image>"]
    early, late = ([row.tolist() for row in made[key].process_rendered(texts)["input_ids"]] for key in (False, True))
    assert early[0][:3] == [start, image, image]
    assert late[0][:3] == [image, image, start]
    assert sorted(early[0]) == sorted(late[0])
    assert early[1] == late[1]  # words come first
    captions = made[True].process_captions(["a cat", "no"], together=2)
    ids, labels = captions["caption_input_ids"][0].tolist(), captions["caption_labels"][0].tolist()
    assert ids[:3] == [image, image, start]
    assert ids.count(start) == 1
    assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))
    assert labels[:3] == [-100] * 3 != labels[3:6]
    made[True].save_pretrained(tmp_path / "processor")
    again = UniMuRProcessor.from_pretrained(tmp_path / "processor")
    assert again.start_after_pictures
    assert (
        again.process_rendered(texts)["input_ids"].tolist() == made[True].process_rendered(texts)["input_ids"].tolist()
    )


def test_a_picture_in_words_of_its_own(language_folder, clip_folder, pictures):
    made = UniMuRProcessor.from_backbones(
        str(language_folder), str(clip_folder), picture_prompt='A "picture"\nof<image>. ', num_visual_tokens=2
    )
    words = {"role": "user", "content": [{"type": "image", "image": pictures[0]}, {"type": "text", "text": "a cat"}]}
    written = made.render([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a cat"}]}])
    assert written == 'A "picture"\nof<image>. a cat'
    alike = [made([pictures[0]], text="a cat"), made.process_context([words])]
    for batch in alike:
        assert int((batch["input_ids"] == made.image_token_id).sum()) == 2
        assert batch["input_ids"].tolist() == alike[0]["input_ids"].tolist()
    with pytest.raises(ValueError, match="picture_prompt shows one picture: it holds <image> once"):
        UniMuRProcessor.from_backbones(str(language_folder), str(clip_folder), picture_prompt="a picture")


@pytest.mark.parametrize("together", [1, 2])
def test_what_a_caption_follows(language_folder, clip_folder, pictures, together):
    """The caption loss and `generate` see the same text before a caption, and learn nothing of it."""
    made = UniMuRProcessor.from_backbones(str(language_folder), str(clip_folder), caption_prompt="name <image>: ")
    batch = made.process_captions(["a cat", "the red balloon"], together=together)
    prompt = made.process_caption_prompt(pictures[:2])
    assert prompt["pixel_values"].shape[0] == 2
    overhead = made.overhead_tokens - made.num_ret_tokens  # the start token, where there is one
    body = prompt["input_ids"][0].tolist()[overhead:]
    row, labels = batch["caption_input_ids"][-1].tolist(), batch["caption_labels"][-1].tolist()
    found = [at for at in range(len(row)) if row[at : at + len(body)] == body]
    assert len(found) == together
    learned = [at for at, label in enumerate(labels) if label != -100]
    assert not {at + shift for at in found for shift in range(len(body))} & set(learned)
    assert sum(labels[at] == made.tokenizer.eos_token_id for at in learned) == together
