"""FROMAGe's training step, written out plainly: what UniMuR's step is measured against.

The whole sequence is in the graph, vocabulary logits exist for every token, [RET] is the last row of a trainable
embedding table, and the gradient of all other rows is computed and then zeroed.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional as F

from modeling_unimur import UniMuRModel


def right_padded(attention_mask: torch.Tensor, *tensors: torch.Tensor) -> list[torch.Tensor]:
    """Moves the padding of each row `(batch, tokens)` to its right, as FROMAGe has it."""
    results = []
    for tensor in (attention_mask, *tensors):
        rows = [torch.cat([row[keep], row[~keep]]) for row, keep in zip(tensor, attention_mask.bool(), strict=True)]
        results.append(torch.stack(rows))
    return results


class FromageStep:
    """Losses and gradients on copies of a model's language model and heads.

    Args:
        model: whose weights are copied; its own are left alone.
    """

    def __init__(self, model: UniMuRModel):
        self.config = model.config
        self.language_model = copy.deepcopy(model.language_model)
        self.heads = copy.deepcopy(model.heads)
        self.heads.ret_embedding.requires_grad_(False)  # it is a row of the table here
        self.ret = torch.tensor(self.config.ret_token_ids)
        self.language_model.resize_token_embeddings(int(self.ret.max()) + 1, mean_resizing=False)
        self.table = self.language_model.get_input_embeddings()
        with torch.no_grad():
            self.table.weight[self.ret] = self.heads.ret_embedding
        self.table.weight.requires_grad_(True)

    def parameters(self) -> list[nn.Parameter]:
        """Everything that has a gradient: the heads and the whole table."""
        return [*(p for p in self.heads.parameters() if p.requires_grad), self.table.weight]

    def gradients(self) -> dict[str, torch.Tensor]:
        """Gradients by the names of `UniMuRModel.heads`."""
        named = {name: p.grad for name, p in self.heads.named_parameters() if p.grad is not None}
        named["ret_embedding"] = self.table.weight.grad[self.ret]
        return named

    def keep_ret_gradient(self) -> None:
        """Zeroes the gradient of every row but [RET]'s."""
        mask = torch.zeros(self.table.weight.shape[0], 1)
        mask[self.ret] = 1
        self.table.weight.grad = mask * self.table.weight.grad

    def retrieval_loss(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_features: torch.Tensor,
        text_features: torch.Tensor,
        next_token_loss: bool = True,
    ) -> torch.Tensor:
        """Visual and textual matching, and the next-token loss of the context and [RET].

        Args:
            input_ids, attention_mask (`(batch, tokens)`): texts that end with [RET], padded on the right.
            image_features, text_features (`(batch, width)`): the frozen towers' outputs.
            next_token_loss: whether to add it; the logits are computed either way.
        """
        labels = input_ids.masked_fill(attention_mask == 0, -100)
        output = self.language_model(
            inputs_embeds=self.table(input_ids), labels=labels, output_hidden_states=True, use_cache=False
        )
        last = attention_mask.sum(dim=1, keepdim=True) - len(self.ret) + torch.arange(len(self.ret))
        rows = torch.arange(len(input_ids))[:, None]
        mapped = [
            head(output.hidden_states[layer][rows, last])
            for head, layer in zip(self.heads.readout_maps, self.config.ret_layers, strict=True)
        ]
        queries = F.normalize(sum(mapped).mean(dim=1), dim=-1)
        visual, textual = self.heads.scales()
        loss = self._matching(queries, self.heads.image_target(image_features), visual)
        loss = loss + self._matching(queries, self.heads.text_target(text_features), textual)
        return loss + output.loss if next_token_loss else loss

    @staticmethod
    def _matching(queries, candidates, scale):
        logits, diagonal = scale * queries @ candidates.T, torch.arange(len(queries))
        return (F.cross_entropy(logits, diagonal) + F.cross_entropy(logits.T, diagonal)) / 2

    def caption_loss(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        visual_features: torch.Tensor,
        vocabulary: int | None = None,
    ) -> torch.Tensor:
        """Next-token loss of captions after their images.

        Args:
            input_ids, labels (`(batch, tokens)`): padded on the right; labels are -100 where nothing is learned.
            visual_features (`(batch, visual_width)`): one image a row.
            vocabulary: classes that compete, by default all rows of the table, those of [RET] and of images too.
        """
        embeds = self.table(input_ids)
        places = (input_ids == self.config.image_token_id)[..., None].expand_as(embeds)
        embeds = embeds.masked_scatter(places, self.heads.visual_inputs(visual_features))
        if vocabulary is None:
            return self.language_model(inputs_embeds=embeds, labels=labels, use_cache=False).loss
        logits = self.language_model(inputs_embeds=embeds, use_cache=False).logits[:, :-1, :vocabulary]
        return F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
