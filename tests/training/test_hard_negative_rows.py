"""Hard negatives of both modalities for the contexts of dual alignment training."""

import pytest
import torch
from torch.nn import functional as F

from modeling_unimur.training import hard_negative_rows
from modeling_unimur.training.collators import DualAlignmentCollator
from modeling_unimur.training.dev_sets import embed_contexts
from modeling_unimur.training.hard_negative_rows import HardNegativeRows, mine_hard_negatives
from modeling_unimur.training.mining import MiningOptions

WORDS = ["cat", "red", "town", "cake", "guitar", "morning", "table", "balloon", "keyboard", "picture", "dog", "sea"]


class Rows(torch.utils.data.Dataset):
    """Twelve contexts; each two are right for each other, and every third one has no image."""

    def __init__(self, model):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(6, model.config.joint_width, generator=generator)
        self.texts = torch.randn(6, model.config.joint_width, generator=generator)

    def __len__(self):
        return len(WORDS)

    def __getitem__(self, row):
        return {
            "turns": [WORDS[row]],
            "visual_features": None,
            "target_image_features": None if row % 3 == 0 else self.images[row // 2],
            "target_text_features": self.texts[row // 2],
            "target_ids": torch.tensor(row // 2),
            "caption": None,
        }


def test_negatives_are_the_best_ranked_wrong_targets(make_model, monkeypatch):
    monkeypatch.setattr(hard_negative_rows, "_OPTIONS", MiningOptions(depth=4, joint=False))
    model, processor = make_model()
    rows, collator = Rows(model), DualAlignmentCollator(processor, 24)
    found = mine_hard_negatives(model, rows, collator, 2)
    queries = embed_contexts(model, [[word] for word in WORDS], DualAlignmentCollator(processor, 256))
    for kind, features in (("image", rows.images), ("text", rows.texts)):
        assert len(found.pools[kind]) == 6  # each target once
        ranked = (queries @ F.normalize(features, dim=-1).T).argsort(dim=1, descending=True)
        for row in range(len(rows)):
            wrong = [number for number in ranked[row, :4].tolist() if number != row // 2]
            mined = [int((features == found.pools[kind][n]).all(dim=1).nonzero()) for n in found.mined[kind][row]]
            assert mined == wrong


def test_a_batch_holds_as_many_of_each_kind_and_trains(make_model):
    model, processor = make_model()
    collator = DualAlignmentCollator(processor, 24)
    rows = mine_hard_negatives(model, Rows(model), collator, 2)
    batch = collator(rows.__getitems__([0, 5, 7]))
    for kind in ("image", "text"):
        assert batch[f"target_{kind}_negatives"].shape == (3, 2, model.config.joint_width)
    loss = model(**batch).loss
    loss.backward()
    assert model.heads.ret_embedding.grad.abs().sum() > 0
    without = {name: value for name, value in batch.items() if not name.endswith("_negatives")}
    assert loss.item() > model(**without).loss.item()


def test_draws_follow_seed_epoch_and_row():
    pools = {"text": torch.arange(40.0)[:, None]}
    mined = {"text": [list(range(40)), list(range(20))]}
    rows = [{"name": 0}, {"name": 1}]
    first, again = (HardNegativeRows(rows, pools, mined, 3, seed=1) for _ in range(2))
    drawn = first.__getitems__([0, 1])
    assert [row["text_negatives"].tolist() for row in again.__getitems__([1, 0])][::-1] == [
        row["text_negatives"].tolist() for row in drawn
    ]
    again.set_epoch(1)
    assert again[0]["text_negatives"].tolist() != drawn[0]["text_negatives"].tolist()


def test_what_is_nearly_right_is_no_negative(make_model):
    model, processor = make_model()
    rows = Rows(model)
    rows.texts[1] = rows.texts[0] * 1.001
    collator = DualAlignmentCollator(processor, 24)
    found = mine_hard_negatives(model, rows, collator, 1)
    places = {int((rows.texts == text).all(dim=1).nonzero()): n for n, text in enumerate(found.pools["text"])}
    assert places[1] not in found.mined["text"][0]
    assert places[2] in found.mined["text"][0]


def test_a_context_whose_best_are_all_right_takes_wrong_ones(make_model):
    model, processor = make_model()
    rows, collator = Rows(model), DualAlignmentCollator(processor, 24)
    found = mine_hard_negatives(model, rows, collator, 1, MiningOptions(depth=1, joint=False))
    for kind in ("image", "text"):
        features = getattr(rows, f"{kind}s")
        for row, mined in enumerate(found.mined[kind]):
            own = int((found.pools[kind] == features[row // 2]).all(dim=1).nonzero())
            assert mined
            assert own not in mined
    rows.__class__ = type("OneTarget", (Rows,), {"__len__": lambda self: 2})
    with pytest.raises(ValueError, match="hard negatives"):
        mine_hard_negatives(model, rows, collator)


def test_the_recipe_refuses_a_negative_number():
    from modeling_unimur.training.arguments import UniMuRDataArguments

    with pytest.raises(ValueError, match="hard_negatives"):
        UniMuRDataArguments(hard_negatives=-1)
