"""Chooses the weights of coherent replies on the hand-written development dialogues.

    python benchmarks/coherence_weights.py [--model FOLDER] [--quick]

The queries are those of three systems: UniMuR-mini, and the text tower of its dual encoder with the whole dialogue and
with whole dialogue + last turn. So the weights suit more than one query. Texts and images vote on each other in every
setting.

- `weight`, `text_share`, `temperature`: the setting with the highest sum of consistency, mean reciprocal rank of
  texts and mean reciprocal rank of images, each a mean over the systems; of equal ones, the first in the grid;
- `consistency`, `text_mrr`, `image_mrr` in percent with it; `..._plain` of two independent rankings; `..._default`
  with the default weights of `Coherence`;
- `settings_within_one_point`: how many settings have a sum at most one point below the highest.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.harness import argument_parser, report
from modeling_unimur import UniMuRModel, UniMuRProcessor
from modeling_unimur.evaluation.compare_dialogues import own_dialogues
from modeling_unimur.evaluation.metrics import consistency_values, right_ranks
from modeling_unimur.evaluation.systems import ClipSpace, ClipText, ClipTextAnchor, UniMuR
from modeling_unimur.evaluation.systems.base import KINDS
from modeling_unimur.evaluation.systems.coherent import coherent_scores
from modeling_unimur.evaluation.tasks.dialogues import relevance_mask
from modeling_unimur.memory_index import Coherence

WEIGHTS, SHARES, TEMPERATURES = (0.5, 1.0, 1.5, 2.0, 3.0), (0.1, 0.25, 0.5, 1.0), (0.005, 0.01, 0.02, 0.03)
MEASURES = ("consistency", "text_mrr", "image_mrr")


def measure(
    coherence: Coherence,
    queries: list[np.ndarray],
    candidates: dict[str, np.ndarray],
    right: dict[str, np.ndarray],
) -> np.ndarray:
    """Returns the three `MEASURES` in percent, means over the systems.

    Args:
        coherence: the weights; a weight of 0 gives two independent rankings.
        queries: of each system `(dialogues, width)`.
        candidates: kind -> `(candidates, width)`.
        right: kind -> `(dialogues, candidates)`, whether a candidate is right.
    """
    found = []
    for vectors in queries:
        rows = [
            coherent_scores(coherence, {kind: candidates[kind] @ query for kind in KINDS}, candidates)
            for query in vectors
        ]
        scores = {kind: np.stack([row[kind] for row in rows]) for kind in KINDS}
        agree = consistency_values(*(scores[kind] for kind in KINDS), *(right[kind] for kind in KINDS))
        mrr = [100 * np.mean(1 / right_ranks(scores[kind], right[kind])) for kind in KINDS]
        found.append([agree.mean(), *mrr])
    return np.mean(found, axis=0)


def main() -> None:
    args = argument_parser(__doc__, "unimur-mini").parse_args()
    space = ClipSpace(UniMuRModel.from_pretrained(args.model).eval(), UniMuRProcessor.from_pretrained(args.model))
    dialogues, gallery = own_dialogues("dev")
    dialogues = dialogues[:10] if args.quick else dialogues
    systems = [UniMuR(space), ClipText(space), ClipTextAnchor(space)]
    messages = [list(dialogue.messages) for dialogue in dialogues]
    queries = [np.stack([np.asarray(query) for query in system.encode_queries(messages)]) for system in systems]
    candidates = {kind: np.asarray(systems[0].encode_candidates(gallery, kind)) for kind in KINDS}
    right = {kind: relevance_mask(dialogues, gallery, kind) for kind in KINDS}
    grid = [Coherence(*values) for values in itertools.product(WEIGHTS, SHARES, TEMPERATURES)]
    found = np.stack([measure(each, queries, candidates, right) for each in grid])
    sums = found.sum(axis=1)
    best = int(sums.argmax())
    chosen = grid[best]
    figures = {name: getattr(chosen, name) for name in ("weight", "text_share", "temperature")}
    rows = {
        "": found[best],
        "_plain": measure(Coherence(weight=0), queries, candidates, right),
        "_default": measure(Coherence(), queries, candidates, right),
    }
    for suffix, values in rows.items():
        figures |= {f"{name}{suffix}": float(value) for name, value in zip(MEASURES, values, strict=True)}
    figures["settings_within_one_point"] = int((sums >= sums.max() - 1).sum())
    report("coherence_weights", args, figures, notes=[f"{len(dialogues)} development dialogues"])


if __name__ == "__main__":
    main()
