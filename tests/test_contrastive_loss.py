"""The losses against the same formulas written out plainly."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from modeling_unimur.contrastive_loss import contrastive_loss, sum_over_prefixes
from modeling_unimur.modeling_unimur import next_token_loss
from modeling_unimur.modeling_univl_dr import candidate_losses


def unit(rows: int, width: int = 6, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=-1).requires_grad_()


def plain_infonce(queries, candidates, scale: float, ids, mask) -> float:
    """Mean over both directions and over the rows that take part, in loops."""
    taking_part = [row for row in range(len(ids)) if mask[row]]
    total = 0.0
    for own, others in ((queries, candidates), (candidates, queries)):
        for row in taking_part:
            cosines = {other: scale * float(own[row] @ others[other]) for other in taking_part}
            norm = math.log(sum(math.exp(value) for value in cosines.values()))
            right = [other for other in taking_part if ids[other] == ids[row]]
            total += sum(norm - cosines[other] for other in right) / len(right)
    return total / (2 * len(taking_part))


@pytest.mark.parametrize(
    ("ids", "mask"),
    [
        (None, None),
        ([3, 5, 3, 7, 5], None),
        (None, [True, False, True, True, False]),
        ([3, 3, 3, 7, 7], [True, False, True, True, True]),
        ([1, 1, 1, 1, 1], None),
    ],
    ids=["rows", "shared targets", "masked", "shared and masked", "all the same"],
)
def test_contrastive_loss_is_symmetric_infonce(ids, mask):
    queries, candidates, scale = unit(5, seed=1), unit(5, seed=2), torch.tensor(7.5, dtype=torch.float64)
    loss = contrastive_loss(
        queries,
        candidates,
        scale,
        None if ids is None else torch.tensor(ids),
        None if mask is None else torch.tensor(mask),
    )
    expected = plain_infonce(queries.detach(), candidates.detach(), 7.5, ids or list(range(5)), mask or [True] * 5)
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_contrastive_loss_without_ids_is_cross_entropy_both_ways():
    queries, candidates, scale = unit(6, seed=3), unit(6, seed=4), torch.tensor(12.0, dtype=torch.float64)
    logits, rows = 12 * queries @ candidates.T, torch.arange(6)
    expected = (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, rows)) / 2
    loss = contrastive_loss(queries, candidates, scale)
    torch.testing.assert_close(loss, expected)
    for mine, theirs in zip(
        torch.autograd.grad(loss, (queries, candidates)),
        torch.autograd.grad(expected, (queries, candidates)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("ids", [[0, 1, 2, 3], [2, 0, 2, 1]], ids=["rows", "shared targets"])
def test_hard_negatives_compete_for_their_own_query_alone(ids):
    queries, candidates, scale = unit(4, seed=5), unit(4, seed=6), torch.tensor(9.0, dtype=torch.float64)
    negatives = unit(8, seed=7).reshape(4, 2, -1)
    ids = torch.tensor(ids)
    right = (ids[:, None] == ids[None, :]).double()
    target = right / right.sum(dim=1, keepdim=True)
    rows = []
    for row in range(4):  # the batch's candidates first, then this query's negatives
        logits = 9 * torch.cat([candidates, negatives[row]]) @ queries[row]
        rows.append(-(target[row] * F.log_softmax(logits, dim=0)[:4]).sum())
    back = -(target * F.log_softmax(9 * candidates @ queries.T, dim=1)).sum(dim=1)
    expected = (torch.stack(rows).mean() + back.mean()) / 2
    loss = contrastive_loss(queries, candidates, scale, ids, negatives=negatives)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(each, (queries, candidates), retain_graph=True) for each in (loss, expected))
    )


def test_masked_rows_have_no_influence_and_no_gradient():
    queries, candidates, scale = unit(4, seed=5), unit(4, seed=6), torch.tensor(5.0, dtype=torch.float64)
    mask = torch.tensor([True, True, False, True])
    loss = contrastive_loss(queries, candidates, scale, mask=mask)
    for gradient in torch.autograd.grad(loss, (queries, candidates)):
        assert gradient[2].abs().max() == 0
        assert gradient[[0, 1, 3]].abs().min(dim=1).values.max() > 0
    other = candidates.detach().clone()
    other[2] = -other[2]
    assert contrastive_loss(queries, other, scale, mask=mask).item() == pytest.approx(loss.item(), rel=1e-12)


def test_a_mask_without_any_row_gives_zero():
    queries, candidates = unit(3, seed=7), unit(3, seed=8)
    loss = contrastive_loss(queries, candidates, torch.tensor(9.0).double(), mask=torch.zeros(3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert queries.grad.abs().max() == 0


@pytest.mark.parametrize("rows", [3, 700])  # 700 rows are several chunks
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("extra", [False, True])
def test_next_token_loss_is_cross_entropy_on_full_logits(rows, bias, softcap, extra):
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 11, bias=bias)
    hidden = (torch.randn(2, rows, 8) * 3).requires_grad_()
    row = torch.randn(8, requires_grad=True) if extra else None
    labels = torch.randint(0, 11, (2, rows))
    labels[torch.rand(2, rows) < 0.3] = -100
    labels[0, 1] = 4
    if extra:
        labels[1, -1] = 11
    logits = head(hidden)
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    if extra:
        logits = torch.cat([logits, (hidden @ row)[..., None]], dim=-1)
    expected = F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1))
    loss = next_token_loss(hidden, labels, head, row, softcap)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    wanted = (hidden, head.weight, *([row] if extra else []))
    for mine, theirs in zip(torch.autograd.grad(loss, wanted), torch.autograd.grad(expected, wanted), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_next_token_loss_without_a_label_is_zero():
    head = torch.nn.Linear(8, 11)
    assert next_token_loss(torch.randn(2, 5, 8), torch.full((2, 5), -100), head).item() == 0


# -- Matryoshka -------------------------------------------------------------------------------------------------------
def over(loss, vectors, dims=None, weights=None):
    return sum_over_prefixes(loss, vectors, SimpleNamespace(matryoshka_dims=dims, matryoshka_weights=weights))


SCALE = torch.tensor(9.0, dtype=torch.float64)
LOSSES = {
    "contrastive": lambda queries, candidates, negatives: contrastive_loss(
        queries, candidates, SCALE, negatives=negatives
    ),
    "candidates": lambda queries, candidates, _: candidate_losses(queries, candidates, SCALE, torch.arange(5)),
}


@pytest.mark.parametrize("with_negatives", [False, True])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_losses_over_prefixes(loss, with_negatives):
    negatives = unit(10, seed=3).reshape(5, 2, 6) if with_negatives else None
    vectors = (unit(5, seed=1), unit(5, seed=2), negatives)
    whole = loss(*vectors)
    torch.testing.assert_close(over(loss, vectors, [6]), whole)
    torch.testing.assert_close(over(loss, vectors), whole, atol=0, rtol=0)

    def cut(dim):
        return loss(*(None if one is None else F.normalize(one[..., :dim], dim=-1) for one in vectors))

    torch.testing.assert_close(over(loss, vectors, [6, 3, 1]), whole + cut(3) + cut(1))
    torch.testing.assert_close(over(loss, vectors, [6, 3], [1.0, 0.25]), whole + 0.25 * cut(3))
    (gradient,) = torch.autograd.grad(over(loss, vectors, [2]).sum(), vectors[0])
    assert bool(gradient[:, :2].any())
    assert not bool(gradient[:, 2:].any())


def test_prefixes_in_bfloat16_are_as_exact_as_whole_vectors():
    queries, candidates = (unit(5, seed=seed).bfloat16() for seed in (1, 2))
    found = over(lambda *both: contrastive_loss(*both, SCALE), (queries, candidates), [6])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, contrastive_loss(queries, candidates, SCALE), atol=2e-2, rtol=0)
