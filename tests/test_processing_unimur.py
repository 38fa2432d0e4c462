"""What the processor makes of dialogues, images and texts."""

import base64
import copy
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_unimur import UniMuRModel, UniMuRProcessor
from modeling_unimur.training.collators import caption_inputs
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
    captions = caption_inputs(processor, ["a <image> of [RET]", "a cat"])
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
    batch = caption_inputs(processor, ["a cat", "the red balloon over the town"], max_length=4)
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
    captions = caption_inputs(made[True], ["a cat", "no"], together=2)
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
    with pytest.raises(ValueError, match="picture_prompt"):
        UniMuRProcessor.from_backbones(str(language_folder), str(clip_folder), picture_prompt="a picture")


@pytest.mark.parametrize("together", [1, 2])
def test_what_a_caption_follows(language_folder, clip_folder, pictures, together):
    """The caption loss and `generate` see the same text before a caption, and learn nothing of it."""
    made = UniMuRProcessor.from_backbones(str(language_folder), str(clip_folder), caption_prompt="name <image>: ")
    batch = caption_inputs(made, ["a cat", "the red balloon"], together=together)
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


# -- the options of every processor -----------------------------------------------------------------------------------
def test_padding_truncation_length_and_tensors_are_honoured(pair):
    _, processor = pair
    texts = ["a cat slept on the red sofa", "hi"]
    plain = processor(text=texts)
    arrays = processor(text=texts, return_tensors="np")
    lists = processor(text=texts, return_tensors=None)
    for key in ("input_ids", "attention_mask"):
        assert isinstance(plain[key], torch.Tensor)
        assert isinstance(arrays[key], np.ndarray)
        assert plain[key].tolist() == arrays[key].tolist() == lists[key]
    wide = processor(text=texts, padding="max_length", max_length=40)
    assert wide["input_ids"].shape == (2, 40)
    assert (wide["attention_mask"].sum(dim=1) == plain["attention_mask"].sum(dim=1)).all()
    ragged = processor(text=texts, padding=False, return_tensors=None)
    assert [len(row) for row in ragged["input_ids"]] == plain["attention_mask"].sum(dim=1).tolist()
    short = processor(text=texts[0], max_length=6)
    assert short["input_ids"].shape == (1, 6)
    assert short["input_ids"][0, -5:].tolist() == plain["input_ids"][0, -5:].tolist()  # the latest are kept
    whole = processor(text=texts[0], max_length=6, truncation=False)
    assert whole["input_ids"].tolist() == processor(text=texts[0])["input_ids"].tolist()


@pytest.mark.parametrize("group", [{}, {"text_kwargs": {"max_length": 9, "padding": "max_length"}}])
def test_options_flat_or_in_groups(pair, group):
    _, processor = pair
    flat = {} if group else {"max_length": 9, "padding": "max_length"}
    assert processor(text="a", **flat, **group)["input_ids"].shape == (1, 9)
    assert processor.process_queries("a", **flat, **group)["input_ids"].shape == (1, 9)
    assert processor.process_texts("a", **flat, **group)["input_ids"].shape == (1, 9)


def test_options_of_the_image_processor(pair, pictures):
    _, processor = pair
    plain = processor(images=pictures[0])["pixel_values"]
    raw = processor(images=pictures[0], do_normalize=False, return_tensors="np")["pixel_values"]
    assert isinstance(raw, np.ndarray)
    assert 0 <= raw.min() <= raw.max() <= 1
    assert plain.min() < 0
    with_text = processor(text="look", images=pictures[0], images_kwargs={"do_normalize": False})
    assert np.allclose(with_text["pixel_values"].numpy(), raw)


def test_options_of_candidate_texts(pair):
    _, processor = pair
    texts = ["a cat slept on the red sofa", "hi"]
    plain = processor.process_texts(texts)
    cut = processor.process_texts(texts, max_length=4)
    assert cut["input_ids"].shape == (2, 4)
    assert processor.process_texts(texts, return_tensors="np")["input_ids"].tolist() == plain["input_ids"].tolist()
    ragged = processor.process_texts(texts, padding=False, return_tensors=None)["input_ids"]
    assert [len(row) for row in ragged] == plain["attention_mask"].sum(dim=1).tolist()


def test_process_context_is_process_queries(pair):
    _, processor = pair
    found, expected = processor.process_context("hi"), processor.process_queries("hi")
    assert found["input_ids"].tolist() == expected["input_ids"].tolist()


# -- the parts of a chat ----------------------------------------------------------------------------------------------
def parts_with(path: str) -> dict:
    data = Path(path).read_bytes()
    text = base64.encodebytes(data).decode()  # with line breaks
    uri = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return {
        "image: path": {"type": "image", "image": path},
        "image: path object": {"type": "image", "image": Path(path)},
        "image: PIL": {"type": "image", "image": Image.open(path)},
        "image: array": {"type": "image", "image": np.asarray(Image.open(path))},
        "image: bytes": {"type": "image", "image": data},
        "image: data URI": {"type": "image", "image": uri},
        "path": {"type": "image", "path": path},
        "url: data URI": {"type": "image", "url": uri},
        "base64": {"type": "image", "base64": text},
        "base64: data URI": {"type": "image", "base64": uri},
        "base64: data URI with line breaks": {"type": "image", "base64": f"data:image/png;base64,{text}"},
        "image_url": {"type": "image_url", "image_url": {"url": uri, "detail": "low"}},
        "image_url: string": {"type": "image_url", "image_url": uri},
    }


