"""The anchored query: the dual encoder's own vectors of a dialogue, corrected by what the language model reads."""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_unimur import UniMuRConfig

# What the gate on the correction knows; `gate_features` computes them in this order.
GATE_FEATURES = (
    "cosine of readout and anchor",
    "cosine of whole and last",
    "cosine of readout and whole",
    "cosine of readout and last",
    "log(1 + context tokens)",
    "log(1 + turns)",
    "share of turns with a question mark",
)


def gate_features(
    readout: torch.Tensor, anchor: torch.Tensor, whole: torch.Tensor, last: torch.Tensor, statistics: torch.Tensor
) -> torch.Tensor:
    """What the gate decides by, `(batch, len(GATE_FEATURES))` in float32.

    Args:
        readout, anchor, whole, last (`(batch, width)`): a vector of zeros has a cosine of 0 with everything.
        statistics (`(batch, 3)`): tokens of the context, turns, share of turns with a question mark.
    """
    readout, anchor, whole, last, statistics = (x.float() for x in (readout, anchor, whole, last, statistics))
    cosine = F.cosine_similarity
    columns = (
        cosine(readout, anchor, dim=-1),
        cosine(whole, last, dim=-1),
        cosine(readout, whole, dim=-1),
        cosine(readout, last, dim=-1),
        statistics[:, 0].log1p(),
        statistics[:, 1].log1p(),
        statistics[:, 2],
    )
    return torch.stack(columns, dim=-1)


class AnchoredQuery(NamedTuple):
    """A query and its parts, each `(batch, width)`; `gate` is `(batch, 1)`.

    `readout` is the unified embedding of the language model, and `query` is
    `normalise(anchor + gate * correction)`. Without an anchor the query is the readout, and the other parts are None.
    """

    query: torch.Tensor
    readout: torch.Tensor
    anchor: "torch.Tensor | None" = None
    correction: "torch.Tensor | None" = None
    gate: "torch.Tensor | None" = None


class UniMuRQueryAnchor(nn.Module):
    """Joins the dual encoder's vectors of a dialogue with the readout of the language model.

    The query is `normalise(anchor + gate * correction)` with

    - `anchor = whole_weight * whole + last_weight * last + image_weight * image`,
    - `correction = readout_weight * readout`, plus a small network of `[readout, whole, last]` where
      `config.query_correction` is `"mlp"`,
    - `gate` a logistic regression on `gate_features` where `config.query_gate` is set, otherwise 1. The features are
      standardised by the buffers `feature_mean` and `feature_spread`, which a fit sets.
    """

    def __init__(self, config: UniMuRConfig):
        super().__init__()
        width, hidden = config.embedding_width, config.query_correction_size
        for name in ("whole", "last", "readout"):
            self.register_parameter(f"{name}_weight", nn.Parameter(torch.empty(())))
        # Without a dual encoder contexts hold no images, and no gradient would ever reach their weight.
        self.image_weight = None if config.clip_config is None else nn.Parameter(torch.empty(()))
        self.correction = None
        if config.query_correction == "mlp":
            dropout = nn.Dropout(config.query_correction_dropout)
            self.correction = nn.Sequential(nn.Linear(3 * width, hidden), nn.GELU(), dropout, nn.Linear(hidden, width))
        self.gate = nn.Linear(len(GATE_FEATURES), 1) if config.query_gate else None
        if self.gate is not None:
            self.register_buffer("feature_mean", torch.zeros(len(GATE_FEATURES)))
            self.register_buffer("feature_spread", torch.ones(len(GATE_FEATURES)))

    def initial_values(self) -> "list[tuple[torch.Tensor, float]]":
        """The tensors that do not start at random, and the value that each starts with: the network adds nothing, and
        the gate is 0.9 for every dialogue."""
        values = [
            (self.whole_weight, 1.0),
            (self.last_weight, 1.0),
            (self.readout_weight, 0.7),
        ]
        if self.image_weight is not None:
            values.append((self.image_weight, 0.3))
        if self.correction is not None:
            values += [(self.correction[-1].weight, 0.0), (self.correction[-1].bias, 0.0)]
        if self.gate is not None:
            values += [(self.gate.weight, 0.0), (self.gate.bias, 2.2)]
            values += [(self.feature_mean, 0.0), (self.feature_spread, 1.0)]
        return values

    def gate_values(
        self,
        readout: torch.Tensor,
        anchor: torch.Tensor,
        whole: torch.Tensor,
        last: torch.Tensor,
        statistics: torch.Tensor,
    ) -> torch.Tensor:
        """The share of the correction that is taken, `(batch, 1)`. No gradient reaches the vectors through it."""
        if self.gate is None:
            return torch.ones_like(readout[:, :1])
        features = gate_features(readout, anchor, whole, last, statistics).detach()
        features = (features - self.feature_mean.float()) / self.feature_spread.float().clamp(min=1e-6)
        return self.gate(features.to(self.gate.weight.dtype)).sigmoid()

    def forward(
        self,
        readout: torch.Tensor,
        whole: torch.Tensor,
        last: torch.Tensor,
        image: torch.Tensor,
        statistics: torch.Tensor,
    ) -> AnchoredQuery:
        """The queries of dialogues.

        Args:
            readout (`(batch, width)`): unified embeddings of the language model, unit vectors.
            whole, last (`(batch, width)`): unit vectors of the words of all turns, and of the last turn that has any;
                zeros where there are no words.
            image (`(batch, width)`): means of the unit vectors of the context's images; zeros where there are none.
            statistics (`(batch, 3)`): as in `gate_features`.
        """
        anchor = self.whole_weight * whole + self.last_weight * last
        if self.image_weight is not None:
            anchor = anchor + self.image_weight * image
        correction = self.readout_weight * readout
        if self.correction is not None:
            inputs = torch.cat([readout, whole, last], dim=-1)
            correction = correction + self.correction(inputs.to(self.correction[0].weight.dtype))
        gate = self.gate_values(readout, anchor, whole, last, statistics)
        return AnchoredQuery(F.normalize(anchor + gate * correction, dim=-1), readout, anchor, correction, gate)


__all__ = ["GATE_FEATURES", "AnchoredQuery", "UniMuRQueryAnchor", "gate_features"]
