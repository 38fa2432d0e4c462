"""Everything that UniMuR trains."""

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_unimur import UniMuRConfig
from .query_anchor_unimur import UniMuRQueryAnchor


class UniMuRHeads(nn.Module):
    """The maps between the frozen backbones, the [RET] vectors and the temperatures.

    With OPT-6.7B and CLIP ViT-L/14 these are 7,348,993 parameters (one visual token, targets as they are).
    """

    def __init__(self, config: UniMuRConfig):
        super().__init__()
        width, out = config.language_width, config.embedding_width
        self.visual_tokens = config.num_visual_tokens
        # Picture feature -> input vectors of the language model (FROMAGe: visual_embeddings).
        self.visual_map = nn.Linear(config.visual_width, width * self.visual_tokens) if config.visual_width else None
        # Hidden states at [RET] -> unified embedding (FROMAGe: text_hidden_fcs), one map a layer.
        self.readout_maps = nn.ModuleList([nn.Linear(width, out) for _ in config.ret_layers])
        self.ret_embedding = nn.Parameter(torch.empty(config.num_ret_tokens, width))
        # Maps on the targets (FROMAGe: visual_fc); the paper's figure draws none.
        self.image_target_map = nn.Linear(config.visual_width, out) if config.map_image_targets else None
        self.text_target_map = nn.Linear(config.joint_width, out) if config.map_text_targets else None
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        separate = config.separate_logit_scales
        self.text_logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value))) if separate else None
        # The encoder's own vectors of a dialogue, which the readout corrects; the paper has none.
        self.query_anchor = UniMuRQueryAnchor(config) if config.query_anchor != "none" else None

    def visual_inputs(self, visual_features: torch.Tensor) -> torch.Tensor:
        """`(pictures, visual_width)` to the language model's input vectors `(pictures * tokens, language_width)`."""
        mapped = self.visual_map(visual_features.to(self.visual_map.weight.dtype))
        return mapped.reshape(mapped.shape[0] * self.visual_tokens, -1)

    def unify(self, states: "list[torch.Tensor]") -> torch.Tensor:
        """Hidden states at [RET], one `(batch, ret_tokens, language_width)` a layer, to unit vectors
        `(batch, projection_dim)`."""
        mapped = [layer(state.to(layer.weight.dtype)) for layer, state in zip(self.readout_maps, states, strict=True)]
        return F.normalize(torch.stack(mapped).sum(dim=0).mean(dim=1), dim=-1)

    def image_target(self, features: torch.Tensor) -> torch.Tensor:
        """Features of candidate pictures to unit vectors `(pictures, projection_dim)`."""
        features = features.to(self.logit_scale.dtype)
        return F.normalize(self.image_target_map(features) if self.image_target_map else features, dim=-1)

    def text_target(self, features: torch.Tensor) -> torch.Tensor:
        """Features of candidate texts to unit vectors `(texts, projection_dim)`."""
        features = features.to(self.logit_scale.dtype)
        return F.normalize(self.text_target_map(features) if self.text_target_map else features, dim=-1)

    def scales(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Factors on the cosines in visual and in textual matching."""
        visual = self.logit_scale.exp()
        return visual, visual if self.text_logit_scale is None else self.text_logit_scale.exp()


__all__ = ["UniMuRHeads"]
