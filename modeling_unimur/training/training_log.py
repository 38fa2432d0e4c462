"""The log of a run as a file, and the backends that it may be reported to."""

import importlib.util
import json
import os
from pathlib import Path

from transformers import TrainerCallback, TrainingArguments

FILE_NAME = "training_log.json"
# Reporting backends that are extras of this package; Trainer knows more and says itself what they lack.
_EXTRAS = ("tensorboard", "trackio")


class TrainingLogFile(TrainerCallback):
    """Writes `training_log.json` to the output folder when training ends: Trainer's `log_history`, a list of
    dictionaries, each with `step`. Lines from before a resumption are among them."""

    def on_train_end(self, args, state, control, **kwargs):
        """Writes the file, whole or not at all."""
        if not state.is_world_process_zero:
            return
        path = Path(args.output_dir, FILE_NAME)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{FILE_NAME}.{os.getpid()}")
        aside.write_text(json.dumps(state.log_history, indent=1) + "\n", encoding="utf-8")
        os.replace(aside, path)


def require_reporters(args: TrainingArguments) -> None:
    """Fails before hours of training where a reporting backend is not installed.

    Raises:
        ImportError: the message names the extra.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # trackio shows its pages by Gradio
    for name in args.report_to:
        if name in _EXTRAS and importlib.util.find_spec(name) is None:
            raise ImportError(f"training.report_to: {name} is not installed: pip install unimur[{name}]")


__all__ = ["FILE_NAME", "TrainingLogFile", "require_reporters"]
