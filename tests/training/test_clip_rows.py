"""Rows of a dual encoder's training draw a text of each image anew in every epoch."""

import torch

from modeling_unimur.training.clip_rows import ClipRows


def test_each_epoch_draws_anew_and_the_same_again():
    rows = ClipRows(
        pooled=torch.zeros(50, 1),
        texts=torch.arange(150).float()[:, None],
        counts=torch.full((50,), 3),
        groups=torch.arange(50),
        seed=1,
        title_share=0.5,
    )

    def drawn(epoch):
        rows.draw(epoch)
        return [int(rows[number]["text_features"]) for number in range(50)]

    first = drawn(0)
    assert drawn(1) != first
    assert drawn(0) == first
    assert [text // 3 for text in first] == list(range(50))
    titles = sum(text % 3 == 0 for epoch in range(8) for text in drawn(epoch)) / 400
    assert 0.55 < titles < 0.78  # half, and a third of the other half
