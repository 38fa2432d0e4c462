"""MMDialog's intent F1, and how often a picture is returned."""

import datasets
import evaluate
import numpy as np

from modeling_unimur.evaluation.metrics import intent_f1

_DESCRIPTION = """\
How well a system knows whether a reply is a text, an image or both: MMDialog's intent F1 (kinds aligned from the
left, mean over replies), the image retrieval rate (replies with a gold image for which one is returned) and the
over-return rate (replies without one for which one is), in percent.
"""
_INPUTS = """
Args:
    predictions: for each reply the kinds that were returned, such as ["text", "image"].
    references: for each reply the kinds that are right.
Returns:
    intent_f1, image_retrieval_rate, over_return_rate: means in percent; None where no reply is asked.
"""
_CITATION = """\
@inproceedings{mmdialog, title={MMDialog: A Large-scale Multi-turn Dialogue Dataset Towards Multi-modal Open-domain \
Conversation}, author={Feng, Jiazhan and others}, booktitle={ACL}, year={2023}}
"""


class ReplyKinds(evaluate.Metric):
    """`evaluate` calls it with `compute(predictions=, references=)`."""

    def _info(self):
        kinds = datasets.Sequence(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": kinds, "references": kinds}),
        )

    def _compute(self, predictions, references):
        pairs = list(zip(predictions, references, strict=True))
        returned = {wanted: [] for wanted in (True, False)}
        for found, gold in pairs:
            returned["image" in gold].append("image" in found)

        def percent(values):
            return 100 * float(np.mean(values)) if values else None

        return {
            "intent_f1": percent([intent_f1(*pair) for pair in pairs]),
            "image_retrieval_rate": percent(returned[True]),
            "over_return_rate": percent(returned[False]),
        }
