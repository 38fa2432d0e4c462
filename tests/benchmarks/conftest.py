"""A small full release, dialogues and captioned pictures for the benchmarks' quick runs."""

import json

import pytest

from modeling_unimur import MultimodalRetrievalPipeline


@pytest.fixture(scope="session")
def release(make_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("release") / "unimur-tiny"
    model, processor = make_model()
    model.config.heads_only = False
    MultimodalRetrievalPipeline(model=model, processor=processor).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def dialogue_file(pictures, tmp_path_factory):
    path = tmp_path_factory.mktemp("dialogues") / "dialogues.jsonl"
    shown = [{"type": "text", "text": "look who slept here"}, {"type": "image", "image": pictures[0]}]
    dialogues = [
        {"messages": [{"role": "user", "content": shown}]},
        {
            "messages": [
                {"role": "user", "content": "good morning"},
                {"role": "assistant", "content": "what a day"},
                {"role": "user", "content": "do you have a picture of the lighthouse"},
            ]
        },
    ]
    path.write_text("\n".join(map(json.dumps, dialogues)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def pair_file(pictures, tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    captions = ["a cat", "the red balloon over the town", "she plays guitar on the beach at night", "a birthday cake"]
    path.write_text("\n".join(f"{c}\t{p}" for c, p in zip(captions, pictures, strict=True)), encoding="utf-8")
    return path
