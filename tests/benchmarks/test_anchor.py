"""What `benchmarks/anchor.py` makes of vectors: ranks, rows of the ablation, kinds that a fit has left out."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import anchor as bench
from modeling_unimur.memory_index import Coherence
from modeling_unimur.modeling_unimur import UniMuRQueryAnchor
from modeling_unimur.training.query_anchor_fit import QuerySet

EYE = torch.eye(3)
FIELDS = {"readout": EYE, "whole": EYE, "last": EYE, "image": torch.zeros(3, 3), "statistics": torch.zeros(3, 3)}


def test_ties_count_against_a_query_and_those_without_an_answer_are_left_out():
    scores = np.array([[0.5, 0.5, 0.1], [0.9, 0.1, 0.2], [0.3, 0.2, 0.1]])
    right = np.array([[1, 0, 0], [0, 0, 0], [0, 1, 1]], dtype=bool)
    assert bench.reciprocal_ranks(scores, right).tolist() == [50.0, 50.0]


@pytest.fixture
def parts() -> dict[str, torch.Tensor]:
    """Three dialogues whose texts are found; the classifier's images too, the trained head's are one place further."""
    return {**FIELDS, "texts": EYE, "images": EYE, "trained_head_images": EYE.roll(1, dims=0)}


def test_the_rows_of_one_run(parts):
    right = {"text": np.eye(3, dtype=bool), "image": np.eye(3, dtype=bool)}
    queries = {"encoder": EYE, "anchored": EYE}
    found = bench.run_values("test", parts, queries, right, Coherence())
    assert {system for _, system in found} == {"encoder", "anchored", "coherent"}
    assert found["dialogue_text_mrr", "anchored"].tolist() == [100.0] * 3
    assert found["dialogue_image_mrr", "coherent"].tolist() == [100.0] * 3
    assert found["dialogue_image_trained_head_mrr", "encoder"].max() < 100
    assert found["consistency", "anchored"].tolist() == [100.0] * 3
    assert found["consistency_trained_head", "anchored"].tolist() == [0.0] * 3  # of two different dialogues
    assert ("dialogue_text_trained_head_mrr", "anchored") not in found  # texts have one encoder


def test_a_set_without_images_has_no_coherent_row(parts):
    right = {"text": np.eye(3, dtype=bool)}
    found = bench.run_values("chat", parts, {"encoder": EYE, "anchored": EYE}, right, Coherence())
    assert found.keys() == {("chat_mrr", "encoder"), ("chat_mrr", "anchored")}


def test_a_kind_is_ranked_by_the_query_that_was_fitted_without_it():
    config = SimpleNamespace(
        embedding_width=3,
        visual_width=3,
        query_attention=0.0,
        query_correction="linear",
        query_correction_size=0,
        query_gate=True,
    )
    anchor = UniMuRQueryAnchor(config).eval()
    with torch.no_grad():
        for tensor, value in anchor.initial_values():
            tensor.fill_(value)
    away = QuerySet("chats", *(FIELDS[name] for name in bench._FIELDS), EYE.roll(1, dims=0), torch.arange(3))
    turned = copy.deepcopy(anchor)
    turned.attention = 4.0
    fits = bench.Fits(
        built=anchor, fixed=anchor, left_out={"chats": (turned, anchor, [away])}, fitted=anchor, network=anchor
    )
    found = bench.left_out_values(fits)
    assert found["left_out_chats_mrr", "anchored"].shape == found["left_out_chats_mrr", "fixed"].shape == (3,)
    assert found["left_out_chats_mrr", "encoder"].max() < 100


def test_runs_are_averaged_and_compared_with_the_best_row_without_a_language_model():
    values = {
        ("chat_mrr", "encoder"): [np.array([50.0, 50.0]), np.array([50.0, 50.0])],
        ("chat_mrr", "whole_last"): [np.array([100.0, 50.0]), np.array([100.0, 50.0])],
        ("chat_mrr", "anchored"): [np.array([100.0, 100.0]), np.array([100.0, 50.0])],
    }
    figures = bench.figures_of(values)
    assert figures["chat_queries"] == 2
    assert figures["anchored_chat_mrr"] == 87.5
    assert figures["chat_mrr_over_anchor"] == 12.5
    assert figures["chat_mrr_over_encoder"] == 37.5


def test_each_caption_of_a_photograph_is_a_dialogue(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "captions.tsv").write_text("a.png\tone\nb.png\ttwo\na.png\tthree\n", encoding="utf-8")
    dialogues, gallery = bench.photographs(tmp_path)
    said = {dialogue.messages[0]["content"][0]["text"]: dialogue.right_images for dialogue in dialogues}
    names = dict(zip(gallery.image_ids, gallery.images, strict=True))
    assert {text: names[owner].rpartition("/")[2] for text, (owner,) in said.items()} == {
        "one": "a.png",
        "two": "b.png",
        "three": "a.png",
    }
