"""The Hugging Face Trainer with additions for contrastive models."""

import contextlib
import math
from collections import defaultdict
from collections.abc import Callable

import torch
from accelerate.utils import broadcast_object_list
from transformers import Trainer, TrainerCallback

from .callbacks import EarlyStopping, TrainingLogFile
from .gradient_cache import gradient_cached_step
from .ranks import (
    fit_batch,
    give_back_whole_layers,
    reach_all_weights,
    reduce_trained_only,
    require_equal,
    shard_language_model,
)

_LOGGED = ("caption_loss", "visual_matching_loss", "textual_matching_loss", "ret_token_loss", "distillation_loss")
_SCALES = ("logit_scale", "text_logit_scale")


class LogitScaleLimit(TrainerCallback):
    """Keeps the factor on the cosines below a limit, after each step of the optimizer (CLIP, section 2.5)."""

    def __init__(self, limit: float):
        self.limit = math.log(limit)

    @torch.no_grad()
    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        """Clamp the logit scales."""
        for name, weight in model.named_parameters():
            if weight.requires_grad and name.rsplit(".", 1)[-1] in _SCALES:
                weight.clamp_(max=self.limit)


class RetrievalTrainer(Trainer):
    """Logs every loss term, evaluates by recall over a whole set, and trains over many ranks and in large batches.

    The mean over ranks of loss and gradient is what one process with the whole batch computes. With
    `RetrievalTrainingArguments` the batch may run in chunks (`gradient_cache_chunk`) and the frozen language model may
    be sharded (`fsdp`).

    Args:
        recalls (`Callable`, *optional*): the model to a dictionary of figures; it is evaluation.
    """

    def __init__(
        self, model, args, *, recalls: "Callable[[torch.nn.Module], dict[str, float]] | None" = None, **kwargs
    ):
        self._prepare_ranks(model, args, kwargs.get("data_collator"))
        super().__init__(model, args, **kwargs)
        self._require_a_step()
        self._recalls = recalls
        self._chunk = getattr(self.args, "gradient_cache_chunk", None)
        limit = getattr(self.args, "max_logit_scale", None)
        if limit is not None:
            self.add_callback(LogitScaleLimit(limit))
        self._terms: dict[str, list] = defaultdict(list)
        self.add_callback(TrainingLogFile())
        patience = getattr(self.args, "early_stopping_patience", None)
        if patience is not None:
            self.add_callback(EarlyStopping(patience))

    def _require_a_step(self) -> None:
        """Raises if the batch is larger than the data and the last, smaller batch is dropped: nothing would train."""
        data = self.train_dataset
        if data is None or not hasattr(data, "__len__") or not self.args.dataloader_drop_last:
            return
        batch = self.args.train_batch_size * self.args.world_size
        if len(data) < batch:
            raise ValueError(
                f"{len(data)} rows make no batch of {batch}, and dataloader_drop_last drops a smaller one: "
                f"set training.per_device_train_batch_size to {max(len(data) // self.args.world_size, 1)} or less, or "
                "bring more data."
            )

    @staticmethod
    def _prepare_ranks(model, args, collator) -> None:
        """Prepare the model for several ranks before Trainer places and wraps it."""
        if args.n_gpu > 1:
            raise ValueError("One process drives one GPU here: start several with torchrun or accelerate launch.")
        if args.ddp_find_unused_parameters is None:  # each trained weight gets a gradient, if only zeros
            args.ddp_find_unused_parameters = False
        sharding = getattr(args, "sharding", None)
        if sharding:
            if args.world_size == 1:
                raise ValueError("fsdp shards over ranks, and this is one process: use torchrun or accelerate launch.")
            if getattr(collator, "prefix_store", None) is not None:
                raise ValueError("A sharded language model (fsdp) keeps no prefixes: set data.keep_prefixes_gb to 0.")
            shard_language_model(model, args.device.type, **sharding)
        reduce_trained_only(model)

    def _run_epoch(self, *args, **kwargs):
        # Trainer would do one step more for a run that was killed after its last step.
        if self.control.should_training_stop or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return None
        return super()._run_epoch(*args, **kwargs)

    def save_model(self, output_dir=None, _internal_call=False):
        """Save the model. All ranks call it, and one of them writes."""
        give_back_whole_layers(self.model)
        super().save_model(output_dir, _internal_call)

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        """Returns the model's own loss, and keeps its terms for the next log line."""
        outputs = model(**self._agreed(inputs))
        if outputs.loss is None:
            raise ValueError(f"The batch contains nothing that a loss reads: {sorted(inputs)}.")
        self._note(outputs)
        loss = reach_all_weights(outputs.loss, self._trained()) if torch.is_grad_enabled() else outputs.loss
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Runs one micro-batch, in chunks with `gradient_cache_chunk`, and returns its share of the step's loss."""
        if self._chunk is None:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        if callable(getattr(self.optimizer, "train", None)):  # schedule-free optimizers have two modes
            self.optimizer.train()
        share = 1 / self.current_gradient_accumulation_steps
        outputs = gradient_cached_step(
            model,
            self._agreed(self._prepare_inputs(inputs)),
            self._chunk,
            bare=self.accelerator.unwrap_model(model),
            backward=lambda loss: self.accelerator.backward(loss * share),
            # Not the accelerator's own: at its end it would turn reduction on again inside an accumulation step's.
            no_sync=getattr(model, "no_sync", contextlib.nullcontext),
            autocast=self.compute_loss_context_manager,
            finish=lambda loss: reach_all_weights(loss, self._trained()),
        )
        self._note(outputs)
        return outputs.loss * share

    def _trained(self) -> "list[torch.nn.Parameter]":
        return [weight for weight in self.model.parameters() if weight.requires_grad]

    def _agreed(self, inputs: dict) -> dict:
        """Return the batch after aligning it with the other ranks."""
        if self.args.world_size == 1:
            return inputs
        model = self.accelerator.unwrap_model(self.model)
        if not hasattr(model, "context_labels"):
            rows = next(len(value) for value in inputs.values() if isinstance(value, torch.Tensor))
            require_equal({"rows": rows}, self.args.device)
            return inputs
        return fit_batch(model, inputs)

    def _note(self, outputs) -> None:
        for name in (*_LOGGED, *_SCALES):
            if getattr(outputs, name, None) is not None:
                self._terms[name].append(getattr(outputs, name).detach().float())

    def _means(self) -> "dict[str, float]":
        """Return the mean of each term since the last call over all ranks, without terms that did not occur."""
        names = [*_LOGGED, *_SCALES]
        sums = [torch.stack(self._terms[n]).sum().item() if self._terms[n] else 0.0 for n in names]
        table = torch.tensor([sums, [len(self._terms[n]) for n in names]], device=self.args.device)
        self._terms.clear()
        table = self.accelerator.reduce(table, "sum").tolist()
        return {name: total / count for name, total, count in zip(names, *table, strict=True) if count}

    def log(self, logs: dict, *args, **kwargs) -> None:
        """Adds the mean of each term since the last line."""
        if "loss" in logs:
            logs.update(self._means())
        super().log(logs, *args, **kwargs)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict:
        """Computes recall over the whole development set instead of a loss over batches."""
        if self._recalls is None:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        model = self.accelerator.unwrap_model(self.model)
        was_training = model.training
        model.eval()
        with torch.no_grad():  # inference mode would leave tensors that a sharded model cannot train with
            metrics = {f"{metric_key_prefix}_{key}": value for key, value in self._recalls(model).items()}
        # Ranks that differ in a last bit would differ in which checkpoint is the best.
        metrics = broadcast_object_list([metrics])[0]
        model.train(was_training)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def parameter_report(model: torch.nn.Module) -> str:
    """Describe the trained parameters, one line per part, and their total."""
    parts: dict[str, int] = defaultdict(int)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parts[name.rsplit(".", 1)[0] if name.endswith((".weight", ".bias")) else name] += parameter.numel()
    total = sum(parameter.numel() for parameter in model.parameters())
    lines = [f"  {name}: {count:,}" for name, count in parts.items()]
    trained = sum(parts.values())
    return "\n".join([f"Trained: {trained:,} of {total:,} parameters ({100 * trained / total:.2f} %)", *lines])
