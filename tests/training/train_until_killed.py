"""`unimur train`, killed with SIGKILL at a chosen moment.

python train_until_killed.py MOMENT STEP ARGUMENTS...

MOMENT: `never`; `forward`, before a step's forward; `optimizer`, between a step's gradients and its update; `saved`,
after a step's checkpoint; `weights`, `moments` or `state`, in the middle of writing that file of a step's checkpoint.
"""

import os
import signal
import sys
from pathlib import Path

import safetensors.torch
import torch
import transformers.trainer
from transformers import TrainerCallback, TrainerState

from modeling_unimur.cli.main import main


def kill() -> None:
    """kill -9 of this very process."""
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGKILL)


class KillAt(TrainerCallback):
    """Kills in a step; `state.global_step` counts the steps that are done."""

    def __init__(self, moment: str, step: int):
        self.moment, self.step = moment, step

    def on_step_begin(self, args, state, control, **kwargs):
        """Before the forward."""
        if self.moment == "forward" and state.global_step == self.step - 1:
            kill()

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        """After the backward."""
        if self.moment == "optimizer" and state.global_step == self.step - 1:
            kill()

    def on_save(self, args, state, control, **kwargs):
        """After a checkpoint."""
        if self.moment == "saved" and state.global_step == self.step:
            kill()


def cut_and_kill(path: str) -> None:
    """What a kill leaves of a file that is being written: its first half."""
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])
    kill()


def kill_while_writing(moment: str, step: int) -> None:
    """Replaces the function that writes the file by one that is killed half-way."""
    folder = f"checkpoint-{step}{os.sep}"
    module, name, ending = {
        "weights": (safetensors.torch, "save_file", "model.safetensors"),
        "moments": (torch, "save", "optimizer.pt"),
        "state": (TrainerState, "save_to_json", "trainer_state.json"),
    }[moment]
    write = getattr(module, name)

    def written_in_part(content, path, *args, **kwargs):
        write(content, path, *args, **kwargs)
        if folder in str(path) and str(path).endswith(ending):
            cut_and_kill(path)

    setattr(module, name, written_in_part)
    if moment == "weights":
        import transformers.modeling_utils

        transformers.modeling_utils.safe_save_file = written_in_part


if __name__ == "__main__":
    when, at = sys.argv[1], int(sys.argv[2])
    if when in ("weights", "moments", "state"):
        kill_while_writing(when, at)
    elif when != "never":
        transformers.trainer.DEFAULT_CALLBACKS.append(KillAt(when, at))
    sys.exit(main(sys.argv[3:]))
