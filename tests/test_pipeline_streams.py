"""The pipeline over generators, datasets and columns, and the arguments that every pipeline takes."""

import copy
import pickle

import datasets
import pytest
import torch
from torch.utils.data import Dataset
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

from modeling_unimur import MultimodalRetrievalPipeline
from tests.hits import assert_same_answer

TEXTS = ["she plays guitar", "no, but the birthday cake was good", "what a beautiful morning it is"]


@pytest.fixture(scope="module")
def retriever(pair, pictures):
    made = pipeline("multimodal-retrieval", model=pair[0], processor=pair[1])
    made.add(images=pictures, texts=TEXTS)
    return made


@pytest.fixture(scope="module")
def dialogues(pictures):
    """Seven dialogues: with images and without, of one message and of two."""

    def shown(picture):
        content = [{"type": "text", "text": "look "}, {"type": "image", "image": picture}]
        return [{"role": "user", "content": content}, {"role": "assistant", "content": "nice"}]

    return ["hi", shown(pictures[0]), pictures[1], "she plays guitar", shown(pictures[2]), "no", "what a morning"]


class Rows(Dataset):
    """A map-style dataset that counts what is read of it."""

    def __init__(self, rows):
        self.rows, self.read = rows, 0

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, number):
        self.read += 1
        return self.rows[number]


def messages(dialogue) -> list:
    """A dialogue in the one form that a column of a dataset can hold."""
    if isinstance(dialogue, str):
        kind = {"type": "image", "path": dialogue} if dialogue.endswith(".png") else {"type": "text", "text": dialogue}
        return [{"role": "user", "content": [kind]}]
    return dialogue


def table(dialogues) -> datasets.Dataset:
    return datasets.Dataset.from_list([{"text": d} for d in dialogues if isinstance(d, str)])


STREAMS = {
    "a generator": lambda rows: (row for row in rows),
    "an iterator": lambda rows: iter(rows),
    "a map": lambda rows: map(copy.copy, rows),
    "a dataset": lambda rows: Rows(rows),
    "a key of a list of rows": lambda rows: KeyDataset([{"messages": row} for row in rows], "messages"),
    "a key of messages": lambda rows: KeyDataset([{"messages": messages(row)} for row in rows], "messages"),
}


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_a_stream_is_answered_as_a_list_is(retriever, dialogues, kind, num_workers):
    expected = retriever(dialogues, top_k=2)
    answers = retriever(STREAMS[kind](dialogues), top_k=2, batch_size=3, num_workers=num_workers)
    assert not isinstance(answers, list)
    for found, wanted in zip(answers, expected, strict=True):
        assert_same_answer(found, wanted)


@pytest.mark.parametrize("kind", ["column", "key", "iterable", "row by row"])
def test_columns_of_datasets(retriever, dialogues, kind):
    rows = table(dialogues)
    column = {
        "column": lambda: rows["text"],
        "key": lambda: KeyDataset(rows, "text"),
        "iterable": lambda: rows.to_iterable_dataset()["text"],
        "row by row": lambda: (row["text"] for row in rows),
    }[kind]()
    answers = retriever(column, top_k=2, batch_size=2)
    assert not isinstance(answers, list)
    for found, wanted in zip(answers, retriever(rows["text"][:], top_k=2), strict=True):
        assert_same_answer(found, wanted)


def test_streams_are_read_batch_by_batch(retriever, dialogues):
    read = []
    answers = retriever((read.append(number) or dialogue for number, dialogue in enumerate(dialogues)), batch_size=2)
    assert len(read) <= 1  # looked at
    assert next(answers)["text"]
    assert len(read) == 2
    assert [next(answers) and len(read) for _ in range(2)] == [2, 4]
    assert len(list(answers)) == len(dialogues) - 3
    rows = Rows(dialogues)
    answers = retriever(rows, batch_size=3)
    assert (len(answers), rows.read) == (len(dialogues), 0)
    assert next(iter(answers))["text"]
    assert rows.read == 3
    assert len(list(answers)) == len(list(answers)) == len(dialogues)


def test_an_endless_stream_of_dialogues_has_a_beginning(retriever):
    def endless():
        while True:
            yield "hi"

    answers = retriever(endless(), top_k=1)
    assert len([next(answers) for _ in range(20)]) == 20


def test_a_generator_of_messages_is_one_dialogue(retriever, dialogues):
    assert_same_answer(retriever(message for message in dialogues[1]), retriever(dialogues[1]))


def test_an_empty_stream_and_an_empty_list_have_no_answers(retriever):
    assert retriever([]) == list(retriever(iter([]))) == list(retriever(Rows([]))) == []


def test_arguments_may_be_set_when_the_pipeline_is_made(pair, pictures, dialogues):
    made = pipeline(
        "multimodal-retrieval", model=pair[0], processor=pair[1], batch_size=2, num_workers=1, device="cpu"
    )
    made.add(images=pictures, texts=TEXTS)
    rows = Rows(dialogues)
    for found, wanted in zip(made(rows), made(dialogues, batch_size=7, num_workers=0), strict=True):
        assert_same_answer(found, wanted)
    assert rows.read == 0  # by another process


