"""Arguments of training runs beyond `transformers.TrainingArguments`."""

import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

from transformers import TrainingArguments

logger = logging.getLogger(__name__)

# `accelerate launch --use_fsdp` says so by the environment alone.
_LAUNCHER_SHARDS = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
_SHARDING = {"reshard_after_forward": True, "cpu_offload": False}


def _is_true(value) -> bool:
    # Also FSDP1's names of strategies, which accelerate still writes.
    return str(value).lower() in ("true", "1", "full_shard", "hybrid_shard")


@dataclass
class RetrievalTrainingArguments(TrainingArguments):
    """`TrainingArguments` and what contrastive training adds.

    `fsdp` and `fsdp_config` (or `accelerate launch --use_fsdp`) shard the frozen language model over the ranks. What
    trains is a few MB, and is replicated and reduced as without sharding, so a checkpoint is the same file either way
    and a run may go on under another launcher. Of `fsdp_config`, `reshard_after_forward` and `cpu_offload` are used.

    With `gradient_accumulation_steps` the loss is the mean over the micro-batches, each with its own negatives and its
    own mean over label tokens. `gradient_cache_chunk` is what makes the batch itself bigger.
    """

    gradient_cache_chunk: int | None = field(
        default=None,
        metadata={"help": "Rows of a batch that run at one time; the loss still sees the whole batch (GradCache)."},
    )
    max_logit_scale: float | None = field(
        default=100.0,
        metadata={"help": "Largest factor on the cosines (CLIP: 100, against unstable training); null for no limit."},
    )
    rescale_ret: bool = field(
        default=False,
        metadata={"help": "Bring the [RET] vectors to the mean norm of the vocabulary after each step (FROMAGe)."},
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Evaluations in a row without a better metric_for_best_model after which training stops."},
    )
    early_stopping_threshold: float = field(
        default=0.0, metadata={"help": "What the metric must gain to count as better."}
    )

    def __post_init__(self):
        self.sharding = self._take_sharding()
        if self.gradient_cache_chunk is not None and self.gradient_cache_chunk < 1:
            raise ValueError(f"gradient_cache_chunk is at least 1, not {self.gradient_cache_chunk}.")
        if self.max_logit_scale is not None and self.max_logit_scale <= 1:
            raise ValueError(f"max_logit_scale is a factor above 1, or null, not {self.max_logit_scale}.")
        super().__post_init__()
        if self.early_stopping_patience is not None and (
            self.eval_strategy == "no" or not self.load_best_model_at_end or self.early_stopping_patience < 1
        ):
            raise ValueError(
                "early_stopping_patience counts evaluations (1 or more) without a better metric_for_best_model: set "
                "eval_strategy and load_best_model_at_end too."
            )
        if self.early_stopping_patience is not None:
            self.restore_callback_states_from_checkpoint = True  # its count is one of them

    def _take_sharding(self) -> "dict | None":
        """What shards the frozen part; Trainer's own sharding, which takes trained scalars too, stays off."""
        asked = [word for word in str(self.fsdp or "").lower().split() if word not in ("false", "none")]
        if not asked and not _LAUNCHER_SHARDS:
            return None
        given = self.fsdp_config or {}
        if isinstance(given, (str, os.PathLike)):
            given = json.loads(Path(given).read_text(encoding="utf-8"))
        if _LAUNCHER_SHARDS:
            names = {"reshard_after_forward": "FSDP_RESHARD_AFTER_FORWARD", "cpu_offload": "FSDP_OFFLOAD_PARAMS"}
            given = {**{key: os.environ[name] for key, name in names.items() if name in os.environ}, **given}
            os.environ["ACCELERATE_USE_FSDP"] = "false"
        given = {key.removeprefix("fsdp_"): value for key, value in given.items()}
        unused = sorted(set(given) - set(_SHARDING))
        if unused:
            logger.warning("Of fsdp_config only %s are used; not %s.", ", ".join(_SHARDING), ", ".join(unused))
        if "offload" in asked:
            given["cpu_offload"] = True
        if "shard_grad_op" in asked:
            given["reshard_after_forward"] = False
        self.fsdp = self.fsdp_config = None
        return {key: _is_true(given.get(key, default)) for key, default in _SHARDING.items()}


__all__ = ["RetrievalTrainingArguments"]
