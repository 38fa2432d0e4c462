"""The processes that torchrun started, or this one alone."""

from __future__ import annotations

import datetime
import os

# A rank may wait for the slowest one for as long as that takes.
_PATIENCE = datetime.timedelta(days=7)


class Ranks:
    """This process among those that share the work; all see the same work folder.

    Leaves the process group that is there; makes one under torchrun where there is none.
    """

    def __init__(self) -> None:
        self.rank, self.count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self._made = False

    def __enter__(self) -> Ranks:
        if self.count > 1:
            import torch.distributed as dist

            if not dist.is_initialized():
                dist.init_process_group("gloo", timeout=_PATIENCE)
                self._made = True
        return self

    def __exit__(self, *exception: object) -> None:
        if self._made:
            import torch.distributed as dist

            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this is the process that changes the manifest and the index."""
        return self.rank == 0

    def wait(self) -> None:
        """Waits until all are here."""
        if self.count > 1:
            import torch.distributed as dist

            dist.barrier()

    def total(self, numbers: list[int]) -> list[int]:
        """Sums over all processes."""
        if self.count == 1:
            return numbers
        import torch
        import torch.distributed as dist

        summed = torch.tensor(numbers)
        dist.all_reduce(summed)
        return summed.tolist()


__all__ = ["Ranks"]
