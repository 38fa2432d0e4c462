"""Distributed training: which tensors are reduced, which are left alone, which are sharded."""

import torch
import torch.distributed as dist
from torch import nn

from ..contrastive_loss import gather, world_size
from .gradient_cache import label_counts


def reach_all_weights(loss: torch.Tensor, weights: "list[nn.Parameter]") -> torch.Tensor:
    """Returns the same loss, with a gradient of zero (and not None) at trained weights that a batch does not use.

    The image map gets nothing from a batch without images. Ranks that reduce gradients would wait for it, or
    search the graph for what is missing in every step (`ddp_find_unused_parameters`).
    """
    return loss + sum(weight.flatten()[:0].sum() for weight in weights).to(loss)


def reduce_trained_only(model: nn.Module) -> None:
    """Makes DistributedDataParallel ignore frozen weights and all buffers, which each rank has loaded alike."""
    names = [name for name, weight in model.named_parameters(remove_duplicate=False) if not weight.requires_grad]
    model._ddp_params_and_buffers_to_ignore = [*names, *(name for name, _ in model.named_buffers())]


def shard_language_model(
    model: nn.Module, device: str, reshard_after_forward: bool = True, cpu_offload: bool = False
) -> None:
    """Shards the frozen language model over the ranks in place, a decoder layer at a time (FSDP2).

    The input table and the output layer stay whole, since they are read outside the decoder, and so do the few MB
    that train. Ranks must call sharded layers equally often, so batches run in one piece and without a kept prefix:
    the same numbers, slower than whole replicas.

    Args:
        model (`UniMuRModel`): not yet wrapped, on any device; it need not fit the one it is sharded over.
        device (`str`): type of the device that each rank has.
        reshard_after_forward (`bool`): whether a layer's weights are given back after its forward pass.
        cpu_offload (`bool`): whether shards rest in main memory.

    Raises:
        ValueError: for a quantised language model, and for a family whose layers transformers does not name.
    """
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

    language_model = model.language_model
    if getattr(language_model, "is_quantized", False):
        raise ValueError("A quantised language model is not sharded: leave fsdp or language_model_quantization out.")
    if model.config.lora:
        raise ValueError("A language model with adapters is not sharded: leave fsdp or config.lora out.")
    decoder, names = language_model.base_model, set(language_model._no_split_modules or ())
    layers = [module for module in decoder.modules() if type(module).__name__ in names]
    if not layers:
        raise ValueError(f"{type(language_model).__name__} does not say which of its layers can be sharded (fsdp).")
    outside = (model.get_input_embeddings(), model.get_output_embeddings())
    whole = {weight for module in outside if module is not None for weight in module.parameters()}
    whole |= {weight for weight in model.parameters() if weight.requires_grad}
    mesh = dist.device_mesh.init_device_mesh(device, (world_size(),))
    options = {
        "mesh": mesh,
        "reshard_after_forward": reshard_after_forward,
        "offload_policy": CPUOffloadPolicy() if cpu_offload else OffloadPolicy(),
        "ignored_params": whole,
    }
    for layer in layers:
        fully_shard(layer, **options)
    fully_shard(decoder, **options)
    model.equal_calls = True


def give_back_whole_layers(model: nn.Module) -> None:
    """Makes every rank keep only its shards again, where `reshard_after_forward` is off.

    Reading a state dict does so on the rank that reads it. If one rank alone saves, the next pass would gather layers
    there that the other ranks still have.
    """
    for module in model.modules():
        if callable(getattr(module, "reshard", None)):  # FSDPModule
            module.reshard()


def require_equal(counts: "dict[str, int]", device, *names: str) -> "dict[str, list[int]]":
    """Gathers the counts of all ranks, in the order of the ranks; those of these names, or all, must be equal.

    Raises:
        ValueError: on every rank, when one differs.
    """
    own = torch.tensor([list(counts.values())], dtype=torch.long, device=device)
    found = dict(zip(counts, gather(own).T.tolist(), strict=True))
    for name in names or counts:
        if len(set(found[name])) > 1:
            raise ValueError(
                f"The ranks' batches differ in {name} ({', '.join(map(str, found[name]))}), and each needs as many, "
                "since all candidates compete. Drop what is left over at the end (dataloader_drop_last: true)."
            )
    return found


def fit_batch(model: nn.Module, batch: dict) -> dict:
    """Align a batch with those of the other ranks after one small exchange.

    Next-token losses are divided by the mean number of labels over the ranks, so that the mean over ranks is the mean
    over all labels. Targets that only other ranks have are there as masked rows, which weigh nothing.

    Args:
        model (`UniMuRModel`): the bare model.
        batch: arguments of its `forward` on this rank.

    Returns:
        `dict`: the arguments to call it with.

    Raises:
        ValueError: on every rank, when the batches do not fit: no rank waits for another.
    """
    batch = {name: value for name, value in batch.items() if value is not None}
    device = next(value.device for value in batch.values() if isinstance(value, torch.Tensor))
    contexts, captions = label_counts(model, batch)
    rows, kinds = len(batch.get("input_ids", ())), ("image", "text")
    names = {"image": "target_pixel_values", "text": "target_input_ids"}
    counts = {
        "contexts": rows,
        "target ids": len(batch.get("target_ids", ())),
        "rows of captions": len(batch.get("caption_input_ids", ())),
        "labels of contexts": contexts,
        "labels of captions": captions,
        **{kind: int(f"target_{kind}_features" in batch or names[kind] in batch) for kind in kinds},
    }
    equal = ["contexts", "target ids"] + ["rows of captions"] * model.equal_calls
    found = require_equal(counts, device, *equal)
    for kind in kinds:
        if any(found[kind]) and not counts[kind] and rows:
            mapped = kind == "image" and model.config.map_image_targets
            width = model.config.visual_width if mapped else model.config.joint_width
            batch[f"target_{kind}_features"] = torch.zeros(rows, width, device=device)
            batch[f"target_{kind}_mask"] = torch.zeros(rows, dtype=torch.bool, device=device)
    for argument, name in (("num_context_labels", "labels of contexts"), ("num_caption_labels", "labels of captions")):
        batch[argument] = sum(found[name]) / world_size()
    return batch
