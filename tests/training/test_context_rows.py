"""Rows of training: what each holds, and how datasets are mixed."""

import pytest
import torch

from modeling_unimur.training.context_rows import ImageRows, MixedRows, TextRows
from modeling_unimur.training.pairs import ImagePairs


@pytest.fixture
def pairs():
    count = 40
    return ImagePairs(
        paths=[f"{n}.png" for n in range(count)],
        titles=[f"title {n}" for n in range(count)],
        groups=torch.arange(count) // 2,
        pooled=torch.randn(count, 6, generator=torch.Generator().manual_seed(0)),
        texts=[f"text {n}" for n in range(2 * count)],
        owners=torch.arange(2 * count) // 2,
        text_features=torch.randn(2 * count, 5, generator=torch.Generator().manual_seed(1)),
        title_rows=torch.arange(0, 2 * count, 2),
    )


def _rows(pairs, **kwargs):
    return ImageRows(pairs, lambda n: pairs.pooled[n] * 2, lambda n: pairs.pooled[n], **kwargs)


def test_targets_belong_to_the_caption(pairs):
    rows = _rows(pairs, two_pairs_fraction=0.3, image_context_fraction=0.4)
    for number, row in enumerate(rows.__getitems__(list(range(len(rows))))):
        assert row["turns"][-1] == row["caption"] == pairs.texts[number]
        torch.testing.assert_close(row["target_image_features"], pairs.pooled[number // 2] * 2)
        torch.testing.assert_close(row["target_text_features"], pairs.text_features[number])
        torch.testing.assert_close(row["caption_visual_features"], pairs.pooled[number // 2])
        assert row["target_ids"] == number // 4


def test_forms_have_their_shares_and_stay_fixed(pairs):
    pairs.texts, pairs.owners = pairs.texts * 50, pairs.owners.repeat(50)
    pairs.text_features = pairs.text_features.repeat(50, 1)
    rows = _rows(pairs, two_pairs_fraction=0.3, image_context_fraction=0.4, seed=3)
    twice, with_image = rows.two_pairs.float().mean(), rows.with_image.float().mean()
    assert 0.27 < twice < 0.33
    assert 0.37 < with_image < 0.43
    assert not (rows.two_pairs & rows.with_image).any()
    again = _rows(pairs, two_pairs_fraction=0.3, image_context_fraction=0.4, seed=3)
    assert torch.equal(rows.others, again.others)
    assert torch.equal(rows.with_image, again.with_image)
    shown = rows.__getitems__(rows.with_image.nonzero().flatten().tolist())
    own = [torch.equal(row["visual_features"][0], row["caption_visual_features"]) for row in shown]
    assert 0.45 < sum(own) / len(own) < 0.6


def test_shares_beyond_one_are_refused(pairs):
    with pytest.raises(ValueError, match="shares"):
        _rows(pairs, two_pairs_fraction=0.7, image_context_fraction=0.4)


def test_mixed_rows_keep_shares_and_come_in_the_order_asked(pairs):
    texts = TextRows([["a", "b"], ["c"]], torch.eye(2), torch.tensor([1, 0]), ids=torch.tensor([101, 100]))
    mixed = MixedRows([_rows(pairs), texts], [0.75, 0.25])
    assert len(mixed) == 82
    rows = mixed.__getitems__(list(range(len(mixed))))
    of_text = [row for row in rows if row["target_image_features"] is None]
    assert len(of_text) == round(82 * 0.25)
    assert {(tuple(row["turns"]), int(row["target_ids"])) for row in of_text} == {(("a", "b"), 101), (("c",), 100)}
    for number in (0, 81, 40):
        assert rows[number]["turns"] == mixed[number]["turns"]
        assert rows[number]["target_ids"] == mixed[number]["target_ids"]


def test_shares_must_sum_to_one(pairs):
    with pytest.raises(ValueError, match="sum to 1"):
        MixedRows([_rows(pairs)], [0.5])


def test_a_text_row_may_have_a_picture(pairs):
    rows = TextRows(
        [["a"], ["b"]],
        torch.eye(2),
        torch.tensor([0, 1]),
        ids=torch.tensor([3, 100]),
        images=torch.tensor([7, -1]),
        image_targets=lambda numbers: pairs.pooled[numbers],
    )
    assert torch.equal(rows[0]["target_image_features"], pairs.pooled[7])
    assert rows[1]["target_image_features"] is None


def test_a_share_of_its_own_words_is_in_the_target():
    features, own = torch.tensor([[3.0, 0.0], [0.0, 5.0]]), torch.tensor([[0.0, 7.0], [0.0, 2.0], [4.0, 0.0]])
    owners = torch.tensor([0, 1, 1])
    rows = TextRows([["a"], ["b"], ["c"]], features, owners, owners, own=own, own_share=0.25)
    wanted = torch.tensor([[0.75, 0.25], [0.0, 1.0], [0.25, 0.75]])
    torch.testing.assert_close(torch.stack([rows[number]["target_text_features"] for number in range(3)]), wanted)
    plain = TextRows([["a"], ["b"], ["c"]], features, owners, owners, own=own)
    assert torch.equal(plain[2]["target_text_features"], features[1])
