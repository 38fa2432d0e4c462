"""Keys and values of contexts before [RET], computed once and kept in memory."""

import hashlib
from pathlib import Path

import torch

from ..data.shards import read_shards, write_shard
from ..modeling_unimur import UniMuRModel
from ..prefix_cache import align_right
from .frozen_features import fingerprint

# Contexts that run through the language model together.
_BATCH = 32
# Bytes of one file.
_SHARD = 2**29


@torch.no_grad()
def prefix_states(
    model: UniMuRModel, input_ids: torch.Tensor, attention_mask: "torch.Tensor | None" = None
) -> torch.Tensor:
    """Returns the keys and values of everything before [RET] in text contexts, which training does not change. With
    them a training step runs [RET] alone.

    Args:
        model: model with the language model to run.
        input_ids, attention_mask (`(batch, tokens)`): contexts without images that end with [RET].

    Returns:
        `torch.Tensor` of shape `(batch, 2 * layers, heads, tokens - ret tokens, head_width)`, padded on the left.

    Raises:
        ValueError: for contexts with images, or a language model whose cache cannot be cut into rows.
    """
    if bool((input_ids == model.config.image_token_id).any()):
        raise ValueError("An image in the context is mapped by trained weights: its prefix cannot be kept.")
    decoder = model.frozen_decoder
    if not decoder.supports_prefix_cache:
        raise ValueError(f"The cache of {type(model.language_model).__name__} cannot be kept and cut into rows.")
    attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    mask, ids = align_right(attention_mask, input_ids)
    cut = ids.shape[1] - model.config.num_ret_tokens
    return torch.stack(decoder.build(model.get_inputs_embeds(ids[:, :cut]), mask[:, :cut]).states, dim=1)


class PrefixStore:
    """Keeps the keys and values of text contexts by a frozen language model, which training does not change.

    A run that sees a context more than once then computes [RET] alone. It is worth its memory for small language
    models: a token takes 2 * layers * key-value heads * head width values, 23 kB for SmolLM2-135M in bfloat16 and
    512 kB for OPT-6.7B.

    Args:
        model: its language model must not change while the store is used.
        max_bytes (`int`): when the next context would not fit, no more are kept; those that are not kept are computed.
        folder (`Path`, *optional*): what is kept lies there for the next run too, in a folder of its own for each
            state of a language model. A killed run leaves whole files.
    """

    def __init__(self, model: UniMuRModel, max_bytes: int = 8 * 2**30, folder: "Path | None" = None):
        if model.trains_adapters:
            raise ValueError(
                "Prefixes are kept of a frozen language model, and this one trains adapters (model.config.lora): set "
                "data.keep_prefixes_gb to 0."
            )
        self.model, self.max_bytes = model, max_bytes
        self._kept: dict[bytes, torch.Tensor] = {}
        self._unwritten: dict[bytes, torch.Tensor] = {}
        self._unwritten_bytes = 0
        self.bytes, self.folder = 0, None
        if folder is not None:
            self.folder = Path(folder) / fingerprint(model.language_model)
            for _, rows in read_shards(self.folder, _by_key):
                for key, row in rows.items():
                    self._keep(key, row, written=True)

    def flush(self) -> None:
        """Write the prefixes that are not in the folder yet."""
        if self.folder is None or not self._unwritten:
            return
        name = hashlib.sha256(b"".join(self._unwritten)).hexdigest()[:16]
        write_shard(self.folder, name, {key.hex(): row for key, row in self._unwritten.items()})
        self._unwritten, self._unwritten_bytes = {}, 0

    def _rows(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> "list[torch.Tensor]":
        """Returns one tensor `(2 * layers, heads, tokens, head_width)` per context."""
        last = self.model.config.num_ret_tokens
        lengths = (attention_mask.sum(dim=1) - last).tolist()
        # Up to the first [RET]: how many follow makes no difference to what comes before them.
        end = input_ids.shape[1] - last + 1
        bodies = [row[end - length - 1 : end] for row, length in zip(input_ids, lengths, strict=True)]
        keys = [hashlib.sha256(body.numpy().tobytes()).digest() for body in bodies]
        rows = [self._kept.get(key) for key in keys]
        missing = sorted((n for n, row in enumerate(rows) if row is None), key=lambda n: lengths[n])
        for start in range(0, len(missing), _BATCH):
            numbers = missing[start : start + _BATCH]
            width = max(lengths[n] for n in numbers) + last
            ids, mask = input_ids[numbers, -width:], attention_mask[numbers, -width:]
            states = prefix_states(self.model, ids.to(self.model.device), mask.to(self.model.device)).cpu()
            for number, row in zip(numbers, states, strict=True):
                rows[number] = row[:, :, row.shape[2] - lengths[number] :].clone()
                self._keep(keys[number], rows[number])
        return rows

    def _keep(self, key: bytes, row: torch.Tensor, written: bool = False) -> None:
        size = row.numel() * row.element_size()
        if key not in self._kept and self.bytes + size <= self.max_bytes:
            self._kept[key] = row
            self.bytes += size
            if self.folder is not None and not written:
                self._unwritten[key] = row
                self._unwritten_bytes += size
                if self._unwritten_bytes > _SHARD:
                    self.flush()

    def __len__(self) -> int:
        return len(self._kept)

    def states(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> "torch.Tensor | None":
        """Return the argument `prefix_states` of `UniMuRModel.forward`.

        Args:
            input_ids, attention_mask (`(batch, tokens)`): contexts, padded on the left. Of those without images
                what is missing is computed, and kept while there is room.

        Returns:
            `torch.Tensor`: for the contexts without images; None when there is none.
        """
        words = (input_ids != self.model.config.image_token_id).all(dim=1)
        if not bool(words.any()):
            return None
        rows = self._rows(input_ids[words], attention_mask[words])
        (layers, heads, _, width), before = rows[0].shape, max(row.shape[2] for row in rows)
        states = rows[0].new_zeros(len(rows), layers, heads, before, width)
        for place, row in zip(states, rows, strict=True):
            place[:, :, before - row.shape[2] :] = row
        return states


def _by_key(tensors: "dict[str, torch.Tensor]") -> "dict[bytes, torch.Tensor]":
    if any(row.ndim != 4 for row in tensors.values()):
        raise ValueError("it holds no keys and values of a language model")
    return {bytes.fromhex(key): row.clone() for key, row in tensors.items()}
