"""Measures of replies that are sequences of texts and pictures, on plain arrays.

The forms of recall, intent F1 and MM-Relevance are MMDialog's (Feng et al., ACL 2023); overall recall, image retrieval
rate and cross-modal consistency follow the abstract of UniMuR (Findings of EACL 2024), whose definitions are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def intent_f1(returned: Sequence[str], gold: Sequence[str]) -> float:
    """F1, 0 to 1, of two sequences of kinds that are aligned from the left: the share of places that agree, over the
    length of either.

    Args:
        returned, gold: such as `["text", "image"]`.
    """
    agree = sum(one == other for one, other in zip(returned, gold, strict=False))
    return 2 * agree / max(len(returned) + len(gold), 1)


def mm_relevance(returned: np.ndarray, gold: np.ndarray) -> float:
    """MM-Relevance: similarity place by place, from the left, over the length of either sequence; harmonic mean.

    Args:
        returned (`(elements, width)`), gold (`(elements, width)`): unit vectors of the elements, by one CLIP.

    Returns:
        1 for equal sequences; 0 where either is empty, or the similarities sum to nothing.
    """
    shared = min(len(returned), len(gold))
    total = float((np.asarray(returned[:shared]) * np.asarray(gold[:shared])).sum()) if shared else 0.0
    return 2 * max(total, 0.0) / (len(returned) + len(gold)) if shared else 0.0


def threshold_for(scores: np.ndarray, wanted: np.ndarray, over_return: float) -> float:
    """The least threshold at which no more than a share of the replies without a gold picture get one.

    A picture is returned where the score is at least the threshold; equal scores are decided alike.

    Args:
        scores (`(replies,)`): how much the system would return a picture.
        wanted (`(replies,)`): whether there is a gold one.
        over_return: share, 0 to 1, of those that are not wanted.

    Raises:
        ValueError: a share outside 0 to 1, or no reply without a gold picture.
    """
    if not 0 <= over_return <= 1:
        raise ValueError(f"A share of over-returned pictures lies in 0 to 1, not {over_return}.")
    others = np.sort(np.asarray(scores, dtype=np.float64)[~np.asarray(wanted, dtype=bool)])
    if not len(others):
        raise ValueError("Every reply has a gold picture: how often one is returned in vain cannot be matched.")
    allowed = int(np.floor(over_return * len(others) + 1e-9))
    if allowed >= len(others):
        return -np.inf
    return float(np.nextafter(others[len(others) - allowed - 1], np.inf))


def area_under_curve(scores: np.ndarray, wanted: np.ndarray) -> float:
    """Probability that a reply with a gold picture scores higher than one without, equal scores counting half; NaN
    without both."""
    scores, wanted = np.asarray(scores, dtype=np.float64), np.asarray(wanted, dtype=bool)
    positive, negative = np.sort(scores[wanted]), np.sort(scores[~wanted])
    if not len(positive) or not len(negative):
        return float("nan")
    below = np.searchsorted(negative, positive, side="left") + np.searchsorted(negative, positive, side="right")
    return float(below.sum() / (2 * len(positive) * len(negative)))


def aligned_recall(ranks: Sequence[int], returned: int, k: int) -> float:
    """Recall@k, 0 to 1, of one reply's elements of a kind: aligned from the left, an element for which nothing was
    returned counts 0, and so does one of rank 0.

    Args:
        ranks: of the gold elements, in order.
        returned: how many elements of the kind the system returned.
        k: cut-off.
    """
    return sum(0 < rank <= k for rank in ranks[:returned]) / max(len(ranks), 1)


__all__ = ["aligned_recall", "area_under_curve", "intent_f1", "mm_relevance", "threshold_for"]
