"""Pictures in words: batches, resuming, joining, and the models that write them."""

import json
import shutil

import pytest
import torch
from datasets import Dataset
from PIL import Image, ImageDraw, ImageFont
from transformers import CLIPImageProcessor, GitConfig, GitForCausalLM, GitProcessor

from modeling_unimur import UniVLDRProcessor
from modeling_unimur.cli.main import main
from modeling_unimur.data.retrieval_set import RetrievalSet
from modeling_unimur.verbalization import (
    ImageToTextVerbalizer,
    OcrVerbalizer,
    QueryPairs,
    UniMuRVerbalizer,
    WordStore,
    join_caption,
    joined_captions,
    open_verbalizer,
    read_words,
    train_query_writer,
    verbalize,
)
from modeling_unimur.verbalization.query_writer import QueryCollator, next_token_loss
from tests import tiny


class Sizes:
    """Says how large a picture is, and counts the pictures that it saw."""

    key = "sizes"

    def __init__(self):
        self.batches = []

    def __call__(self, images, captions):
        self.batches.append(len(images))
        return [f"{image.width} wide,\n {caption}" for image, caption in zip(images, captions, strict=True)]


@pytest.fixture
def corpus(pictures, tmp_path):
    copy = shutil.copy(pictures[0], tmp_path / "copy.png")
    rows = [
        *({"doc_id": f"i{n}", "kind": "image", "text": f"caption {n}", "image": p} for n, p in enumerate(pictures)),
        {"doc_id": "copy", "kind": "image", "text": "caption 0", "image": str(copy)},
        {"doc_id": "other", "kind": "image", "text": "other words", "image": str(copy)},
        {"doc_id": "lost", "kind": "image", "text": "lost", "image": "nowhere.png"},
        {"doc_id": "none", "kind": "image", "text": "no picture", "image": ""},
        {"doc_id": "t", "kind": "text", "text": "a text", "image": ""},
    ]
    return Dataset.from_list(rows)


def test_each_picture_is_put_into_words_once(corpus, tmp_path, caplog):
    caplog.set_level("INFO")
    first, again = Sizes(), Sizes()
    words = verbalize(corpus, first, batch_size=2, folder=tmp_path / "words")
    assert words == {
        **{f"i{n}": f"56 wide, caption {n}" for n in range(4)},
        "copy": "56 wide, caption 0",
        "other": "56 wide, other words",
    }
    assert first.batches == [2, 2, 1]  # the copy has the bytes and the caption of the first
    assert "1 skipped" in caplog.text
    assert verbalize(corpus, again, batch_size=2, folder=tmp_path / "words") == words
    assert again.batches == []
    other = Sizes()
    other.key = "sizes again"
    verbalize(corpus, other, batch_size=8, folder=tmp_path / "words")
    assert other.batches == [5]


def test_a_killed_run_goes_on(corpus, tmp_path):
    class Killed(Sizes):
        def __call__(self, images, captions):
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            return super().__call__(images, captions)

    with pytest.raises(KeyboardInterrupt):
        verbalize(corpus, Killed(), batch_size=2, folder=tmp_path)
    (file,) = tmp_path.glob("words-*.jsonl")
    assert len(WordStore(tmp_path, "sizes")) == 4
    file.write_text(file.read_text()[:-9])  # the kill broke the last line
    rest = Sizes()
    words = verbalize(corpus, rest, batch_size=8, folder=tmp_path)
    assert rest.batches == [2]
    assert set(words) == {"i0", "i1", "i2", "i3", "copy", "other"}
    assert len(WordStore(tmp_path, "sizes")) == 5


def test_words_stand_behind_the_captions(corpus, clip_folder):
    processor = UniVLDRProcessor.from_backbones(str(clip_folder))
    joined = joined_captions(corpus, {"i0": "a red cat", "i1": "", "t": "not for texts"}, processor)
    assert joined["text"][:3] == ["caption 0 [SEP] a red cat", "caption 1", "caption 2"]
    assert joined["text"][-1] == "a text"


