"""Samplers of hard negatives and what a batch makes of them."""

import random
from collections import Counter

import pytest
import torch

from modeling_unimur import UniVLDRModel, UniVLDRProcessor
from modeling_unimur.data.retrieval_set import RetrievalSet
from modeling_unimur.training.documents import DecodedImages, Documents
from modeling_unimur.training.query_rows import QueryCollator, QueryRows, Sampler
from tests.training.univl_dr_set import write_set

IMAGES, TEXTS = ["i1", "i2", "i3"], ["t1", "t2"]


def drawn(sampler, images=IMAGES, texts=TEXTS, times=200):
    return [sampler.draw(images, texts, random.Random(seed)) for seed in range(times)]


def kinds(rows):
    return Counter(tuple(sorted(item[0] for item in row)) for row in rows)


def test_balanced_takes_one_of_each():
    rows = drawn(Sampler("balanced"))
    assert kinds(rows) == {("i", "t"): 200}
    assert {item for row in rows for item in row} == {*IMAGES, *TEXTS}
    assert kinds(drawn(Sampler("balanced", 2, 1))) == {("i", "i", "t"): 200}


@pytest.mark.parametrize(
    ("images", "texts", "expected"),
    [
        ([], TEXTS, ("t", "t")),  # filled up from the other kind
        (IMAGES, [], ("i", "i")),
        ([], ["t1"], ("t",)),  # fewer than asked for where there are no more
        ([], [], ()),
    ],
)
def test_balanced_fills_up_from_the_other_kind(images, texts, expected):
    assert kinds(drawn(Sampler("balanced"), images, texts)) == {expected: 200}
    for row in drawn(Sampler("balanced"), images, texts):
        assert len(set(row)) == len(row)


def test_the_other_samplers():
    assert kinds(drawn(Sampler("image_only"))) == {("i", "i"): 200}
    assert kinds(drawn(Sampler("text_only"))) == {("t", "t"): 200}
    assert kinds(drawn(Sampler("hard_in_batch"))) == {("i", "t"): 200}
    assert kinds(drawn(Sampler("in_batch"))) == {(): 200}
    mixed = kinds(drawn(Sampler("unbalanced"), times=1000))
    assert set(mixed) == {("i", "i"), ("i", "t"), ("t", "t")}
    assert mixed["i", "i"] / 1000 == pytest.approx(0.3, abs=0.05)  # 3 of the 10 pairs of five
    assert mixed["i", "t"] / 1000 == pytest.approx(0.6, abs=0.05)


def test_bad_samplers_are_told():
    with pytest.raises(ValueError, match="sampler"):
        Sampler("hard")
    with pytest.raises(ValueError, match="both 0"):
        Sampler("balanced", 0, 0)
    with pytest.raises(ValueError, match="non-negative"):
        Sampler("balanced", -1, 2)


# -- rows and batches -----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def retrieval(tmp_path_factory):
    return RetrievalSet.load(write_set(tmp_path_factory.mktemp("set") / "set"))


@pytest.fixture(scope="module")
def documents(retrieval):
    return Documents(retrieval)


@pytest.fixture(scope="module")
def parts(clip_folder):
    return UniVLDRModel.from_backbones(str(clip_folder)), UniVLDRProcessor.from_backbones(str(clip_folder))


MINED = {
    "text-query-red-cat": (["image-blue-cake"], ["text-blue-cake", "text-green-cake"]),
    "image-query-red-cat": ([], ["text-blue-cake", "text-red-town"]),
    "image-query-blue-cake": (["image-red-cat"], ["text-red-cat"]),
}


def collator(parts, documents, name, **options):
    return QueryCollator(parts[1], documents, DecodedImages(parts[1]), Sampler(name), **options)


