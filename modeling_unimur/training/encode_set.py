"""Queries and documents of a retrieval set as vectors, by a UniVL-DR model."""

from collections.abc import Callable, Sequence

import torch
from tqdm.auto import tqdm

from .documents import Document


def embed_queries(
    model, processor, texts: "Sequence[str]", batch_size: int = 64, precision: "torch.dtype | None" = None
) -> torch.Tensor:
    """Unit vectors `(queries, width)`, float32 on the CPU; computed under autocast to `precision`, if given."""

    def embed(part: "list[str]") -> torch.Tensor:
        return model.get_text_features(**_placed(model, processor.process_queries(part))).pooler_output

    return _by_length(model, texts, len, embed, batch_size, "Queries", precision)


def embed_documents(
    model,
    processor,
    documents: "Sequence[Document]",
    pictures=None,
    batch_size: int = 64,
    precision: "torch.dtype | None" = None,
) -> torch.Tensor:
    """Unit vectors `(documents, width)` of texts and captioned images, float32 on the CPU.

    Args:
        model (`UniVLDRModel`), processor (`UniVLDRProcessor`): what embeds.
        documents: in any order.
        pictures: image documents to tensors, as in `QueryCollator`; without one images are their captions.
        batch_size: documents at a time.
        precision (`torch.dtype`, *optional*): of autocast; none by default.
    """

    def embed(part: "list[Document]") -> torch.Tensor:
        if part[0].kind == "text":
            inputs = dict(processor.process_texts([document.text for document in part]))
        else:
            inputs = dict(processor.process_captions([document.text for document in part]))
            inputs.update({} if pictures is None else pictures(part))
            if pictures is None:
                inputs.pop("caption_mask", None)
        return model.get_multimodal_features(**_placed(model, inputs)).pooler_output

    def size(document: Document) -> "tuple[bool, int]":
        return document.kind == "image", len(document.text)

    return _by_length(model, documents, size, embed, batch_size, "Documents", precision)


def _placed(model, inputs) -> dict:
    return {key: value.to(model.device) for key, value in inputs.items()}


@torch.no_grad()
def _by_length(
    model,
    items: Sequence,
    size: Callable,
    embed: Callable,
    batch_size: int,
    name: str,
    precision: "torch.dtype | None",
) -> torch.Tensor:
    """Embeds items in batches of like size, texts apart from images; the model evaluates meanwhile."""
    order = sorted(range(len(items)), key=lambda number: size(items[number]))
    vectors = torch.empty(len(items), model.config.embedding_width)
    training, start = model.training, 0
    model.eval()
    with tqdm(total=len(order), desc=name, leave=False) as bar:
        while start < len(order):
            part = order[start : start + batch_size]
            kinds = [getattr(items[number], "kind", "") for number in part]
            part = part[: kinds.index(kinds[-1]) if kinds[0] != kinds[-1] else len(part)]
            with torch.autocast(model.device.type, precision, enabled=precision is not None):
                embedded = embed([items[number] for number in part])
            vectors[part] = embedded.float().cpu()
            start += len(part)
            bar.update(len(part))
    model.train(training)
    return vectors


__all__ = ["embed_documents", "embed_queries"]
