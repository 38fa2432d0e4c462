"""What `UniMuRModel` returns."""

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput


@dataclass
class UniMuRQueryOutput(BaseModelOutputWithPooling):
    """Args:
    pooler_output (`torch.FloatTensor` of shape `(batch, projection_dim)`): the queries, unit vectors.
    readout_embeds (`torch.FloatTensor` of shape `(batch, projection_dim)`): what the language model reads at [RET],
        unit vectors; without an anchor these are the queries.
    anchor_embeds, correction_embeds (`torch.FloatTensor` of shape `(batch, projection_dim)`, *optional*): of an
        anchored query, whose direction is that of `anchor_embeds + gate * correction_embeds`.
    gate (`torch.FloatTensor` of shape `(batch, 1)`, *optional*): the share of the correction that is taken.
    """

    readout_embeds: torch.FloatTensor | None = None
    anchor_embeds: torch.FloatTensor | None = None
    correction_embeds: torch.FloatTensor | None = None
    gate: torch.FloatTensor | None = None


@dataclass
class UniMuROutput(ModelOutput):
    """Args:
    loss (`torch.FloatTensor`, *optional*): the weighted sum of the terms below that were computed.
    caption_loss (`torch.FloatTensor`, *optional*): next-token loss of captions after their picture.
    visual_matching_loss (`torch.FloatTensor`, *optional*): unified embedding against CLIP's picture embeddings.
    textual_matching_loss (`torch.FloatTensor`, *optional*): unified embedding against CLIP's text embeddings.
    ret_token_loss (`torch.FloatTensor`, *optional*): next-token loss of the context and its [RET].
    multimodal_embeds (`torch.FloatTensor` of shape `(batch, projection_dim)`): the queries, normalised.
    readout_embeds (`torch.FloatTensor` of shape `(batch, projection_dim)`): what the language model reads at [RET],
        normalised; without an anchor these are the queries.
    image_embeds, text_embeds (`torch.FloatTensor` of shape `(batch, projection_dim)`, *optional*): the candidates,
        normalised.
    logit_scale (`torch.FloatTensor`): factor on the cosines in visual matching, as used.
    text_logit_scale (`torch.FloatTensor`): the same in textual matching.
    """

    loss: torch.FloatTensor | None = None
    caption_loss: torch.FloatTensor | None = None
    visual_matching_loss: torch.FloatTensor | None = None
    textual_matching_loss: torch.FloatTensor | None = None
    ret_token_loss: torch.FloatTensor | None = None
    multimodal_embeds: torch.FloatTensor | None = None
    readout_embeds: torch.FloatTensor | None = None
    image_embeds: torch.FloatTensor | None = None
    text_embeds: torch.FloatTensor | None = None
    logit_scale: torch.FloatTensor | None = None
    text_logit_scale: torch.FloatTensor | None = None


__all__ = ["UniMuROutput", "UniMuRQueryOutput"]
