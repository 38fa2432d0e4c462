"""VisDial's ranking of answer options: NDCG, MRR and recall."""

import datasets
import evaluate
import numpy as np

from modeling_unimur.evaluation.tasks.visdial import answer_values

_DESCRIPTION = """\
Ranking of answer options as in VisDial v1.0: MRR and R@1/5/10/20 of the annotated answer, in percent, and NDCG over
the relevance that several people gave to each option. Options that score as high as the right one stand before it.
"""
_INPUTS = """
Args:
    predictions: for each question the scores of its options, higher is better.
    references: for each question the number of the right option.
    relevance (optional): for each question the relevance of its options, or None.
Returns:
    ndcg (None without relevance), mrr, r1, r5, r10, r20: means in percent.
"""
_CITATION = """\
@inproceedings{visdial, title={Visual Dialog}, author={Das, Abhishek and others}, booktitle={CVPR}, year={2017}}
"""


class OptionRanking(evaluate.Metric):
    """`evaluate` calls it with `compute(predictions=, references=, relevance=)`."""

    def _info(self):
        features = {"predictions": datasets.Sequence(datasets.Value("float64")), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(features),
        )

    def _compute(self, predictions, references, relevance=None):
        relevance = [None] * len(references) if relevance is None else relevance
        values = answer_values([np.asarray(row) for row in predictions], references, relevance)
        means = {name: column[~np.isnan(column)] for name, column in values.items()}
        return {name: float(column.mean()) if len(column) else None for name, column in means.items()}