def test_dtype_and_device(pair, pictures, dialogues, tmp_path):
    for part in pair:
        part.save_pretrained(tmp_path)
    whole = pipeline("multimodal-retrieval", model=str(tmp_path), trust_remote_code=True, dtype=torch.float32)
    half = pipeline(
        "multimodal-retrieval", model=str(tmp_path), trust_remote_code=True, dtype=torch.bfloat16, device="cpu"
    )
    assert (half.dtype, half.device.type) == (torch.bfloat16, "cpu")
    for made in (whole, half):
        assert made.add(images=pictures, texts=TEXTS)["skipped"] == []
    assert half.embed(dialogues).dtype == torch.float32
    torch.testing.assert_close(half.embed(dialogues), whole.embed(dialogues), atol=0.05, rtol=0)
    scores = [
        {hit["id"]: hit["score"] for hit in made(dialogues[1], modality="joint", top_k=9)} for made in (half, whole)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=0.1)


def test_every_road_goes_through_the_hooks(pair, pictures, dialogues):
    calls = []

    class Counted(MultimodalRetrievalPipeline):
        def preprocess(self, *args, **kwargs):
            calls.append("preprocess")
            return super().preprocess(*args, **kwargs)

        def _forward(self, *args, **kwargs):
            calls.append("_forward")
            return super()._forward(*args, **kwargs)

        def postprocess(self, *args, **kwargs):
            calls.append("postprocess")
            return super().postprocess(*args, **kwargs)

    made = Counted(model=pair[0], processor=pair[1])
    made.add(images=pictures, texts=TEXTS)
    for inputs in ("hi", dialogues[1], dialogues[:3]):  # one message, a chat that is kept, a batch
        calls.clear()
        made(inputs)
        assert calls == ["preprocess", "_forward", "postprocess"]
    assert len(made.chats) == 1
    found = made.postprocess(made.forward(made.preprocess(dialogues[0])), top_k=2)
    assert_same_answer(found[0], made(dialogues[0], top_k=2))


def test_embedding_and_ranking_apart(retriever, dialogues):
    vectors = retriever.embed(dialogues, batch_size=2)
    assert (vectors.shape, vectors.dtype) == ((7, 24), torch.float32)
    torch.testing.assert_close(vectors, retriever.embed(Rows(dialogues)), atol=1e-5, rtol=0)
    for found, wanted in zip(retriever.rank(vectors, top_k=2), retriever(dialogues, top_k=2), strict=True):
        assert_same_answer(found, wanted)
    owned = retriever.embed(dialogues, owners=["a", "b", None, "a", None, None, "a"])
    torch.testing.assert_close(owned, vectors, atol=1e-5, rtol=0)
    assert retriever.embed([]).shape == (0, 24)
    with pytest.raises(ValueError, match="1 owners"):
        retriever.embed(["hi", "no"], owners=["a"])
    with pytest.raises(TypeError, match="max_length"):
        retriever.rank(vectors, max_length=3)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_a_copy_answers_alike_and_is_its_own(pair, pictures, dialogues, how):
    made = pipeline("multimodal-retrieval", model=pair[0], processor=pair[1])
    made.add(images=pictures, texts=TEXTS)
    expected = made(dialogues[1])
    other = how(made)
    assert_same_answer(other(dialogues[1]), expected)
    other.add(texts=["one more"])
    assert (len(other.index), len(made.index)) == (8, 7)


# -- candidates -------------------------------------------------------------------------------------------------------
def test_candidates_are_read_batch_by_batch(pair):
    made = pipeline("multimodal-retrieval", model=pair[0], processor=pair[1])
    seen = []

    def texts():
        for number in range(7):
            seen.append((number, made.index.count("text")))
            yield f"text {number}"

    assert made.add(texts=texts(), text_ids=(f"t{n}" for n in range(7)), batch_size=3)["texts"] == 7
    assert [there for _, there in seen] == [0, 0, 0, 3, 3, 3, 6]
    assert ("text", "t6") in made.index


def test_candidates_of_a_dataset(pair, pictures):
    made = pipeline("multimodal-retrieval", model=pair[0], processor=pair[1])
    rows = datasets.Dataset.from_list([{"id": f"p{n}", "path": path} for n, path in enumerate(pictures)])
    shown = rows.cast_column("path", datasets.Image())
    assert made.add(images=KeyDataset(shown, "path"), image_ids=rows["id"])["images"] == 4
    assert made.add(texts=rows.to_iterable_dataset()["id"])["texts"] == 4
    other = pipeline("multimodal-retrieval", model=pair[0], processor=pair[1])
    other.add(images=pictures, image_ids=["p0", "p1", "p2", "p3"])
    found, wanted = ({hit["id"]: hit["score"] for hit in one("hi")["image"]} for one in (made, other))
    assert found == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("more", ["texts", "ids"])
def test_streams_of_different_lengths_do_not_agree(pair, more):
    made = pipeline("multimodal-retrieval", model=pair[0], processor=pair[1])
    texts, ids = (3, 2) if more == "texts" else (2, 3)
    with pytest.raises(ValueError, match="ids"):
        made.add(texts=(f"text {n}" for n in range(texts)), text_ids=(f"t{n}" for n in range(ids)))
