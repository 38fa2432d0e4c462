"""The round trip of generated queries: a query that does not find its own document is not trained on."""

from __future__ import annotations

import numpy as np
import torch

from ..evaluation.systems.base import BOTH
from ..evaluation.universal import Hybrid, RetrievalTask, bm25_system, dense_system, ranked


def failed_round_trips(
    task: RetrievalTask, queries: torch.Tensor, documents: torch.Tensor, depth: int, bm25_weight: float = 0.0
) -> set[str]:
    """Returns the ids of the queries without a relevant document among the first `depth` (Alberti et al., ACL 2019;
    Promptagator, ICLR 2023).

    Args:
        task: the generated queries; documents that are excluded for a query do not count.
        queries (`(queries, width)`), documents (`(documents, width)`): unit vectors of an encoder that was not
            trained on them.
        depth: ranks that are looked at.
        bm25_weight: of BM25 in a hybrid search from 0, the vectors alone, to 1.
    """
    system = dense_system(queries.numpy(), documents.numpy(), task.is_image)
    if bm25_weight:
        system = Hybrid(system, bm25_system(task.query_texts, task.doc_texts, task.is_image), bm25_weight)
    rankings = ranked(system, task, BOTH, np.arange(len(task.query_ids)), depth)
    return {
        query
        for query, first, relevant in zip(task.query_ids, rankings.tolist(), task.relevance, strict=True)
        if relevant.keys().isdisjoint(first)
    }