# -- generators -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def captioner(tmp_path_factory):
    """A small random GIT."""
    folder = tmp_path_factory.mktemp("git")
    torch.manual_seed(0)
    tokenizer = tiny.tokenizer(bos=True)  # as GIT's own begins a text
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "image_size": 32, "patch_size": 16,
    }  # fmt: skip
    config = GitConfig(
        vision_config=vision, vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=64, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    model = GitForCausalLM(config).eval()
    with torch.no_grad():  # at their usual start they say the same of every picture
        for weight in model.parameters():
            weight.mul_(4 if weight.ndim > 1 else 1)
    model.save_pretrained(folder)
    side = {"height": 32, "width": 32}
    GitProcessor(CLIPImageProcessor(size=side, crop_size=side, do_center_crop=False), tokenizer).save_pretrained(
        folder
    )
    return str(folder)


def test_an_image_to_text_model_writes(captioner, pictures):
    images = [Image.open(path) for path in pictures]
    writer = ImageToTextVerbalizer(captioner, max_new_tokens=6)
    words = writer(images, [""] * 4)
    assert len(words) == 4
    assert [writer([image], [""])[0] for image in images] == words
    asker = ImageToTextVerbalizer(captioner, prompt="what of {caption}", max_new_tokens=6)
    cat, longer = asker(images[:1] * 2, ["a cat", "the red balloon over the town"])
    assert "what of" not in cat + longer
    assert asker(images[:1], ["a cat"]) == [cat]
    assert asker.key != writer.key


def test_unimur_writes(pair, pictures, tmp_path):
    for part in pair:
        part.save_pretrained(tmp_path)
    writer = UniMuRVerbalizer(str(tmp_path), max_new_tokens=5)
    images = [Image.open(path) for path in pictures]
    words = writer(images, [""] * 4)
    inputs = pair[1].process_caption_prompt(images[:1])
    with torch.no_grad():
        ids = pair[0].generate(**inputs, max_new_tokens=5, do_sample=False, pad_token_id=2)
    text = pair[1].tokenizer.batch_decode(ids, skip_special_tokens=True)[0]
    assert words[0] == next((line.strip() for line in text.splitlines() if line.strip()), "")


def test_each_token_is_learned_from_the_one_before():
    logits = torch.randn(2, 3 + 4, 9)  # three places of images
    labels = torch.tensor([[-100, 4, 5, 6], [-100, -100, 7, 8]])
    wanted = [
        logits[row, 3 + n - 1].log_softmax(-1)[labels[row, n]] for row, n in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3))
    ]
    outputs = type("Outputs", (), {"logits": logits})()
    torch.testing.assert_close(next_token_loss(outputs, labels), -torch.stack(wanted).mean())
    torch.testing.assert_close(next_token_loss(outputs, labels, 10), -torch.stack(wanted).sum() / 10)


def test_a_captioner_learns_the_training_queries(captioner, corpus, tmp_path):
    queries = {
        split: [{"query_id": f"{split}{n}", "text": f"{split} {text}"} for n, text in enumerate(("balloon", "cake"))]
        for split in ("train", "test")
    }
    qrels = {
        split: [{"query_id": f"{split}{n}", "doc_id": doc, "score": 1} for n, doc in enumerate(("i0", "i1"))]
        + [{"query_id": f"{split}0", "doc_id": "t", "score": 1}]
        for split in ("train", "test")
    }
    retrieval = RetrievalSet.from_rows(queries, corpus.to_list(), qrels)
    pairs = QueryPairs(retrieval)
    assert [row[1:] for row in pairs.rows] == [("caption 0", "train balloon"), ("caption 1", "train cake")]
    processor = ImageToTextVerbalizer(captioner).processor
    batch = QueryCollator(processor, "of {caption}:")([pairs[0]])
    learned = batch["labels"][0][batch["labels"][0] != -100]
    assert processor.tokenizer.decode(learned, skip_special_tokens=True).strip() == "train balloon"
    assert learned[-1] == processor.tokenizer.eos_token_id
    # Two pictures are learned by heart; at the pictures' own words the model then writes the queries.
    train_query_writer(
        captioner, retrieval, tmp_path / "writer", learning_rate=0.01, num_train_epochs=60, logging_strategy="no",
        disable_tqdm=True,
    )  # fmt: skip
    writer = ImageToTextVerbalizer(str(tmp_path / "writer"), max_new_tokens=24)
    images = [Image.open(corpus[number]["image"]) for number in (0, 1)]
    words = writer(images, ["", ""])
    assert all(text.startswith("train ") for text in words), words
    with pytest.raises(ValueError, match="nothing"):
        QueryPairs(RetrievalSet.from_rows(queries, corpus.to_list(), {**qrels, "train": qrels["train"][2:]}))


