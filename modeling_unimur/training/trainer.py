"""The Hugging Face Trainer, with what it lacks for contrastive models."""

from collections import defaultdict
from collections.abc import Callable

import torch
from transformers import Trainer

_LOGGED = ("caption_loss", "visual_matching_loss", "textual_matching_loss", "ret_token_loss")


class RetrievalTrainer(Trainer):
    """Logs every loss term and evaluates by recall over a whole set.

    Args:
        recalls (`Callable`, *optional*): the model to a dictionary of figures; it is evaluation.
    """

    def __init__(self, *args, recalls: "Callable[[torch.nn.Module], dict[str, float]] | None" = None, **kwargs):
        super().__init__(*args, **kwargs)
        self._recalls = recalls
        self._terms: dict[str, list] = defaultdict(list)

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        """The model's own loss; its terms are kept for the next log line."""
        outputs = model(**inputs)
        if outputs.loss is None:
            raise ValueError(f"The batch holds nothing that a loss reads: {sorted(inputs)}.")
        for name in _LOGGED:
            if getattr(outputs, name, None) is not None:
                self._terms[name].append(getattr(outputs, name).detach())
        for name in ("logit_scale", "text_logit_scale"):
            if getattr(outputs, name, None) is not None:
                self._terms[name].append(outputs[name].detach())
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def log(self, logs: dict, *args, **kwargs) -> None:
        """Adds the mean of each term since the last line."""
        if "loss" in logs:
            logs.update({name: torch.stack(values).float().mean().item() for name, values in self._terms.items()})
            self._terms.clear()
        super().log(logs, *args, **kwargs)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict:
        """Recall over the whole development set instead of a loss over batches."""
        if self._recalls is None:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        model = self.accelerator.unwrap_model(self.model)
        was_training = model.training
        model.eval()
        with torch.inference_mode():
            metrics = {f"{metric_key_prefix}_{key}": value for key, value in self._recalls(model).items()}
        model.train(was_training)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def parameter_report(model: torch.nn.Module) -> str:
    """One line a trained part, and the totals."""
    parts: dict[str, int] = defaultdict(int)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parts[name.rsplit(".", 1)[0] if name.endswith((".weight", ".bias")) else name] += parameter.numel()
    total = sum(parameter.numel() for parameter in model.parameters())
    lines = [f"  {name}: {count:,}" for name, count in parts.items()]
    trained = sum(parts.values())
    return "\n".join([f"Trained: {trained:,} of {total:,} parameters ({100 * trained / total:.2f} %)", *lines])


__all__ = ["RetrievalTrainer", "parameter_report"]
