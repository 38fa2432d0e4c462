"""Bad input is one clear error that names the item and the remedy."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, pipeline

from modeling_unimur import UniMuRConfig, UniMuRModel, UniMuRProcessor, load_image

USER = {"role": "user"}


@pytest.fixture(scope="module")
def world(tmp_path_factory, pair, pictures, language_folder, clip_folder):
    """Everything that the calls of the table use."""
    work = tmp_path_factory.mktemp("bad")
    model, processor = pair
    retriever = pipeline("multimodal-retrieval", model=model, processor=processor)
    retriever.add(images=pictures, texts=["hi", "no"])
    with open(pictures[0], "rb") as file:
        (work / "cut.png").write_bytes(file.read()[:300])
    (work / "empty.png").write_bytes(b"")
    (work / "words.png").write_text("no picture at all", encoding="utf-8")
    (work / "empty_folder").mkdir()
    (work / "no_type").mkdir()
    (work / "no_type" / "config.json").write_text(json.dumps({"text_config": {"vocab_size": 3}}), encoding="utf-8")
    return SimpleNamespace(
        work=work,
        model=model,
        processor=processor,
        retriever=retriever,
        picture=pictures[0],
        empty=pipeline("multimodal-retrieval", model=model, processor=processor),
        language=str(language_folder),
        clip=str(clip_folder),
        context=processor.process_context(["hi there"]),
    )


def part(**content):
    """A dialogue of one turn with one part."""
    return [{**USER, "content": [content]}]


CASES = {
    # the processor
    "no dialogue": (lambda w: w.processor.process_context([]), ValueError, ["at least one"]),
    "an empty string": (lambda w: w.processor.process_context(""), ValueError, ["empty", "one word or one image"]),
    "only spaces": (lambda w: w.processor.process_context(["hi", " \n\t "]), ValueError, ["Dialogue 1", "empty"]),
    "a number": (lambda w: w.processor.process_context(7), ValueError, ["7", "expected a string"]),
    "nothing": (lambda w: w.processor.process_context(None), ValueError, ["None", "expected"]),
    "a number in a batch": (lambda w: w.processor.process_context(["hi", 3.5]), ValueError, ["Dialogue 1", "3.5"]),
    "a message without content": (lambda w: w.processor.process_context([USER]), ValueError, ["content"]),
    "a message among strings": (
        lambda w: w.processor.process_context([{**USER, "content": "hi"}, "no"]),
        ValueError,
        ["The dialogue", "chat messages"],
    ),
    "content is a number": (
        lambda w: w.processor.process_context([{**USER, "content": "hi"}, {**USER, "content": 5}]),
        ValueError,
        ["turn 1", "int"],
    ),
    "a video": (
        lambda w: w.processor.process_context(part(type="video", video="a.mp4")),
        ValueError,
        ["part 0", "video"],
    ),
    "a text part without text": (lambda w: w.processor.process_context(part(type="text")), ValueError, ["part 0"]),
    "an image part without image": (
        lambda w: w.processor.process_context(part(type="image")),
        ValueError,
        ["part 0", "image"],
    ),
    "a picture that is not there": (
        lambda w: w.processor.process_context(["hi", part(type="image", image="/no/such.png")]),
        FileNotFoundError,
        ["Dialogue 1, turn 0", "/no/such.png"],
    ),
    "a truncated picture": (
        lambda w: w.processor.process_context(part(type="image", image=str(w.work / "cut.png"))),
        ValueError,
        ["turn 0", "cut.png", "truncated"],
    ),
    "an address": (
        lambda w: w.processor.process_context(part(type="image", image="https://example.com/a.png")),
        ValueError,
        ["https://example.com/a.png", "allow_urls=True"],
    ),
    "a picture of a wrong type": (
        lambda w: w.processor.process_context(part(type="image", image=12)),
        ValueError,
        ["turn 0", "int"],
    ),
    "an image_url part without url": (
        lambda w: w.processor.process_context(part(type="image_url", image_url={})),
        ValueError,
        ["part 0", "image_url"],
    ),
    "base64 that is none": (
        lambda w: w.processor.process_context(part(type="image", base64="@@@")),
        ValueError,
        ["part 0", "base64"],
    ),
    "half of a surrogate pair": (lambda w: w.processor.process_context(["hi", "a\ud83d"]), ValueError, ["Dialogue 1"]),
    "half of a surrogate pair in a part": (
        lambda w: w.processor.process_context(part(type="text", text="\udc80")),
        ValueError,
        ["part 0", "udc80"],
    ),
    "half of a surrogate pair in a candidate": (
        lambda w: w.processor.process_texts(["a", "b\ud83d"]),
        ValueError,
        ["Text 1", "ud83d"],
    ),
    "an unknown option of queries": (lambda w: w.processor.process_queries("a", lenght=3), TypeError, ["lenght"]),
    "an unknown option of a call": (lambda w: w.processor(text="a", add_special=True), TypeError, ["add_special"]),
    "an unknown option of texts": (lambda w: w.processor.process_texts("a", maxlen=3), TypeError, ["maxlen"]),
    "an unknown option of images": (lambda w: w.processor(images=w.picture, crop=3), TypeError, ["crop"]),
    "an option twice": (
        lambda w: w.processor(text="a", padding=True, text_kwargs={"padding": False}),
        TypeError,
        ["padding"],
    ),
    "an unknown padding": (lambda w: w.processor(text="a", padding="left"), ValueError, ["padding", "left"]),
    "an unknown kind of tensors": (lambda w: w.processor(text="a", return_tensors="tf"), ValueError, ["tf"]),
    "rows of different lengths": (
        lambda w: w.processor(text=["a", "a cat slept"], padding=False),
        ValueError,
        ["padding=True"],
    ),
    "queries as candidate texts": (
        lambda w: w.model.get_text_features(**w.processor(text=["a cat", "a dog and a bird"])),
        ValueError,
        ["process_texts"],
    ),
    "no room": (lambda w: w.processor.process_context("hi", max_length=1), ValueError, ["max_length=1", "no room"]),
    "no length": (lambda w: w.processor.process_context("hi", max_length=0), ValueError, ["max_length=0"]),
    "a candidate text that is none": (lambda w: w.processor.process_texts(["a", 3]), ValueError, ["Text 1", "int"]),
    "neither text nor images": (lambda w: w.processor(), ValueError, ["Pass text, images"]),
    "more places than pictures": (
        lambda w: w.processor(text="<image> and <image>", images=[w.picture]),
        ValueError,
        ["Text 0", "2 times <image>", "1 images"],
    ),
    "pictures for other texts": (
        lambda w: w.processor(text=["a", "b"], images=[[w.picture]]),
        ValueError,
        ["2 texts and images for 1"],
    ),
    # the model
    "a context without [RET]": (
        lambda w: w.model.get_multimodal_features(torch.tensor([[5, 6, 7]])),
        ValueError,
        ["Context 0", "[RET]", "processor"],
    ),
    "a picture without a place": (
        lambda w: w.model.get_multimodal_features(**w.context, pixel_values=torch.zeros(1, 3, 32, 32)),
        ValueError,
        ["0 images", "1 images"],
    ),
    # the configuration
    "an unknown visual feature": (
        lambda w: UniMuRConfig(visual_feature="patches"),
        ValueError,
        ["'patches'", "pooled"],
    ),
    "no [RET]": (lambda w: UniMuRConfig(num_ret_tokens=0), ValueError, ["num_ret_tokens", "at least 1"]),
    "no visual token": (lambda w: UniMuRConfig(num_visual_tokens=-2), ValueError, ["num_visual_tokens", "-2"]),
    "no layer": (lambda w: UniMuRConfig(ret_layers=[]), ValueError, ["ret_layers"]),
    "a layer too high": (lambda w: UniMuRConfig(ret_layers=[-1, 13]), ValueError, ["ret_layers", "12", "13"]),
    "ids that are too few": (
        lambda w: UniMuRConfig(num_ret_tokens=2, ret_token_ids=[9]),
        ValueError,
        ["2 [RET] tokens", "[9]"],
    ),
    "a width without maps": (
        lambda w: UniMuRConfig(clip_config=CLIPConfig(), projection_dim=256),
        ValueError,
        ["projection_dim=256", "512", "map_image_targets"],
    ),
    "no width": (lambda w: UniMuRConfig().embedding_width, ValueError, ["projection_dim"]),
    "a map of pictures without a dual encoder": (
        lambda w: UniMuRConfig(projection_dim=8, map_image_targets=True),
        ValueError,
        ["map_image_targets", "clip_config"],
    ),
    "a backbone of no type": (
        lambda w: UniMuRConfig(text_config={"vocab_size": 3}),
        ValueError,
        ["model_type", "vocab_size"],
    ),
    # loading
    "a backbone that is not there": (
        lambda w: UniMuRModel.from_backbones(f"{w.work}/absent", w.clip, processor=w.processor),
        OSError,
        ["language model", "absent", "pass language_model="],
    ),
    "a dual encoder that is not there": (
        lambda w: UniMuRModel.from_backbones(w.language, "acme/never", processor=w.processor),
        OSError,
        ["dual encoder", "'acme/never'", "pass clip="],
    ),
    "a folder without a model": (
        lambda w: UniMuRModel.from_pretrained(w.work / "empty_folder"),
        OSError,
        ["empty_folder", "model.safetensors"],
    ),
    "a configuration without a type": (
        lambda w: UniMuRModel.from_pretrained(w.work / "no_type"),
        ValueError,
        ["model_type"],
    ),
    "a backbone in place of a release": (
        lambda w: UniMuRModel.from_pretrained(w.language),
        ValueError,
        ["llama", "from_backbones"],
    ),
    "a processor of nothing": (
        lambda w: UniMuRProcessor.from_pretrained(w.work / "empty_folder"),
        OSError,
        ["empty_folder"],
    ),
    # the pipeline
    "no candidates": (lambda w: w.empty("hi"), ValueError, ["no text or image", "add(", "load_index("]),
    "no pictures": (lambda w: w.empty("hi", modality="image"), ValueError, ["no image to retrieve"]),
    "an unknown modality": (lambda w: w.retriever("hi", modality="video"), ValueError, ["'video'", "'joint'"]),
    "no hit": (lambda w: w.retriever("hi", top_k=0), ValueError, ["top_k", "0"]),
    "half a hit": (lambda w: w.retriever("hi", top_k=1.5), ValueError, ["top_k", "1.5"]),
    "an unknown option": (lambda w: w.retriever("hi", topk=3), TypeError, ["topk"]),
    "no batch": (lambda w: w.retriever("hi", batch_size=0), ValueError, ["batch_size", "0"]),
    "a negative batch": (lambda w: w.retriever(["hi"], batch_size=-1), ValueError, ["batch_size", "-1"]),
    "a bad dialogue in a later batch": (
        lambda w: w.retriever(["hi", "no", "", "yes"], batch_size=1),
        ValueError,
        ["Dialogue 2", "empty"],
    ),
    "candidates that are a string": (lambda w: w.retriever.add(texts="hi"), ValueError, ["'hi'", "['hi']"]),
    "candidates that are a number": (lambda w: w.retriever.add(images=3), ValueError, ["images", "3"]),
    "candidates in batches of none": (
        lambda w: w.retriever.add(texts=["x"], batch_size=0),
        ValueError,
        ["batch_size"],
    ),
    "ids for others": (lambda w: w.retriever.add(texts=["a", "b"], text_ids=["x"]), ValueError, ["2 texts", "1 ids"]),
    "vectors of another width": (
        lambda w: w.retriever.add_embeddings("text", ["a"], torch.ones(1, 5), ["a"]),
        ValueError,
        ["24", "5"],
    ),
    "an index that is not there": (
        lambda w: w.retriever.load_index(w.work / "nowhere"),
        FileNotFoundError,
        ["nowhere", "save_index"],
    ),
    "an index over something else": (lambda w: w.retriever.save_index(w.work), ValueError, ["something else"]),
    # pictures
    "an empty file": (lambda w: load_image(w.work / "empty.png"), ValueError, ["empty.png", "empty"]),
    "words in a picture's name": (
        lambda w: load_image(w.work / "words.png"),
        ValueError,
        ["words.png", "not an image"],
    ),
    "a folder": (lambda w: load_image(w.work), ValueError, ["folder"]),
    "an array with nan": (lambda w: load_image(np.full((4, 4, 3), np.nan)), ValueError, ["(4, 4, 3)", "0..1"]),
    "a picture too large": (
        lambda w: load_image(np.broadcast_to(np.uint8(0), (10_001, 10_000))),
        ValueError,
        ["10000 x 10001", "100000000"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_clear_error(world, name):
    call, expected, words = CASES[name]
    before = len(world.retriever.index)
    with pytest.raises(expected) as caught:
        call(world)
    message = str(caught.value)
    for word in words:
        assert word in message
    assert len(message) < 700
    assert len(world.retriever.index) == before


def test_the_table_is_long_enough():
    assert len(CASES) >= 25
