"""Losses of contrastive training, over the candidates of all ranks, and the next-token loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

# Rows of vocabulary logits that exist at one time; 256 x 50k floats are 50 MB.
_LOGIT_ROWS = 256


class _AllGather(torch.autograd.Function):
    """Concatenates the ranks' tensors; the gradient of every rank's loss flows back to the rank of each row."""

    @staticmethod
    def forward(ctx, tensor):
        ctx.rows = tensor.shape[0]
        gathered = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, tensor.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        start = dist.get_rank() * ctx.rows
        return gradient[start : start + ctx.rows]


def world_size() -> int:
    """Number of ranks that train together, 1 outside distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_with_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """`(rows, ...)` on each rank to `(ranks * rows, ...)` on all; the ranks must hold equally many rows."""
    return _AllGather.apply(tensor) if world_size() > 1 else tensor


def _gather(tensor: torch.Tensor) -> torch.Tensor:
    if world_size() == 1:
        return tensor
    gathered = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(gathered, tensor.contiguous())
    return torch.cat(gathered)


def _at_least_float32(tensor: torch.Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _require_equal_rows(rows: int, device) -> None:
    """Gathering unequal batches would wait forever, or mix rows up."""
    every = _gather(torch.tensor([rows], device=device)).tolist()
    if len(set(every)) > 1:
        raise ValueError(
            f"The ranks hold batches of {every} rows; their candidates compete, so each needs as many. Drop what is "
            "left over at the end (dataloader_drop_last: true)."
        )


def contrastive_loss(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    scale: torch.Tensor,
    target_ids: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    negatives: torch.Tensor | None = None,
) -> torch.Tensor:
    """Symmetric InfoNCE between row i of the queries and row i of the candidates (UniMuR's visual and textual
    matching; the form is FROMAGe's: the mean of both directions).

    With several ranks the candidates of all of them compete, and the mean over ranks of loss and gradient is what one
    process with the whole batch computes. Logits are float32 whatever the inputs are, under autocast too: at a scale
    of 100, bfloat16 would round them to steps of a half.

    Args:
        queries, candidates (`torch.Tensor` of shape `(batch, width)`): normalised.
        scale (`torch.Tensor`): factor on the cosines, the inverse temperature.
        target_ids (`torch.Tensor` of shape `(batch,)`, *optional*): rows with equal ids are right answers for each
            other and share the target evenly; without them only row i is right for row i.
        mask (`torch.Tensor` of shape `(batch,)`, *optional*): False for rows without a candidate; they take no part.
        negatives (`torch.Tensor` of shape `(batch, count, width)`, *optional*): hard negatives of each query,
            normalised. Query i is also compared with its own ones, after the candidates of the batch; candidates are
            not.

    Returns:
        `torch.Tensor`: a scalar; zero (with a gradient of zero) when the mask leaves no row on any rank.

    Raises:
        ValueError: when the ranks hold unequal numbers of rows.
    """
    rows = queries.shape[0]
    if world_size() > 1:
        _require_equal_rows(rows, queries.device)
    queries = queries.to(_at_least_float32(queries))
    candidates, scale = candidates.to(queries.dtype), scale.to(queries.dtype)
    if target_ids is None:
        rank = dist.get_rank() if world_size() > 1 else 0
        target_ids = torch.arange(rank * rows, (rank + 1) * rows, device=queries.device)
    if mask is None:
        mask = torch.ones(rows, dtype=torch.bool, device=queries.device)
    all_ids, all_mask = _gather(target_ids), _gather(mask)
    right = (target_ids[:, None] == all_ids[None, :]) & all_mask[None, :]
    # Rows of the mask keep themselves as the only target, so that no row is without one; they weigh nothing.
    target = right.to(queries.dtype) / right.sum(dim=1, keepdim=True).clamp(min=1)
    weight = mask.to(queries.dtype) / all_mask.sum().clamp(min=1)

    def one_way(own: torch.Tensor, others: torch.Tensor, further: torch.Tensor | None = None) -> torch.Tensor:
        logits = scale * own @ gather_with_gradient(others).T
        logits = logits.masked_fill(~all_mask[None, :], torch.finfo(logits.dtype).min)
        if further is not None:
            logits = torch.cat([logits, scale * torch.einsum("qw,qnw->qn", own, further.to(own.dtype))], dim=1)
        log_shares = F.log_softmax(logits, dim=-1)[:, : len(all_mask)]
        return (-(target * log_shares).sum(dim=-1) * weight).sum()

    with torch.autocast(queries.device.type, enabled=False):
        # Times the ranks, since distributed training takes the mean over them.
        return (one_way(queries, candidates, negatives) + one_way(candidates, queries)) / 2 * world_size()


def sum_over_prefixes(loss: Callable, vectors: Sequence[torch.Tensor | None], config) -> torch.Tensor:
    """`loss(*vectors)`, or with `config.matryoshka_dims` the sum of it over their first numbers alone, at length 1
    (Matryoshka representation learning, Kusupati et al., 2022), weighted by `config.matryoshka_weights`."""
    if config.matryoshka_dims is None:
        return loss(*vectors)
    whole = [one if one is None else one.to(_at_least_float32(one)) for one in vectors]
    weights = config.matryoshka_weights or [1.0] * len(config.matryoshka_dims)
    cut = ([v if v is None else F.normalize(v[..., :dim], dim=-1) for v in whole] for dim in config.matryoshka_dims)
    return sum(weight * loss(*some) for weight, some in zip(weights, cut, strict=True))


def vocabulary_logits(hidden, weight, bias=None, extra_row=None, softcap: float | None = None) -> torch.Tensor:
    """Logits `(rows, vocabulary)` of last hidden states `(rows, width)`, in float32 or better; the arguments are those
    of `next_token_loss`."""
    logits = F.linear(hidden, weight, bias)
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    if extra_row is not None:
        logits = torch.cat([logits, hidden @ extra_row.to(hidden)[:, None]], dim=-1)
    return logits.to(_at_least_float32(logits))


def _summed_cross_entropy(hidden, weight, bias, labels, extra_row, softcap):
    return F.cross_entropy(vocabulary_logits(hidden, weight, bias, extra_row, softcap), labels, reduction="sum")


def next_token_loss(
    hidden: torch.Tensor,
    labels: torch.Tensor,
    output_embeddings: torch.nn.Linear,
    extra_row: torch.Tensor | None = None,
    softcap: float | None = None,
    vocab_size: int | None = None,
) -> torch.Tensor:
    """Mean cross entropy of the next token, with vocabulary logits only where a label is, a chunk at a time.

    Args:
        hidden (`torch.Tensor` of shape `(batch, tokens, width)`): last hidden states.
        labels (`torch.Tensor` of shape `(batch, tokens)`): the token at each position, -100 where none is learned.
        output_embeddings (`torch.nn.Linear`): the language model's head.
        extra_row (`torch.Tensor` of shape `(width,)`, *optional*): a class after the vocabulary ([RET]'s vector).
        softcap (`float`, *optional*): the language model's logit soft cap (Gemma 2).
        vocab_size (`int`, *optional*): only so many of the first rows of the head are classes.

    Raises:
        ValueError: a label is none of the classes.
    """
    weight, bias = output_embeddings.weight, getattr(output_embeddings, "bias", None)
    if vocab_size is not None:
        weight, bias = weight[:vocab_size], None if bias is None else bias[:vocab_size]
        classes = vocab_size + (extra_row is not None)
        if labels.numel() and int(labels.max()) >= classes:
            raise ValueError(f"Token {int(labels.max())} is to be learned, and loss_vocab_size={vocab_size} lacks it.")
    learned = labels[:, 1:] != -100
    states, wanted = hidden[:, :-1][learned], labels[:, 1:][learned]
    total = states.new_zeros((), dtype=_at_least_float32(states))
    for start in range(0, states.shape[0], _LOGIT_ROWS):
        part = slice(start, start + _LOGIT_ROWS)
        total = total + checkpoint(
            _summed_cross_entropy,
            states[part],
            weight,
            bias,
            wanted[part],
            extra_row,
            softcap,
            use_reentrant=False,
        )
    return total / max(len(wanted), 1)


def candidate_losses(
    queries: torch.Tensor,
    documents: torch.Tensor,
    scale: torch.Tensor,
    positives: torch.Tensor,
    candidates: torch.Tensor | None = None,
    false_negative_threshold: float | None = None,
) -> torch.Tensor:
    """Each query's `-log softmax` of its positive over its candidates (UniVL-DR, section 3; from query to document).

    Documents stand once each, however many queries they are candidates of. Logits are float32 whatever the inputs
    are, under autocast too.

    Args:
        queries (`(queries, width)`), documents (`(documents, width)`): normalised.
        scale: factor on the cosines.
        positives (`(queries,)`): row of each query's right document.
        candidates (`(queries, documents)`, *optional*): how often a document is a candidate of a query, 0 for never;
            each document once for every query by default. The positive is always one.
        false_negative_threshold (*optional*): cosine with the positive from which on another document is taken for
            right as well and left out.

    Returns:
        `torch.Tensor` of shape `(queries,)`.
    """
    dtype = torch.promote_types(queries.dtype, torch.float32)
    queries, documents, scale = queries.to(dtype), documents.to(dtype), scale.to(dtype)
    with torch.autocast(queries.device.type, enabled=False):
        logits = scale * queries @ documents.T
        counts = torch.ones_like(logits) if candidates is None else candidates.to(dtype)
        own = F.one_hot(positives, len(documents)).bool()
        if false_negative_threshold is not None:
            alike = (documents[positives] @ documents.T).detach() >= false_negative_threshold
            counts = counts.masked_fill(alike & ~own, 0.0)
        counts = torch.where(own, counts.clamp(min=1.0), counts)
        return (logits + counts.log()).logsumexp(dim=1) - logits[own]


def gather_documents(
    documents: torch.Tensor,
    document_ids: torch.Tensor,
    positives: torch.Tensor,
    candidates: torch.Tensor,
    known_ids: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Makes the documents of all ranks candidates of this rank's queries, with gradient.

    Args:
        documents (`(documents, width)`), document_ids (`(documents,)`): of this rank; ranks may hold different
            numbers of them.
        positives (`(queries,)`), candidates (`(queries, documents)`): as in `candidate_losses`.
        known_ids (`(queries, most)`): ids that are no negatives of a query, filled up with -1; and those of its own
            candidates, which then count as often as `candidates` says.

    Returns:
        documents, positives and candidates over all ranks; as given outside distributed training.
    """
    if world_size() == 1:
        return documents, positives, candidates
    rows = torch.tensor([len(documents)], device=documents.device)
    every = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(every, rows)
    most = int(torch.stack(every).max())
    missing = most - len(documents)
    ids = F.pad(document_ids, (0, missing), value=-2)
    gathered = [torch.empty_like(ids) for _ in range(world_size())]
    dist.all_gather(gathered, ids)
    all_ids = torch.cat(gathered)
    known = torch.cat([known_ids, document_ids[None].expand(len(positives), -1)], dim=1)
    # A document of this rank counts here, with its own candidates, wherever else it stands.
    weights = ((all_ids >= 0)[None] & ~(all_ids[None, :, None] == known[:, None, :]).any(dim=-1)).to(candidates.dtype)
    seen: set = set()
    for place, number in enumerate(all_ids.tolist()):  # one that several others hold counts once
        if number in seen:
            weights[:, place] = 0
        seen.add(number)
    first = dist.get_rank() * most
    weights[:, first : first + len(documents)] = candidates
    return gather_with_gradient(F.pad(documents, (0, 0, 0, missing))), positives + first, weights


__all__ = [
    "candidate_losses", "contrastive_loss", "gather_documents", "gather_with_gradient", "next_token_loss",
    "sum_over_prefixes", "vocabulary_logits", "world_size",
]  # fmt: skip