# -- what is written in a picture -----------------------------------------------------------------------------------
@pytest.mark.skipif(shutil.which("tesseract") is None, reason="tesseract is not installed")
def test_tesseract_reads_a_screen():
    image = Image.new("RGB", (260, 60), "white")
    draw = ImageDraw.Draw(image)
    draw.text((10, 8), "Gaussian Blur", fill="black", font=ImageFont.load_default(16))
    draw.text((10, 32), "Cancel", fill="black", font=ImageFont.load_default(16))
    reader = OcrVerbalizer()
    assert reader([image, Image.new("RGB", (50, 50), "white")], ["", ""]) == ["Gaussian Blur Cancel", ""]
    with pytest.raises(ValueError, match="tesseract-ocr-xyz"):
        OcrVerbalizer("xyz")


def test_without_tesseract_one_error_names_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="tesseract-ocr"):
        open_verbalizer("ocr")


# -- the command ----------------------------------------------------------------------------------------------------
def test_the_command(captioner, corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("UNIMUR_CACHE", str(tmp_path / "cache"))
    queries, qrels = (
        {"train": [{"query_id": "q", "text": "a"}]},
        {"train": [{"query_id": "q", "doc_id": "t", "score": 1}]},
    )
    RetrievalSet.from_rows(queries, corpus.to_list(), qrels).save(tmp_path / "set")
    output = tmp_path / "words.jsonl"
    asked = ["verbalize", f"folder={tmp_path / 'set'}", "--output", str(output)]
    assert main([*asked, "--by", f"model={captioner}"]) == 0
    assert set(read_words(output)) == {"i0", "i1", "i2", "i3", "copy", "other"}
    assert "6 images" in capsys.readouterr().out
    assert main([*asked, "--by", "magic"]) == 2
    assert "A verbalizer is" in capsys.readouterr().err
    assert main([*asked, "--by", "ocr", "--prompt", "x"]) == 2
    assert "A prompt is for model=ID" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="unimur verbalize"):
        read_words(tmp_path / "nowhere.jsonl")
    output.write_text(json.dumps({"doc": "i0"}) + "\n")
    with pytest.raises(ValueError, match=r"line 1: .*doc_id"):
        read_words(output)


def test_room_is_kept_for_the_verbalization(clip_folder):
    processor = UniVLDRProcessor.from_backbones(str(clip_folder), max_target_tokens=24)
    caption, words = " ".join(["a beautiful morning"] * 9), "red balloon over the town"

    def read(text):
        return processor.tokenizer.decode(processor.process_texts(text)["input_ids"][0], skip_special_tokens=True)

    assert join_caption(processor, "a cat", "a town") == "a cat [SEP] a town"
    assert join_caption(processor, "a cat", None) == "a cat"
    assert join_caption(processor, "", "a town") == "a town"
    assert words not in read(join_caption(processor, caption, words))  # pushed out, as in the released code
    processor.verbalization_tokens = 12
    joined = read(join_caption(processor, caption, words))
    assert joined.startswith("a beautiful morning")
    assert joined.endswith(words)