@pytest.mark.parametrize(
    "name",
    [
        "image: path",
        "image: path object",
        "image: PIL",
        "image: array",
        "image: bytes",
        "image: data URI",
        "path",
        "url: data URI",
        "base64",
        "base64: data URI",
        "base64: data URI with line breaks",
        "image_url",
        "image_url: string",
    ],
)
def test_every_form_of_an_image_part(pair, pictures, name):
    _, processor = pair
    expected = processor.process_queries([message("see ", [pictures[0]])])
    content = [{"type": "text", "text": "see "}, parts_with(pictures[0])[name]]
    found = processor.process_queries([{"role": "user", "content": content}])
    for key in ("input_ids", "attention_mask", "pixel_values"):
        assert torch.equal(found[key], expected[key])


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": "http://127.0.0.1:9/a.png"},
        {"type": "image", "url": "HTTPS://127.0.0.1:9/a.png"},
        {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/a.png"}},
    ],
)
def test_urls_are_fetched_by_call_or_attribute_alone(pair, monkeypatch, part):
    _, processor = pair
    processor = copy.copy(processor)
    fetched = []

    def fetch(url, timeout):
        fetched.append(url)
        file = io.BytesIO()
        Image.new("RGB", (4, 4)).save(file, "PNG")
        file.seek(0)
        return file

    monkeypatch.setattr("urllib.request.urlopen", fetch)
    dialogue = [{"role": "user", "content": [part]}]
    with pytest.raises(ValueError, match="allow_urls"):
        processor.process_queries(dialogue)
    assert fetched == []
    processor.process_queries(dialogue, allow_urls=True)
    processor.allow_urls = True
    processor.process_queries(dialogue)
    assert len(fetched) == 2
    with pytest.raises(ValueError, match="allow_urls"):
        processor.process_queries(dialogue, allow_urls=False)


def test_a_file_cannot_allow_urls(pair, tmp_path):
    _, processor = pair
    processor.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "processor_config.json").read_text())
    assert "allow_urls" not in config
    (tmp_path / "processor_config.json").write_text(json.dumps({**config, "allow_urls": True}))
    assert UniMuRProcessor.from_pretrained(tmp_path).allow_urls is False
    assert UniMuRProcessor.from_pretrained(tmp_path, allow_urls=True).allow_urls is True


# -- a text is a text -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text",
    [
        "report.pdf",
        "sunset.png",
        "/no/such/folder/cat.jpg",
        "https://example.com/cat.png",
        "what.is.in.this.jpg",
        "a.svg",
        "photo of a cat.jpeg",
        ".png",
        "C:\\pictures\\cat.png",
    ],
)
def test_a_text_is_a_text(pair, text):
    _, processor = pair
    assert decoded(processor, processor.process_queries(text)) == f"{text}[RET]"
    assert decoded(processor, processor.process_queries([text, text]), 1) == f"{text}[RET]"
    assert processor.process_texts(text)["input_ids"].shape[0] == 1


def test_a_query_that_names_an_image_file_is_that_image(pair, pictures, tmp_path, monkeypatch):
    _, processor = pair
    assert "pixel_values" in processor.process_queries(pictures[0])
    (tmp_path / "notes.txt").write_text("words")
    monkeypatch.chdir(tmp_path)
    assert "pixel_values" not in processor.process_queries("notes.txt")
    turn = [{"role": "user", "content": pictures[0]}]  # the content of a message is a text
    assert "pixel_values" not in processor.process_queries(turn)
    assert "pixel_values" not in processor.process_texts(pictures[0])


# -- apply_chat_template ----------------------------------------------------------------------------------------------
def test_apply_chat_template_is_process_queries(pair, pictures):
    _, processor = pair
    dialogue = [
        message("look ", [pictures[0]], " and ", [Image.open(pictures[1])]),
        {"role": "assistant", "content": "nice"},
    ]
    expected = processor.process_queries(dialogue)
    found = processor.apply_chat_template(dialogue, tokenize=True, return_dict=True)
    assert found.keys() == expected.keys()
    for key in expected:
        assert torch.equal(found[key], expected[key])
    assert torch.equal(processor.apply_chat_template(dialogue, tokenize=True), expected["input_ids"])
    batch = processor.apply_chat_template([dialogue, dialogue], tokenize=True, return_dict=True, return_tensors="np")
    assert batch["input_ids"].shape[0] == 2
    assert isinstance(batch["pixel_values"], np.ndarray)
    short = processor.apply_chat_template(dialogue, tokenize=True, return_dict=True, max_length=5)
    assert short["input_ids"].shape == (1, 5)
    options = {"padding": "max_length", "max_length": 50}
    assert processor.apply_chat_template(dialogue, tokenize=True, processor_kwargs=options).shape == (1, 50)
    template = "{% for message in messages %}{{ mark }}{% endfor %}"
    marked = processor.apply_chat_template(
        [message("x")], chat_template=template, tokenize=True, return_dict=True, mark="hm"
    )
    assert decoded(processor, marked) == "hm[RET]"


def test_apply_chat_template_does_not_read_typed_placeholders(pair):
    _, processor = pair
    dialogue = [message("what is <image> and [RET]?")]
    found = processor.apply_chat_template(dialogue, tokenize=True, return_dict=True)
    assert "pixel_values" not in found
    assert (found["input_ids"] == processor.ret_token_ids[0]).sum() == 1
