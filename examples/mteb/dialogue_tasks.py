"""Dialogue to image as a task of MTEB: VisDial v1.0, and the hand-written dialogues of this package.

Each class has the metadata that MTEB asks of a contributed task. A contributed one reads a data set of the Hub; these
read the published files where they lie (`FilesOnDisk`), because VisDial's images may not be uploaded again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from datasets import Dataset, Features, Image, Value
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata

from modeling_unimur.conversation import words_of_dialogue
from modeling_unimur.evaluation.tasks import TaskOptions
from modeling_unimur.evaluation.tasks.visdial import open_visdial, visdial_context

Items = Mapping[str, dict]
_TURN = {"role": Value("string"), "content": Value("string")}


def item_rows(items: Items) -> Dataset:
    """Items by id, each `{"text": ..., "image": path}` or one of the two; a text may be a conversation, a list of
    `{"role", "content"}`."""
    kinds = sorted({kind for item in items.values() for kind in item})
    talks = any(isinstance(item.get("text"), list) for item in items.values())
    known = {"text": [_TURN] if talks else Value("string"), "image": Image()}
    features = Features({"id": Value("string"), **{kind: known[kind] for kind in kinds}})
    return Dataset.from_list([{"id": name, **item} for name, item in items.items()], features=features)


class FilesOnDisk:
    """For a retrieval task: its queries, documents and judgments come from `contents()`."""

    def contents(self) -> tuple[Items, Items, Mapping[str, Sequence[str]]]:
        """Queries and documents by id, and the ids of the right documents of each query."""
        raise NotImplementedError

    def load_data(self, *args, **kwargs) -> None:
        """Called by MTEB."""
        if not self.data_loaded:
            queries, corpus, relevant = self.contents()
            right = {query: dict.fromkeys(ids, 1) for query, ids in relevant.items()}
            split = {"queries": item_rows(queries), "corpus": item_rows(corpus), "relevant_docs": right}
            self.dataset = {"default": {self.metadata.eval_splits[0]: {**split, "top_ranked": None}}}
            self.data_loaded = True


class _DialogueToImage(FilesOnDisk, AbsTaskRetrieval):
    """All rounds of a dialogue, without the caption, to the image that it is about.

    Args:
        data: VisDial v1.0's folder, ChatIR's, or `dev` or `test` for the hand-written dialogues.
        limit: only so many dialogues.
    """

    def __init__(self, data: str, limit: int | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.data, self.limit = data, limit

    def contents(self) -> tuple[Items, Items, Mapping[str, Sequence[str]]]:
        options = TaskOptions(limit=self.limit)
        dialogs, _, missing = open_visdial(self.data, options)
        shown = [dialog for dialog in dialogs if dialog.image is not None and dialog.rounds]
        if not shown:
            raise ValueError(f"No dialogue of {self.data} has its image: put the images beside the file. {missing}")
        queries = {dialog.image_id: {"text": _conversation(dialog, options)} for dialog in shown}
        corpus = {f"image-{dialog.image_id}": {"image": str(dialog.image)} for dialog in shown}
        return queries, corpus, {name: [f"image-{name}"] for name in queries}


def _conversation(dialog, options: TaskOptions) -> list[dict[str, str]]:
    messages = visdial_context(dialog, len(dialog.rounds), options)
    return [{"role": message["role"], "content": words_of_dialogue([message])} for message in messages]


_COMMON = {
    "type": "Any2AnyRetrieval",
    "category": "t2i",
    "modalities": ["text", "image"],
    "eval_langs": ["eng-Latn"],
    "main_score": "ndcg_at_10",
    "domains": ["Spoken", "Written"],
    "task_subtypes": ["Conversational retrieval"],
    "annotations_creators": "human-annotated",
    "dialect": [],
    "sample_creation": "created",
    "prompt": {"query": "Find the image that this dialogue is about."},
}


class VisDialDialogueToImage(_DialogueToImage):
    """VisDial v1.0: 2,064 dialogues of ten rounds, 2,064 images."""

    metadata = TaskMetadata(
        name="VisDialDialogueToImage",
        description="Retrieve the image that a dialogue of ten questions and answers is about (VisDial v1.0, val).",
        reference="https://visualdialog.org",
        dataset={"path": "local/visdial", "revision": "v1.0"},
        eval_splits=["val"],
        date=("2017-01-01", "2018-12-31"),
        license="cc-by-4.0",
        bibtex_citation=r"""
@inproceedings{das2017visual,
  author = {Das, Abhishek and Kottur, Satwik and Gupta, Khushi and Singh, Avi and Yadav, Deshraj and Moura, Jos{\'e} M.
F. and Parikh, Devi and Batra, Dhruv},
  booktitle = {Proceedings of the IEEE Conference on Computer Vision and Pattern Recognition},
  title = {Visual Dialog},
  year = {2017},
}
""",
        **_COMMON,
    )


class UniMuRDialogueToImage(_DialogueToImage):
    """The hand-written dialogues of this package: 100 conversations that do not name what their image shows."""

    metadata = TaskMetadata(
        name="UniMuRDialogueToImage",
        description="Retrieve the image of the next reply of a conversation that does not name what it shows.",
        reference=None,
        dataset={"path": "local/unimur-dialogues", "revision": "1"},
        eval_splits=["test"],
        date=("2026-01-01", "2026-12-31"),
        license="apache-2.0",
        bibtex_citation="",
        **_COMMON,
    )
