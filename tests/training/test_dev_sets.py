"""Development sets: what they hold, and that shared contexts and kept prefixes change no figure."""

import numpy as np
import pytest
import torch

from modeling_unimur.training.collators import DualAlignmentCollator
from modeling_unimur.training.context_rows import TextRows
from modeling_unimur.training.dev_sets import DevSet, embed_contexts, image_sets, recalls, scores, text_sets
from modeling_unimur.training.pairs import ImagePairs
from modeling_unimur.training.prefix_store import PrefixStore


@pytest.fixture
def pairs(pair):
    width, count = pair[0].config.joint_width, 6
    generator = torch.Generator().manual_seed(0)
    return ImagePairs(
        paths=[f"{n}.png" for n in range(count)],
        titles=["cat", "red balloon", "cat", "town", "guitar", "cake"],
        groups=torch.tensor([0, 1, 0, 2, 3, 4]),
        pooled=torch.randn(count, width, generator=generator),
        texts=["cat", "red balloon", "cat", "town", "guitar", "cake"],
        owners=torch.arange(count),
        text_features=torch.randn(count, width, generator=generator),
        title_rows=torch.arange(count),
    )


@pytest.mark.parametrize("anchor", ["none", "encoder"])
def test_scores_are_cosines_of_the_contexts(make_model, pairs, anchor):
    model, processor = make_model(query_anchor=anchor)
    sets = image_sets(pairs, pairs.pooled)
    found = scores(model, sets, DualAlignmentCollator(processor, 256))
    batch = processor.process_context([[{"role": "user", "content": title}] for title in pairs.titles])
    with torch.no_grad():
        queries = model.get_multimodal_features(**batch).pooler_output
    wanted = processor.score_retrieval(queries, pairs.pooled)
    np.testing.assert_allclose(found["title_image"], wanted.numpy(), atol=1e-5)


def test_perfect_candidates_give_perfect_recall(pair, pairs):
    model, processor = pair
    contexts = [[title] for title in pairs.titles]
    own = embed_contexts(model, contexts, DualAlignmentCollator(processor, 256))
    ids = np.asarray(pairs.groups)
    figures = recalls(model, [DevSet("own", contexts, ids, "text", own, ids)], DualAlignmentCollator(processor, 256))
    assert figures == {"own_r1": 100.0, "own_r5": 100.0, "own_r10": 100.0}


def test_kept_prefixes_change_nothing(pair, pairs):
    model, processor = pair
    contexts = [["hello", title, "and then?"] for title in pairs.titles]
    store = PrefixStore(model)
    plain = embed_contexts(model, contexts, DualAlignmentCollator(processor, 256))
    torch.testing.assert_close(
        embed_contexts(model, contexts, DualAlignmentCollator(processor, 256, prefix_store=store)),
        plain,
        atol=1e-5,
        rtol=1e-5,
    )
    assert len(store) == 5  # one title stands twice


def test_trained_maps_on_the_targets_are_applied_when_measured(make_model, pairs):
    model, processor = make_model(
        projection_dim=8, map_image_targets=True, map_text_targets=True, visual_feature="projected"
    )
    sets = image_sets(pairs, pairs.pooled)
    before = scores(model, sets, DualAlignmentCollator(processor, 256))["title_image"]
    with torch.no_grad():
        model.heads.image_target_map.weight.neg_()
        model.heads.image_target_map.bias.neg_()
    np.testing.assert_allclose(
        scores(model, sets, DualAlignmentCollator(processor, 256))["title_image"], -before, atol=1e-5
    )


def test_texts_with_pictures_give_two_sets(pair, pairs):
    pictures = image_sets(pairs, pairs.pooled)[0]
    rows = TextRows(
        [["a", "b"], ["c"], ["d"]],
        torch.randn(2, pairs.pooled.shape[1]),
        torch.tensor([0, 1, 0]),
        ids=torch.tensor([1, 9, 4]),
        images=torch.tensor([1, -1, 5]),
    )
    texts, images = text_sets(rows, "dialogue_text", "dialogue_image", pictures)
    assert (texts.name, texts.kind, texts.ids.tolist()) == ("dialogue_text", "text", [0, 1, 0])
    assert images.contexts == [["a", "b"], ["d"]]
    assert images.ids.tolist() == [1, 4]
    assert images.candidate_ids.tolist() == pairs.groups.tolist()
    rows.images = None
    assert [dev.name for dev in text_sets(rows, "gloss_title", None, pictures)] == ["gloss_title"]
