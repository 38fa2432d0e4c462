"""What a training run may be told beyond `transformers.TrainingArguments`."""

from dataclasses import dataclass, field

from transformers import TrainingArguments


@dataclass
class RetrievalTrainingArguments(TrainingArguments):
    """`TrainingArguments` and what contrastive training adds."""

    gradient_cache_chunk: int | None = field(
        default=None,
        metadata={"help": "Rows of a batch that run at one time; the loss still sees the whole batch (GradCache)."},
    )


__all__ = ["RetrievalTrainingArguments"]
