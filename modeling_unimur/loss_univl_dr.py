"""UniVL-DR's loss: each query against its own list of candidates, or against all documents of all ranks."""

import torch
import torch.distributed as dist
from torch.nn import functional as F

from .loss_unimur import gather_with_gradient, world_size


def candidate_losses(
    queries: torch.Tensor,
    documents: torch.Tensor,
    scale: torch.Tensor,
    positives: torch.Tensor,
    candidates: "torch.Tensor | None" = None,
    false_negative_threshold: "float | None" = None,
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
) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
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


__all__ = ["candidate_losses", "gather_documents"]
