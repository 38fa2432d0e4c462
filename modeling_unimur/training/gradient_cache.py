"""Gradient caching: the contexts of a batch run in chunks, while its contrastive losses see all of them.

Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup" (arXiv:2101.06983). The heads may
have dropout (`query_correction="mlp"`), so the second run of a chunk draws the random numbers of the first.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from ..modeling_unimur import UniMuROutput
from ..processing_unimur import ANCHOR_ROWS

_BY_ROW = ("input_ids", "attention_mask", "labels", *ANCHOR_ROWS)
_BY_IMAGE = ("pixel_values", "visual_features", "pixel_attention_mask", "spatial_shapes")


def split_rows(batch: dict, rows: int, config, prefix: str = "") -> "Iterator[dict]":
    """Splits the contexts of a batch, or its captions (prefix `caption_`), into chunks of rows with their images.

    Args:
        batch: arguments of `UniMuRModel.forward`.
        rows (`int`): rows a chunk.
        config (`UniMuRConfig`): knows the placeholder of an image.
        prefix (`str`): prefix of the arguments' names.

    Yields:
        `dict`: the same arguments of fewer rows.
    """
    ids = batch[f"{prefix}input_ids"]
    images = (ids == config.image_token_id).sum(dim=1) // config.num_visual_tokens
    states = None if prefix else batch.get("prefix_states")
    for start in range(0, len(ids), rows):
        part = slice(start, start + rows)
        chunk = {f"{prefix}{name}": batch[f"{prefix}{name}"][part] for name in _BY_ROW if f"{prefix}{name}" in batch}
        first = int(images[:start].sum())
        shown = slice(first, first + int(images[part].sum()))
        if shown.stop > shown.start:
            chunk.update({f"{prefix}{n}": batch[f"{prefix}{n}"][shown] for n in _BY_IMAGE if f"{prefix}{n}" in batch})
        words = images[part] == 0
        if states is not None and bool(words.any()):  # kept for the contexts without images alone
            first = int((images[:start] == 0).sum())
            longest = int(chunk["attention_mask"][words].sum(dim=1).max()) - config.num_ret_tokens
            chunk["prefix_states"] = states[first : first + int(words.sum()), :, :, states.shape[3] - longest :]
        yield chunk


class _RandomStates:
    """The states of the generators that a run on a device draws from, to draw the same again."""

    def __init__(self, device: torch.device):
        self.devices = [device] if device.type == "cuda" else []
        self.states = [torch.get_rng_state(), *(torch.cuda.get_rng_state(one) for one in self.devices)]

    @contextmanager
    def again(self) -> "Iterator[None]":
        """Draws the same numbers within, and goes on outside as if nothing had been drawn."""
        with torch.random.fork_rng(self.devices):
            torch.set_rng_state(self.states[0])
            for device, state in zip(self.devices, self.states[1:], strict=True):
                torch.cuda.set_rng_state(state, device)
            yield


def _encode_targets(model: torch.nn.Module, batch: dict, rows: int) -> dict:
    """Encodes raw targets with the frozen dual encoder, which needs no gradient."""
    batch = dict(batch)
    if batch.get("target_pixel_values") is not None and batch.get("target_image_features") is None:
        parts = batch.pop("target_pixel_values").split(rows)
        batch["target_image_features"] = torch.cat([model.image_target_features(part) for part in parts])
    if batch.get("target_input_ids") is not None and batch.get("target_text_features") is None:
        ids, mask = batch.pop("target_input_ids"), batch.pop("target_attention_mask", None)
        mask = torch.ones_like(ids) if mask is None else mask
        pairs = zip(ids.split(rows), mask.split(rows), strict=True)
        batch["target_text_features"] = torch.cat([model.encode_texts(*pair) for pair in pairs])
    return batch


def gradient_cached_step(
    model: torch.nn.Module,
    batch: dict,
    rows: int,
    *,
    bare: torch.nn.Module,
    backward: "Callable[[torch.Tensor], None]",
    no_sync: "Callable[[], AbstractContextManager]" = nullcontext,
    autocast: "Callable[[], AbstractContextManager]" = nullcontext,
    finish: "Callable[[torch.Tensor], torch.Tensor]" = lambda loss: loss,
) -> UniMuROutput:
    """Compute the losses and gradients of a whole batch with the memory of a chunk.

    The contexts run once without gradient; the contrastive losses of the whole batch give the gradient of every
    unified embedding; each chunk then runs again and passes its part on to the weights. This costs one more forward
    pass than a direct step. Next-token losses are summed over the chunks, each with its share of the labels.

    Args:
        model: the model, or what wraps it; every pass goes through it.
        batch: arguments of `UniMuRModel.forward`. `num_context_labels` and `num_caption_labels` are filled in where
            they are missing.
        rows (`int`): contexts, and captions, a chunk.
        bare (`UniMuRModel`): the model inside the wrapper.
        backward: takes a loss and runs its backward pass; it may scale, by the same factor each time.
        no_sync: entered around every backward pass but the last, so that ranks reduce gradients once.
        autocast: entered around every forward pass.
        finish: applied to the loss of the last backward pass, which reaches every trained weight this way.

    Returns:
        `UniMuROutput`: what a direct step returns, detached.

    Raises:
        ValueError: for fewer than one row a chunk, or a batch that holds nothing that a loss reads.
    """
    if rows < 1:
        raise ValueError(f"gradient_cache_chunk is at least 1, not {rows}.")
    config, batch = bare.config, {name: value for name, value in batch.items() if value is not None}
    counts = {name: batch.pop(name, None) for name in ("num_context_labels", "num_caption_labels")}
    whole = label_counts(bare, batch)
    counts = {name: given or count for (name, given), count in zip(counts.items(), whole, strict=True)}
    contexts = list(split_rows(batch, rows, config)) if "input_ids" in batch else []
    captions = []
    if "caption_input_ids" in batch and config.caption_loss_weight:
        captions = list(split_rows(batch, rows, config, "caption_"))
    targets = {name: value for name, value in batch.items() if name.startswith("target_")}

    output, gradient = UniMuROutput(), None
    drawn: list[_RandomStates] = []
    if contexts:
        with torch.no_grad(), autocast():
            targets = _encode_targets(bare, targets, rows)
            parts = []
            for chunk in contexts:
                drawn.append(_RandomStates(bare.device))
                parts.append(model(**chunk, return_loss=False).multimodal_embeds)
            embeds = torch.cat(parts)
        embeds = embeds.to(torch.promote_types(embeds.dtype, torch.float32)).requires_grad_()
        factor = torch.zeros((), device=embeds.device, requires_grad=True)
        with no_sync():
            with autocast():
                output = model(multimodal_embeds=embeds, **targets)
            if output.loss is not None:
                backward(output.loss + factor)
                gradient = embeds.grad / factor.grad  # the chunks' own backward passes scale again

    total = 0.0 if output.loss is None else output.loss.detach()
    done, chunks = 0, [*contexts, *captions]
    for number, chunk in enumerate(chunks):
        last = number == len(chunks) - 1
        with nullcontext() if last else no_sync():
            with autocast(), drawn[number].again() if number < len(drawn) else nullcontext():
                part = model(**chunk, **counts)
            terms = [] if part.loss is None else [part.loss]
            total = total + sum(term.detach() for term in terms)
            if "input_ids" in chunk and gradient is not None:
                own = gradient[done : done + len(chunk["input_ids"])]
                terms.append((part.multimodal_embeds.to(own.dtype) * own).sum())
                done += len(own)
            if terms:
                loss = torch.stack([term.to(terms[0].dtype) for term in terms]).sum()
                backward(finish(loss) if last else loss)
        for name in ("ret_token_loss", "caption_loss"):
            if part.get(name) is not None:
                output[name] = part[name].detach() + output.get(name, 0)
    if not isinstance(total, torch.Tensor):
        raise ValueError(f"The batch contains nothing that a loss reads: {sorted(batch)}.")
    for name, value in output.items():
        output[name] = value.detach()
    output.loss = total
    return output


def label_counts(model: torch.nn.Module, batch: dict) -> "tuple[int, int]":
    """Counts the labels that the next-token losses of a batch's contexts and captions learn; 0 where a loss is off."""
    contexts = captions = 0
    if model.config.ret_token_loss_weight and batch.get("input_ids") is not None:
        ids, mask = batch["input_ids"], batch.get("attention_mask")
        labels = model.context_labels(ids, torch.ones_like(ids) if mask is None else mask)
        contexts = int((labels != -100).sum())
    if model.config.caption_loss_weight and batch.get("caption_labels") is not None:
        captions = int((batch["caption_labels"][:, 1:] != -100).sum())
    return contexts, captions
