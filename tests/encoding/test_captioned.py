"""Building an index with a model that fuses pictures with their captions."""

import json

import numpy as np
import pytest
import torch

from modeling_unimur import MultimodalRetrievalPipeline, UniVLDRModel, UniVLDRProcessor
from modeling_unimur.data.retrieval_set import RetrievalSet
from modeling_unimur.encoding.build import build_index
from modeling_unimur.encoding.encoder import Encoder
from tests.encoding.corpora import assert_same_content, content, options, picture
from tests.training.univl_dr_set import write_set

CAPTIONS = ["a red balloon", "a cat slept", "", "a red balloon"]


@pytest.fixture(scope="module")
def release(clip_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("univl_dr")
    torch.manual_seed(0)
    UniVLDRModel.from_backbones(str(clip_folder), image_weight=0.5).save_pretrained(folder)
    UniVLDRProcessor.from_backbones(str(clip_folder)).save_pretrained(folder)
    return folder


@pytest.fixture
def lines(tmp_path):
    """Two texts; four captioned pictures, the first and the last with the same words and other pixels, and the third
    with the pixels of the second; and a file that is no picture."""
    for number, seed in enumerate((0, 1, 1, 2)):
        picture(tmp_path / f"{number}.png", seed)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    rows = [{"id": f"p{n}", "image": f"{n}.png", "text": text} for n, text in enumerate(CAPTIONS)]
    rows += [{"id": "bad", "image": "broken.png", "text": "nothing"}]
    rows += [{"id": "t0", "text": "a red balloon"}, {"id": "t1", "text": "a quiet harbour"}]
    file = tmp_path / "corpus.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_vectors_are_the_pipeline_s(release, lines, tmp_path):
    report = build_index(lines, release, tmp_path / "index", options())
    assert (report.items, report.encoded, report.skipped) == (6, 6, 1)
    parts = UniVLDRModel.from_pretrained(release), UniVLDRProcessor.from_pretrained(release)
    plain = MultimodalRetrievalPipeline(model=parts[0], processor=parts[1])
    plain.add(
        images=[str(tmp_path / f"{number}.png") for number in range(4)],
        image_ids=[f"p{number}" for number in range(4)],
        captions=CAPTIONS,
        texts=["a red balloon", "a quiet harbour"],
        text_ids=["t0", "t1"],
    )
    plain.save_index(tmp_path / "plain")
    assert_same_content(content(tmp_path / "index"), content(tmp_path / "plain"), 1e-5)
    searched = MultimodalRetrievalPipeline(model=parts[0], processor=parts[1])
    searched.load_index(tmp_path / "index")
    mine, theirs = (one("a red balloon", modality="joint", top_k=6) for one in (searched, plain))
    assert [hit["id"] for hit in mine] == [hit["id"] for hit in theirs]
    assert mine[0]["id"] == "t0"


def test_another_caption_is_another_content(release, lines, tmp_path):
    encoder = Encoder.load(release)
    build_index(lines, encoder, tmp_path / "index", options())
    before = content(tmp_path / "index")
    assert build_index(lines, encoder, tmp_path / "index", options()).encoded == 0
    lines.write_text(lines.read_text().replace("a cat slept", "a dog barked"))
    report = build_index(lines, encoder, tmp_path / "index", options())
    assert (report.encoded, report.replaced, report.unchanged) == (1, 1, 6)  # the broken one is one of them
    after = content(tmp_path / "index")
    assert after["image", "p1"][0]["caption"] == "a dog barked"
    assert np.abs(after["image", "p1"][1] - before["image", "p1"][1]).max() > 1e-3
    for key in set(before) - {("image", "p1")}:
        np.testing.assert_allclose(after[key][1], before[key][1], atol=1e-6)


def test_a_model_that_fuses_otherwise_is_another(release, lines, tmp_path):
    encoder = Encoder.load(release)
    build_index(lines, encoder, tmp_path / "index", options())
    other = UniVLDRModel.from_pretrained(release, image_weight=0.1)
    stranger = Encoder(other, encoder.processor)
    assert stranger.name != Encoder.load(release).name
    with pytest.raises(ValueError, match="that model"):
        build_index(lines, stranger, tmp_path / "index", options())


def test_a_text_beside_a_picture_is_its_caption(release, tmp_path):
    folder = tmp_path / "pictures"
    for number in range(3):
        picture(folder / f"{number}.png", number)
    (folder / "0.txt").write_text("a red balloon\n", encoding="utf-8")
    (folder / "1.txt").write_text("\n", encoding="utf-8")
    encoder = Encoder.load(release)
    build_index(folder, encoder, tmp_path / "index", options())
    found = content(tmp_path / "index")
    assert [found["image", f"{n}.png"][0].get("caption") for n in range(3)] == ["a red balloon", None, None]
    (folder / "1.txt").write_text("a quiet harbour", encoding="utf-8")
    (folder / "0.txt").unlink()
    report = build_index(folder, encoder, tmp_path / "index", options())
    assert (report.encoded, report.replaced, report.unchanged) == (2, 2, 1)


def test_a_retrieval_set_is_a_source(release, tmp_path, monkeypatch):
    written = write_set(tmp_path / "set")
    corpus = RetrievalSet.load(written).corpus
    first = build_index(f"folder={written}", release, tmp_path / "index", options())
    assert (first.items, first.skipped) == (len(corpus), 0)
    found = content(tmp_path / "index")
    for record in corpus:
        payload, _ = found[record["kind"], record["doc_id"]]
        assert payload["text" if record["kind"] == "text" else "caption"] == record["text"]
    monkeypatch.chdir(tmp_path)  # the same source from anywhere
    assert build_index(f"folder={written}", release, tmp_path / "index", options()).unchanged == first.items
    with pytest.raises(FileNotFoundError, match="gimp_manual"):
        build_index("gimp_manuel", release, tmp_path / "index", options())