def test_pictures_are_the_positives_where_there_are_any(retrieval, documents):
    extra = [{"query_id": "text-query-red-cat", "doc_id": "image-green-cat", "score": 1}]
    qrels = {**retrieval.qrels, "train": retrieval.qrels["train"].to_list() + extra}
    both = RetrievalSet.from_rows(
        {split: table.to_list() for split, table in retrieval.queries.items()},
        retrieval.corpus.to_list(),
        {split: table if isinstance(table, list) else table.to_list() for split, table in qrels.items()},
    )
    row = QueryRows(both, documents)[0]
    assert documents.ids[row["positive"]] == "image-green-cat"
    known = {documents.ids[number] for number in row["known"]}
    assert known == {"image-green-cat", "text-red-cat", "image-red-cat"}  # the last one is excluded


def test_draws_hang_on_seed_epoch_and_row(retrieval, documents):
    def drawn(seed, epoch):
        rows = QueryRows(retrieval, documents, "train", Sampler("unbalanced", 1, 0), MINED, seed)
        rows.draw(epoch)
        return [tuple(rows[number]["negatives"]) for number in range(len(rows))]

    assert drawn(0, 1) == drawn(0, 1)
    assert len({tuple(drawn(0, epoch)) for epoch in range(8)}) > 1
    assert len({tuple(drawn(seed, 0)) for seed in range(8)}) > 1


def test_queries_without_hard_negatives_are_left_out(retrieval, documents):
    rows = QueryRows(retrieval, documents, "train", Sampler("balanced"), MINED)
    assert sorted(rows.queries[row] for row in rows.rows) == sorted(MINED)
    rows.use_mined({"text-query-red-cat": (["image-blue-town"], [])})  # the number of rows stays
    assert [rows.queries[row] for row in rows.rows] == ["text-query-red-cat"] * 3
    with pytest.raises(ValueError, match="hard negatives"):
        rows.use_mined({})
    with pytest.raises(ValueError, match="'image-pink-cat'"):
        rows.use_mined({"text-query-red-cat": (["image-pink-cat"], [])})


def batch_of(rows, queries):
    return [rows[rows.rows.index(rows.queries.index(query))] for query in queries]


def test_a_balanced_batch_by_hand(retrieval, documents, parts):
    """Two queries; the second has no image negative, so two texts; a shared document is encoded once."""
    mined = {**MINED, "text-query-red-cat": (["image-blue-cake"], ["text-blue-cake"])}
    rows = QueryRows(retrieval, documents, "train", Sampler("balanced"), mined)
    picked = batch_of(rows, ["text-query-red-cat", "image-query-red-cat"])
    batch = collator(parts, documents, "balanced")(picked)
    # Texts first, each once: text-red-cat, text-blue-cake, text-red-town; then image-blue-cake, image-red-cat.
    assert len(batch["text_input_ids"]) == 3
    assert len(batch["pixel_values"]) == len(batch["caption_input_ids"]) == 2
    assert batch["candidates"].sum(dim=1).tolist() == [3, 3]
    model = parts[0]
    with torch.no_grad():
        output = model(**batch)
    names = {"text": {}, "image": {}}
    with torch.no_grad():
        for number in range(len(documents)):
            one = documents[number]
            if one.kind == "text":
                vector = model.get_text_features(**parts[1].process_texts([one.text])).pooler_output
            else:
                vector = model.get_multimodal_features(
                    **parts[1].process_documents([one.image], [one.text])
                ).pooler_output
            names[one.kind][one.doc_id] = vector[0]
    every = {**names["text"], **names["image"]}
    scale = model.logit_scale.exp()
    by_hand = []
    for query, positive, negatives in (
        ("what is a red cat", "text-red-cat", ["image-blue-cake", "text-blue-cake"]),
        ("do you have a picture of a red cat", "image-red-cat", ["text-blue-cake", "text-red-town"]),
    ):
        with torch.no_grad():
            q = model.get_text_features(**parts[1].process_queries([query])).pooler_output[0]
        e = [torch.exp(scale * q @ every[name]) for name in (positive, *negatives)]
        by_hand.append(-torch.log(e[0] / sum(e)).item())
    assert output.loss.item() == pytest.approx(sum(by_hand) / 2, abs=1e-4)
    assert output.textual_matching_loss.item() == pytest.approx(by_hand[0], abs=1e-4)
    assert output.visual_matching_loss.item() == pytest.approx(by_hand[1], abs=1e-4)


