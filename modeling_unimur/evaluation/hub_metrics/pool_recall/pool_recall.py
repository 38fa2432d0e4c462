"""Recall where each query has a pool of its own."""

import datasets
import evaluate
import numpy as np

from modeling_unimur.evaluation.metrics import recall_values
from modeling_unimur.evaluation.tasks.pools import rank_in_pools

_DESCRIPTION = """\
Recall at 1, 5 and 10 in percent, and MRR, where every query has a pool of its own, as MMDialog's replies do.
Candidates that score as high as the right one stand before it; a query whose right candidate scores NaN is missed.
"""
_INPUTS = """
Args:
    predictions: for each query the scores of its candidates, higher is better.
    references: for each query the place of the right candidate among them.
Returns:
    r1, r5, r10, mrr: means in percent.
"""
_CITATION = """\
@inproceedings{unimur, title={Unified Embeddings for Multimodal Retrieval via Frozen LLMs}, author={Wang, Ziyang and \
Elfardy, Heba and Dreyer, Markus and Small, Kevin and Bansal, Mohit}, booktitle={Findings of EACL}, year={2024}}
"""


class PoolRecall(evaluate.Metric):
    """`evaluate` calls it with `compute(predictions=, references=)`."""

    def _info(self):
        features = {"predictions": datasets.Sequence(datasets.Value("float64")), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(features),
        )

    def _compute(self, predictions, references):
        scores = [np.asarray(row, dtype=np.float64) for row in predictions]
        every = np.arange(len(scores))
        found = rank_in_pools(
            lambda rows, chosen: scores[rows[0]][chosen][None],
            every,
            every,
            np.asarray(references),
            [np.arange(len(row)) for row in scores],
        )
        values = {name: float(column.mean()) for name, column in recall_values(found.ranks).items()}
        inverse = np.divide(100.0, found.ranks, out=np.zeros(len(found.ranks)), where=found.ranks > 0)
        return {**values, "mrr": float(inverse.mean())}
