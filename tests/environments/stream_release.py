"""Run by tests in another environment: pipelines of releases, loaded by their own code, with workers.

`python stream_release.py PICTURE RELEASE...` fails where a pipeline whose dialogues are read by a spawned or a forked
worker, or a copy of a pipeline, answers otherwise than the pipeline itself.
"""

import copy
import importlib.util
import pickle
import sys

import torch
from load_release import TEXTS, conversation
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset


def require_same(found: list, expected: list, what: str) -> None:
    """Ends the process where two lists of answers differ."""
    assert len(found) == len(expected), what
    for mine, theirs in zip(found, expected, strict=True):
        for kind in ("text", "image"):
            scores = [{hit["id"]: round(hit["score"], 4) for hit in answer[kind]} for answer in (mine, theirs)]
            assert scores[0] == scores[1], what


def main(picture: str, *releases: str) -> None:
    """Loads each release and streams dialogues through it."""
    if importlib.util.find_spec("modeling_unimur") is not None:
        sys.exit("modeling_unimur can be imported here: this environment proves nothing.")
    for release in releases:
        retriever = pipeline("multimodal-retrieval", model=release, trust_remote_code=True, device="cpu")
        assert type(retriever).__module__.startswith("transformers_modules.")
        retriever.add(images=[picture], texts=TEXTS)
        dialogues = [*TEXTS, conversation(picture), picture, *TEXTS]
        rows = KeyDataset([{"messages": dialogue} for dialogue in dialogues], "messages")
        expected = retriever(dialogues)
        for start in ("spawn", "fork"):
            torch.multiprocessing.set_start_method(start, force=True)
            require_same(list(retriever(rows, num_workers=1, batch_size=2)), expected, start)
        for how, made in (("pickle", pickle.loads(pickle.dumps(retriever))), ("deepcopy", copy.deepcopy(retriever))):
            require_same(made(dialogues), expected, how)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
