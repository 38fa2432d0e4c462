"""Query mode: a captioner learns to write the queries that an image answers (UniVL-DR's image verbalization)."""

from __future__ import annotations

import logging
import os

import torch
from torch.utils.data import Dataset
from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer, TrainingArguments

from ..data.image_bytes import read_image_bytes
from ..data.retrieval_set import RetrievalSet
from ..image_loading import load_image

logger = logging.getLogger(__name__)

# The one split whose queries may be learned: words learned from others' would give their answers away.
SPLIT = "train"


class QueryPairs(Dataset):
    """Images that answer the training split's queries, each with its caption and the query.

    Raises:
        ValueError: no training query is answered by an image.
    """

    def __init__(self, retrieval: RetrievalSet):
        relevant = retrieval.relevant(SPLIT)
        wanted = {doc for docs in relevant.values() for doc in docs}
        table = retrieval.corpus
        columns = (table[name][:] for name in ("doc_id", "kind", "text", "image"))
        shown = {
            doc: (image, text or "")
            for doc, kind, text, image in zip(*columns, strict=True)
            if doc in wanted and kind == "image" and image
        }
        queries = retrieval.queries[SPLIT]
        self.rows = [
            (*shown[doc], text)
            for query, text in zip(queries["query_id"], queries["text"], strict=True)
            for doc in relevant.get(query, {})
            if doc in shown
        ]
        if not self.rows:
            raise ValueError(f"No query of the split {SPLIT!r} is answered by an image: nothing to learn from.")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> tuple[str, str, str]:
        return self.rows[number]


class QueryCollator:
    """Collates images and `prompt + query`, together at most `max_tokens`, into model inputs, with labels for the
    query only; the prompt is that of `ImageToTextVerbalizer`."""

    def __init__(self, processor, prompt: str | None = None, max_tokens: int = 64):
        self.processor, self.prompt, self.max_tokens = processor, prompt or "", max_tokens
        processor.tokenizer.padding_side = "right"

    def __call__(self, rows: list[tuple[str, str, str]]) -> dict[str, torch.Tensor]:
        images, asked, texts = [], [], []
        for address, caption, query in rows:
            images.append(load_image(read_image_bytes(address), name=address))
            asked.append(self.prompt.replace("{caption}", caption))
            texts.append(f"{asked[-1]} {query}".strip())
        tokenizer = self.processor.tokenizer
        batch = self.processor(
            images=images, text=texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        ends = torch.full((len(rows), 1), tokenizer.eos_token_id)
        last = batch["attention_mask"].sum(dim=1)
        if tokenizer.eos_token_id not in tokenizer("a")["input_ids"]:  # what is written has to end
            batch["input_ids"] = torch.cat([batch["input_ids"], ends], dim=1).scatter_(1, last[:, None], ends)
            batch["attention_mask"] = torch.cat([batch["attention_mask"], torch.zeros_like(ends)], dim=1).scatter_(
                1, last[:, None], 1
            )
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        start = int(tokenizer("a")["input_ids"][0] in (tokenizer.cls_token_id, tokenizer.bos_token_id))
        for row, text in enumerate(asked):
            labels[row, : start + len(tokenizer(text, add_special_tokens=False)["input_ids"])] = -100
        return {**batch, "labels": labels}


def next_token_loss(outputs, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None):
    """Cross-entropy of each token's logits `(rows, images and tokens, vocabulary)` with the label `(rows, tokens)`
    behind it, -100 where nothing is learned; images may stand before the text. The sum is divided by
    `num_items_in_batch`, the count of labels by default."""
    wanted = labels[:, 1:].flatten()
    logits = outputs.logits[:, -labels.shape[1] : -1].flatten(0, 1)
    count = (wanted != -100).sum() if num_items_in_batch is None else num_items_in_batch
    return torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="sum") / count


def train_query_writer(
    source: str, retrieval: RetrievalSet, output: str | os.PathLike, prompt: str | None = None, **training
) -> None:
    """Fine-tunes a captioner to write the training split's queries, and saves it with its processor; the folder is
    then a source of `ImageToTextVerbalizer` with the same prompt.

    Args:
        source: a captioner that takes images and a text (GIT, BLIP), as Hub id or folder.
        retrieval: the set; its training split alone is read.
        output: the folder.
        prompt (*optional*): what the query follows; `{caption}` in it is the image's caption.
        training: fields of `transformers.TrainingArguments`.

    Raises:
        ValueError: a model that talks by a chat template, or no training query is answered by an image.
    """
    model, processor = AutoModelForImageTextToText.from_pretrained(source), AutoProcessor.from_pretrained(source)
    if getattr(processor, "chat_template", None):
        raise ValueError(f"{source} answers by a chat template: ask it for queries by a prompt, without training.")
    pairs = QueryPairs(retrieval)
    logger.info("%d images with a query to learn from", len(pairs))
    arguments = {"num_train_epochs": 3, "learning_rate": 1e-5, "per_device_train_batch_size": 16, **training}
    defaults = {"save_strategy": "no", "report_to": "none", "remove_unused_columns": False}
    if not torch.accelerator.is_available():
        defaults["use_cpu"] = True
    args = TrainingArguments(output_dir=str(output), **{**defaults, **arguments})
    # GIT's own loss shifts the labels twice in older transformers (5.13), which teaches every second token.
    loss = next_token_loss if model.config.model_type == "git" else None
    collator = QueryCollator(processor, prompt)
    trainer = Trainer(model, args, data_collator=collator, train_dataset=pairs, compute_loss_func=loss)
    trainer.train()
    if trainer.is_world_process_zero():
        model.save_pretrained(output)
        processor.save_pretrained(output)
