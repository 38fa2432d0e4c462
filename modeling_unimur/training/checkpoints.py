"""Finds the last complete checkpoint, from which a run resumes."""

import json
import logging
import re
import shutil
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import TrainingArguments

logger = logging.getLogger(__name__)

_NAME = re.compile(r"checkpoint-(\d+)")
_ASIDE = "incomplete-"
_STATE = "trainer_state.json"
# Weights are one of these files, or lie in a folder of their own (FSDP, DeepSpeed).
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")


def checkpoints(output_dir: Path) -> list[Path]:
    """Returns the folders `checkpoint-<step>` of a run, ordered by step."""
    found = [path for path in Path(output_dir).glob("checkpoint-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: int(_NAME.fullmatch(path.name)[1]))


def why_incomplete(checkpoint: Path) -> "str | None":
    """Returns what a checkpoint lacks, or None if it is complete.

    Trainer writes the weights, the optimizer, the schedule, the random states, and last `trainer_state.json`; a run
    that is killed meanwhile leaves a folder without some of them, or with part of one.
    """
    try:
        state = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
        if not isinstance(state, dict) or "global_step" not in state:
            return f"{_STATE} is damaged"
    except FileNotFoundError:
        return f"no {_STATE}"
    except (OSError, ValueError):
        return f"{_STATE} is damaged"
    # Trainer's own files are zip archives, whose directory is at their end: a cut file is no archive.
    for file in sorted(checkpoint.glob("*")):
        if file.suffix in (".pt", ".pth", ".bin") and file.is_file() and not zipfile.is_zipfile(file):
            return f"{file.name} is damaged"
        if file.suffix == ".safetensors" and not _is_whole(file):
            return f"{file.name} is damaged"
    folders = [path.name for path in checkpoint.iterdir() if path.is_dir()]
    in_folders = any(name.startswith(("pytorch_model", "global_step")) for name in folders)
    if not in_folders and not any((checkpoint / name).is_file() for name in _WEIGHTS):
        return "no weights"
    return None


def starting_point(args: TrainingArguments, resume: bool = False, overwrite: bool = False) -> "str | None":
    """Returns the checkpoint that a run starts from, or None for a fresh start.

    Args:
        args: arguments of the run; `resume_from_checkpoint` names a checkpoint, or is true for the last one.
        resume: go on from the last complete checkpoint of `output_dir`, or start where there is none. Newer ones that
            a kill left incomplete are passed over with a warning and renamed to `incomplete-checkpoint-<step>`, out of
            the way of the run that writes them again.
        overwrite: remove the checkpoints of `output_dir` and start.

    Raises:
        FileNotFoundError: `resume_from_checkpoint` names a folder that is not there.
        ValueError: it is incomplete; or `output_dir` holds checkpoints and neither `resume` nor `overwrite` says what
            becomes of them; or checkpoints without an optimizer (`save_only_model`) are to be continued.
    """
    named = args.resume_from_checkpoint
    if isinstance(named, str) and named.lower() in ("true", "false", ""):
        named = named.lower() == "true"
    output = Path(args.output_dir)
    if named and not isinstance(named, bool):
        if not Path(named).is_dir():
            raise FileNotFoundError(f"training.resume_from_checkpoint: there is no folder {named}.")
        reason = why_incomplete(Path(named))
        if reason:
            raise ValueError(f"training.resume_from_checkpoint: {named} is incomplete ({reason}); name another.")
        _require_optimizer(Path(named), args)
        return str(named)
    if resume or named:
        return _last_complete(output, args)
    present = checkpoints(output)
    if not present:
        return None
    if not overwrite:
        raise ValueError(
            f"{output} holds {len(present)} checkpoint(s), the last {present[-1].name}: continue that run with "
            "--resume, start again with --overwrite (they are removed), or name another training.output_dir."
        )
    if args.should_save:
        for checkpoint in [*present, *output.glob(f"{_ASIDE}checkpoint-*")]:
            shutil.rmtree(checkpoint)
        logger.info("Removed %d checkpoint(s) of %s.", len(present), output)
    return None


def _last_complete(output: Path, args: TrainingArguments) -> "str | None":
    newer = []
    for checkpoint in reversed(checkpoints(output)):
        reason = why_incomplete(checkpoint)
        if reason is None:
            _require_optimizer(checkpoint, args)
            break
        newer.append((checkpoint, reason))
    else:
        checkpoint = None
    start = f"training goes on from {checkpoint.name}" if checkpoint else "training starts from the beginning"
    for incomplete, reason in newer:
        logger.warning("%s is incomplete (%s) and passed over: %s.", incomplete, reason, start)
        if args.should_save and incomplete.is_dir():
            aside = incomplete.with_name(_ASIDE + incomplete.name)
            shutil.rmtree(aside, ignore_errors=True)
            # Where times of files cannot be trusted, Trainer takes the highest number for the newest checkpoint, and
            # would remove those that the run writes now.
            incomplete.rename(aside)
    if not newer:
        logger.info("%s: %s.", output, start)
    return str(checkpoint) if checkpoint else None


def _require_optimizer(checkpoint: Path, args: TrainingArguments) -> None:
    names = [path.name for path in checkpoint.iterdir()]
    kept = any(name.startswith(("optimizer", "global_step", "pytorch_model_fsdp")) for name in names)
    if args.save_only_model or not kept:
        raise ValueError(
            f"{checkpoint} was saved without its optimizer (training.save_only_model): its run cannot be continued. "
            "Start again with --overwrite, or in another training.output_dir."
        )


def _is_whole(file: Path) -> bool:
    try:
        with safe_open(file, framework="pt") as tensors:  # compares the header with the file's length
            return bool(tensors.keys())
    except (SafetensorError, OSError):
        return False
