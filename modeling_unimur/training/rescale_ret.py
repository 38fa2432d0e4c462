"""[RET] as long as the words of the language model."""

import torch
from transformers import TrainerCallback


class RescaleRet(TrainerCallback):
    """Brings each [RET] vector to the mean norm of the vocabulary after each step (FROMAGe's training loop).

    Args:
        model (`UniMuRModel`): whose [RET] vectors train; `config.loss_vocab_size` says how many rows count.
    """

    def __init__(self, model):
        self.ret = model.heads.ret_embedding
        table = model.get_input_embeddings().weight[: model.config.loss_vocab_size]
        self.norm = torch.linalg.vector_norm(table.detach().float(), dim=1).mean()

    @torch.no_grad()
    def on_step_end(self, args, state, control, **kwargs):
        """Rescales them."""
        lengths = torch.linalg.vector_norm(self.ret, dim=1, keepdim=True)
        self.ret.mul_(self.norm.to(lengths) / lengths)


__all__ = ["RescaleRet"]
