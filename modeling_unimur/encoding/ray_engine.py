"""Encoding by Ray Data: actors with a model each, on one machine or on a cluster."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from ..data.row_store import RowStore
from .chunks import Chunk, ChunkEncoder
from .encoder import Encoder
from .items import Item

if TYPE_CHECKING:
    from .build import BuildOptions

# Ray reports how it is used to its makers unless it is told not to before it starts.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

try:
    import ray
except ImportError as error:
    raise ImportError("--engine ray needs Ray: `pip install unimur[ray]`.") from error

# Chunks that travel at a time: the addresses of their items are in memory, not their images.
_ROUND = 256


class RayEncoder:
    """What an actor does with a batch of chunks: the same as one process does."""

    def __init__(
        self, source, store: str, records: str, batch_size: int, workers: int, device: str | None, clip: str | None
    ):
        encoder = Encoder.load(source, device, clip) if isinstance(source, str) else source
        self._encoder = ChunkEncoder(encoder, RowStore(store), Path(records), batch_size, workers)

    def __call__(self, batch: dict) -> dict:
        counts = dict.fromkeys(("encoded", "known", "failed"), 0)  # every row of a table has the same columns
        for written in batch["chunk"]:
            chunk = [(place, Item(*fields)) for place, fields in json.loads(str(written))]
            for name, value in self._encoder.encode([chunk]).items():
                counts[name] += value
        return {name: [value] for name, value in counts.items()}


def encode_with_ray(
    source, store: RowStore, records: Path, chunks: Iterator[Chunk], options: BuildOptions, bar: tqdm
) -> Counter[str]:
    """Encodes chunks on the workers of a cluster, which all see the work folder.

    Args:
        source: a model folder that all machines see, or an encoder.
        store, records: parts of the work folder.
        chunks: chunks of the items to encode.
        options: `ray_address`, `ray_workers`, `workers`, `batch_size`, `device`.
        bar: is told of items.

    Raises:
        ConnectionError: no cluster answers at the address.
    """
    made = not ray.is_initialized()
    if made:
        ray.init(address=options.ray_address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    total: Counter[str] = Counter()
    arguments = {
        "source": source,
        "store": os.fspath(store.folder),
        "records": os.fspath(records),
        "batch_size": options.batch_size,
        "workers": options.workers or 0,
        "device": options.device,
        "clip": options.clip,
    }
    gpus = 1 if ray.cluster_resources().get("GPU") and options.device != "cpu" else 0
    try:
        while block := [chunk for _, chunk in zip(range(_ROUND), chunks, strict=False)]:
            rows = [{"chunk": json.dumps(chunk)} for chunk in block]
            table = ray.data.from_items(rows, override_num_blocks=len(rows))
            done = table.map_batches(
                RayEncoder, fn_constructor_kwargs=arguments, batch_size=1, batch_format="numpy", num_gpus=gpus,
                compute=ray.data.ActorPoolStrategy(size=min(options.ray_workers, len(rows))),
            )  # fmt: skip
            for row in done.iter_rows():
                total.update({name: int(value) for name, value in row.items()})
                bar.n = total.total()
                bar.refresh()
    finally:
        if made:
            ray.shutdown()
    return total