def test_in_batch_candidates(retrieval, documents, parts):
    rows = QueryRows(retrieval, documents)
    picked = batch_of(
        rows, ["text-query-red-cat", "text-query-blue-cat", "image-query-red-cat", "text-query-red-cake"]
    )
    # Columns: the texts of red cat, blue cat and red cake, then the picture of the red cat. Cats are one group, and
    # the first query excludes the picture.
    expected = [[1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1]]
    batch = collator(parts, documents, "in_batch")(picked)
    assert batch["candidates"].tolist() == expected
    assert batch["positives"].tolist() == [0, 1, 3, 2]
    # As released: all of them, and a document once for every query that brought it.
    released = collator(parts, documents, "in_batch", mask_known=False)([*picked, picked[0]])
    assert released["candidates"].tolist() == [[2, 1, 1, 1]] * 5


def test_hard_and_in_batch_candidates(retrieval, documents, parts):
    rows = QueryRows(retrieval, documents, "train", Sampler("hard_in_batch"), MINED)
    picked = batch_of(rows, ["image-query-red-cat", "image-query-blue-cake"])
    batch = collator(parts, documents, "hard_in_batch", false_negative_threshold=0.9)(picked)
    # Texts: blue cake, red town, red cat; pictures: red cat, blue cake. The second query's text-blue-cake is of its
    # positive's group; the first one's text-red-cat likewise. Mined negatives stay.
    order = [documents.ids[number] for number in batch["document_ids"].tolist()]
    counts = [dict(zip(order, row, strict=True)) for row in batch["candidates"].tolist()]
    assert counts[0] == {
        "text-blue-cake": 1, "text-red-town": 1, "text-red-cat": 0, "image-red-cat": 1, "image-blue-cake": 1,
    }  # fmt: skip
    assert counts[1] == {
        "text-blue-cake": 0, "text-red-town": 1, "text-red-cat": 1, "image-red-cat": 1, "image-blue-cake": 1,
    }  # fmt: skip
    assert batch["false_negative_threshold"] == 0.9
    known = [{documents.ids[number] for number in row if number >= 0} for row in batch["known_ids"].tolist()]
    assert known == [{"image-red-cat"}, {"image-blue-cake"}]
    assert torch.isfinite(parts[0](**batch).loss)


def test_a_picture_that_cannot_be_read_is_its_caption(documents, parts, caplog):
    pictures = DecodedImages(parts[1])
    good = documents[documents.numbers["image-red-cat"]]
    bad = good._replace(image=good.image + ".missing")
    batch = pictures([good, bad])
    assert batch["image_mask"].tolist() == [True, False]
    assert "caption alone" in caplog.text
    assert "image_mask" not in pictures([good])


def test_a_bad_corpus_is_told(retrieval):
    corpus = retrieval.corpus.to_list()

    def made(**changed):
        return RetrievalSet.from_rows({}, [{**corpus[0], **changed}, *corpus[1:]], {})

    with pytest.raises(ValueError, match="'text-green-cat' twice"):
        Documents(made(doc_id="text-green-cat"))
    with pytest.raises(ValueError, match="'text-red-cat'"):
        Documents(made(kind="video"))
    with pytest.raises(ValueError, match=r"'text-red-cat' \(text\)"):
        Documents(made(text=" "))


@pytest.mark.parametrize(("asked", "longest"), [(4, 4), (10_000, None)])
def test_texts_are_as_short_as_asked(retrieval, documents, parts, asked, longest):
    rows = [QueryRows(retrieval, documents)[place] for place in range(8)]
    plain = collator(parts, documents, "in_batch")(rows)
    batch = collator(parts, documents, "in_batch", max_tokens=asked)(rows)
    for name in ("input_ids", "text_input_ids", "caption_input_ids"):
        assert plain[name].shape[1] > 4
        assert batch[name].shape == (len(plain[name]), longest or plain[name].shape[1])
