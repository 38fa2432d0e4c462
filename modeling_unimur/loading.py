"""Loading that never leaves a weight at random, and never takes a damaged file for a good one."""

import hashlib
import os
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError


@contextmanager
def readable_weights(source: str):
    """Turns the error of an unreadable file of weights into one that names its source and the remedy.

    Raises:
        OSError: when safetensors cannot read the file.
    """
    try:
        yield
    except SafetensorError as error:
        raise OSError(
            f"The weights of {source} cannot be read ({error}): the file is damaged or was cut short. Download it "
            "again with force_download=True, or save the model again."
        ) from error


def require_intact(source: str, revision: "str | None" = None, cache_dir: "str | None" = None) -> None:
    """Raises when the cached weights of a Hub repository are not those that the Hub announced.

    huggingface_hub compares sizes only. A file of a snapshot is a link to `blobs/<announced SHA-256>`, which newer
    versions make a link in turn, to a store of all repositories that is named by another hash (Xet's): one link is
    followed. Every byte is read, so this is for files of a few MB.

    Args:
        source (`str`): Hub id; a folder is not looked at.
        revision (`str`, *optional*): the commit.
        cache_dir (`str`, *optional*): the cache.

    Raises:
        OSError: naming the file and the remedy.
    """
    if os.path.isdir(source):
        return
    file = try_to_load_from_cache(source, "model.safetensors", cache_dir=cache_dir, revision=revision)
    if not isinstance(file, str):
        return
    announced = os.path.basename(os.readlink(file)) if os.path.islink(file) else ""
    if len(announced) != 64:  # a system without links keeps no such name
        return
    if hashlib.sha256(Path(file).read_bytes()).hexdigest() != announced:
        raise OSError(
            f"The weights of {source} are not those that the Hub announced (another SHA-256): the download was "
            "damaged. Load it once with force_download=True."
        )


def require_complete(loading_info: dict, source: str) -> None:
    """Raises when a file did not hold every weight of the model.

    Args:
        loading_info (`dict`): what `from_pretrained(..., output_loading_info=True)` returns beside the model.
        source (`str`): where the weights come from, for the message.

    Raises:
        ValueError: naming the first missing or misshapen weights.
    """
    missing = sorted(loading_info.get("missing_keys") or ())
    misshapen = sorted(str(key) for key in loading_info.get("mismatched_keys") or ())
    if not missing and not misshapen:
        return
    shown = ", ".join((missing + misshapen)[:4])
    unexpected = sorted(loading_info.get("unexpected_keys") or ())
    hint = f" It holds {len(unexpected)} keys under other names, such as {unexpected[0]}." if unexpected else ""
    raise ValueError(
        f"{source} lacks {len(missing) + len(misshapen)} weights of this model ({shown}); they would be random.{hint} "
        "Use a file of this very model, or convert it first."
    )


# Larger ones are not read whole: a training that has failed leaves NaN in the small ones as well.
_CHECKED_NUMBERS = 4_000_000


def require_finite(module: torch.nn.Module, source: str) -> None:
    """Raises when a weight is NaN or infinite; weights of more than a few million numbers are not looked at.

    Raises:
        ValueError: naming the first such weight and the remedy.
    """
    for name, weight in module.state_dict().items():
        is_read = isinstance(weight, torch.Tensor) and weight.is_floating_point() and not weight.is_meta
        if is_read and weight.numel() <= _CHECKED_NUMBERS and not bool(torch.isfinite(weight).all()):
            raise ValueError(
                f"{source}: the weight {name} in model.safetensors is NaN or infinite: the training has failed, or "
                "the file is damaged. Load it once with force_download=True, or train again with a smaller learning "
                "rate."
            )


class CompleteLoadingMixin:
    """Makes `from_pretrained` refuse a file that lacks weights of the model."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, output_loading_info: bool = False, **kwargs):
        misshapen_allowed = kwargs.pop("ignore_mismatched_sizes", False)
        with readable_weights(str(pretrained_model_name_or_path)):
            model, info = super().from_pretrained(
                pretrained_model_name_or_path,
                *args,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # else the error would not say which
                **kwargs,
            )
        checked = {**info, "mismatched_keys": ()} if misshapen_allowed else info
        require_complete(checked, str(pretrained_model_name_or_path))
        require_finite(model, str(pretrained_model_name_or_path))
        return (model, info) if output_loading_info else model


__all__ = ["CompleteLoadingMixin", "readable_weights", "require_complete", "require_finite", "require_intact"]
