"""A source into an index: what is new or has changed is encoded, what is gone is removed."""

from __future__ import annotations

import datetime
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm.auto import tqdm

from ..data.cache import folder_stamp
from ..data.image_bytes import worker_count
from ..data.image_files import printable
from ..data.json_lines import read_json_lines, write_json_lines
from ..data.registry import names_a_set
from ..data.row_store import RowStore
from ..data.source_folders import folder_of_source, record_sources
from ..index import open_index
from ..index.base import is_in_memory, local_path, require_same
from ..index.hybrid import keep_words, require_words
from ..index.precision import require_kind, with_precision
from ..index.versions import writer_lock
from ..memory_index import require_positive
from .context import Contexts, check_context
from .indexing import Held, bring_up_to_date, find_held, stored_vectors, work_folder
from .items import Item
from .manifest import Manifest, Plan
from .sources import Found, find_source, first_reading, list_items

# A rank may wait for the slowest one for as long as that takes.
_PATIENCE = datetime.timedelta(days=7)


class Ranks:
    """This process among those that torchrun started, or alone; all see the same work folder.

    Leaves the process group that is there; makes one under torchrun where there is none.
    """

    def __init__(self) -> None:
        self.rank, self.count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self._made = False

    def __enter__(self) -> Ranks:
        self._made = self.count > 1 and not dist.is_initialized()
        if self._made:
            dist.init_process_group("gloo", timeout=_PATIENCE)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._made:
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this process writes the manifest and the index."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait for all processes."""
        if self.count > 1:
            dist.barrier()

    def total(self, numbers: list[int]) -> list[int]:
        """Sum numbers over all processes."""
        summed = torch.tensor(numbers)
        if self.count > 1:
            dist.all_reduce(summed)
        return summed.tolist()


ENGINES = ("local", "ray")
SKIPPED_FILE = "skipped.jsonl"
# An index loses no more of a source than both unless it is asked to: most losses are drives that are not mounted.
_LOST_UNASKED, _LOST_SHARE = 20, 0.1
_RECORDS, _VECTORS, _MANIFEST, _LOCK = "records", "vectors", "manifest.sqlite", "lock"


@dataclass
class BuildReport:
    """Result of a run, as numbers of items.

    Args:
        items: items of the source that are in the index now.
        encoded: contents that the model saw in this run.
        known: new items whose content was encoded before.
        unchanged: passed over without being read.
        added, replaced, removed: in the index.
        skipped: items that could not be encoded, all of them in `skipped_file`.
        seconds: duration of the run.
        reasons: why items were skipped, and how many for each reason, the most frequent first.
    """

    items: int = 0
    encoded: int = 0
    known: int = 0
    unchanged: int = 0
    added: int = 0
    replaced: int = 0
    removed: int = 0
    skipped: int = 0
    skipped_file: str = ""
    seconds: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)


@dataclass
class BuildOptions:
    """Options of building an index. None of them changes a stored vector.

    Args:
        index: kind of a new one, in FAISS' words, or `"memory"`.
        collection: collection of a database.
        work: folder for vectors and manifest, by default beside the index; all machines must see it.
        engine: `"local"` (one process, or those of torchrun) or `"ray"`.
        ray_address: address of a cluster; by default one of this machine.
        ray_workers: encoders of Ray, each with a copy of the model.
        workers: processes that decode, for each encoder; by default as many as there are spare CPUs.
        batch_size: items that the model sees at a time.
        chunk_size: items that are stored together; what is killed loses at most one chunk an encoder.
        device: device of the model.
        clip: folder or Hub id of the dual encoder, in place of the one that a heads-only model names.
        show_progress: whether to show bars.
        prune: whether the index may lose more than a tenth of the source's items (and more than 20), because they are
            not there any more or cannot be read any more.
        moved_from: where the source lay when it was last listed; its ids stay.
        bm25: whether the index keeps the words of texts and captions from now on, for `hybrid` search.
        precision: data type of the numbers of a new index: `"float32"`, `"int8"` or `"binary"`; see `open_index`.
        context: a field of payloads and a weight: from now on each image of the index has this share of the texts with
            the same text in that field, such as `("section", 0.5)`; 0 for none. By default as it was built.
        truncate_dim: numbers of each vector that a new index holds, the first ones; all by default. An existing one
            keeps its own. Vectors are stored whole beside the index.
    """

    index: str | None = None
    collection: str | None = None
    work: str | None = None
    engine: str = "local"
    ray_address: str | None = None
    ray_workers: int = 2
    workers: int | None = None
    batch_size: int = 32
    chunk_size: int = 1024
    device: str | None = None
    clip: str | None = None
    show_progress: bool = False
    prune: bool = False
    moved_from: str | None = None
    bm25: bool = False
    precision: str | None = None
    context: tuple[str, float] | None = None
    truncate_dim: int | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(f"engine must be one of {ENGINES}, got {self.engine!r}.")
        for name in ("batch_size", "chunk_size", "ray_workers", "truncate_dim"):
            if getattr(self, name) is not None:
                require_positive(name, getattr(self, name))
        if self.context is not None:
            check_context(self.context)


def build_index(
    source: str | os.PathLike,
    model,
    uri: str | os.PathLike,
    options: BuildOptions | None = None,
    must_exist: bool = False,
) -> BuildReport:
    """Build an index from a source, or update it. The same call starts, resumes and repeats a build.

    An item that cannot be encoded is skipped, and counted with its reason. Ids that a source does not give itself
    (paths, lines, rows) begin with its folder's name from an index' second source on, and an id that an item of
    another source has is refused: no source replaces or removes what came from another.

    Args:
        source: see `sources.find_source`. An index may be built from several, one after the other.
        model: a model folder, or an `Encoder`.
        uri: address of the index, see `open_index`.
        options: see there.
        must_exist: refuses to begin a new index, and a source that an existing one was not built from.

    Raises:
        FileNotFoundError: no such source or model, or (`must_exist`) no index.
        OSError: the source, or a part of it that items of the index came from, cannot be listed. Nothing is changed.
        ValueError: a source of another format or with nothing in it, a model without a dual encoder, an index of
            another model or kind, more losses than `prune` allows. Nothing is changed.
        BlockingIOError: another process is building this index.
        ImportError: an extra is missing; the message names it.
    """
    options, start = options or BuildOptions(), time.perf_counter()
    uri, named = os.fspath(uri), _named(source)
    extra = {} if options.collection is None else {"collection": options.collection}
    work = Path(options.work or work_folder(uri, options.collection))
    if is_in_memory(uri):
        raise ValueError(f"{uri} would be gone after the build: name a folder or a server.")
    if options.bm25:
        require_words(uri)
    with Ranks() as ranks:
        held = find_held(uri, **extra) if ranks.first else None
        if must_exist and ranks.first and held is None:
            raise FileNotFoundError(f"There is no index in {uri}: make it by `unimur index build`.")
        # What these refuse is not encoded first.
        if held is None:
            with_precision(options.index, options.precision)
        else:
            require_kind(uri, held.factory, options.index, options.precision)
            require_same(uri, options.truncate_dim, None, held.width, None)
        found = find_source(source)
        work.mkdir(parents=True, exist_ok=True)
        lock = writer_lock(work / _LOCK, f"The index in {uri}") if ranks.first else None
        try:
            run = _Run(named, work, ranks, options)
            run.name_model(model)
            unchanged, listed_bad = run.encode(found, held, must_exist)
            if not ranks.first:
                return BuildReport(seconds=time.perf_counter() - start)
            changes = run.fill(uri, held, extra)
            record_sources(local_path(uri) or uri, [folder_of_source(source)])
            reasons = run.write_skipped(listed_bad)
            with Manifest(work / _MANIFEST) as manifest:
                items = manifest.count(named)
            return BuildReport(
                items=items,
                encoded=run.counts["encoded"],
                known=run.counts["known"],
                unchanged=unchanged,
                **changes,
                skipped=reasons.total(),
                skipped_file=os.fspath(work / SKIPPED_FILE),
                seconds=time.perf_counter() - start,
                reasons=dict(reasons.most_common()),
            )
        finally:
            if lock is not None:
                lock.release()


def _named(source: str | os.PathLike) -> str:
    """What the manifest calls a source, from wherever it is named."""
    if names_a_set(os.fspath(source)):
        kind, at, path = os.fspath(source).partition("=")
        return f"{kind}{at}{os.path.abspath(path)}" if at else kind
    return os.path.abspath(os.path.expanduser(os.fspath(source))).encode("utf-8", "backslashreplace").decode()


class _Run:
    """One call of `build_index` in one process."""

    def __init__(self, source: str, work: Path, ranks: Ranks, options: BuildOptions):
        self.source, self.work, self.ranks, self.options = source, work, ranks, options
        self.encoder = None
        self.folder: str | None = None
        self.name = ""
        self.counts: Counter[str] = Counter()

    def name_model(self, model) -> None:
        """Finds out the model's name, by loading it only if its folder has changed since it was last loaded."""
        if not isinstance(model, (str, os.PathLike)):
            self.encoder, self.name = model, model.name
            return
        self.folder = os.path.abspath(model)
        if not os.path.isfile(os.path.join(self.folder, "config.json")):
            raise FileNotFoundError(f"{model} is not a model folder: it holds no config.json.")
        fact = f"model {folder_stamp(self.folder)}"
        if self.ranks.first:
            with Manifest(self.work / _MANIFEST) as manifest:
                if manifest.fact(fact) is None:
                    manifest.fact(fact, self.loaded().name)
        self.ranks.wait()
        with Manifest(self.work / _MANIFEST) as manifest:
            self.name = manifest.fact(fact)

    def loaded(self):
        """Return the encoder, which is loaded when it is first needed."""
        if self.encoder is None:
            from .encoder import Encoder

            self.encoder = Encoder.load(self.folder, self.options.device, self.options.clip)
        return self.encoder

    @cached_property
    def store(self) -> RowStore:
        """Return the store of this model's vectors. It is opened once, since that reads all vectors."""
        return RowStore(self.work / _VECTORS / self.name.rpartition("@")[2])

    # -- encoding ---------------------------------------------------------------------------------------------------
    def encode(self, found: Found, held: Held | None, must_be_known: bool) -> tuple[int, Path]:
        """Encodes this process' share of what the manifest does not know; returns the number of unchanged items and
        the file of those that could not even be listed."""
        records = self.work / _RECORDS
        with Manifest(self.work / _MANIFEST) as manifest:
            if self.ranks.first:
                self._same_model(manifest)
                self._decide_reading(found, manifest, must_be_known)
                manifest.merge(records, manifest.fact("source of records") or self.source)
                manifest.fact("source of records", self.source)
                manifest.forget_lost(self.store.holds)
                counts = {} if held is None else held.counts
                if any(count > counts.get(kind, 0) for kind, count in manifest.indexed().items()):
                    manifest.nothing_indexed()  # it is another index than the one that was filled
            self.ranks.wait()
            listing = list_items(found, manifest.reading(self.source))
            plan = Plan(
                listing, manifest, self.source, self.options.chunk_size, self.work / f".listed-{self.ranks.rank}"
            )
            chunks = (chunk for number, chunk in enumerate(plan) if number % self.ranks.count == self.ranks.rank)
            # A small corpus is decoded before processes have started, and one without news needs no model.
            if head := list(islice(chunks, 2)):
                self._encode_chunks(chain(head, chunks), worker_count(self.options.workers, sum(map(len, head))))
            if not plan.listed:  # such as a drive that is not mounted
                raise ValueError(
                    f"{self.source} holds nothing that can be encoded; {manifest.count(self.source)} items of it are "
                    f"in the index, and stay. {_first_line(plan.bad)}"
                )
            names = ("encoded", "known", "failed")
            totals = self.ranks.total([self.counts[name] for name in names])
            self.counts = Counter(dict(zip(names, totals, strict=True)))
            self.ranks.wait()
            if self.ranks.first:
                manifest.merge(records, self.source)
                self._refuse_losses(plan, manifest)
                manifest.forget_unseen(self.source)
            return plan.unchanged, plan.bad

    def _decide_reading(self, found: Found, manifest: Manifest, must_be_known: bool) -> None:
        if self.options.moved_from is not None:
            manifest.move(_named(self.options.moved_from), self.source)
        known = manifest.sources()
        if manifest.reading(self.source) is not None:
            return
        if must_be_known and known:
            raise ValueError(
                f"The index was not built from {self.source} but from {', '.join(known)}: add it by `unimur index "
                "build`, or say by --moved-from where it lay before."
            )
        prefix = ""
        if known:
            name = prefix = printable(os.path.basename(found.base)) or "source"
            number = 1
            while manifest.begins(f"{prefix}/"):
                number += 1
                prefix = f"{name}-{number}"
        manifest.keep_reading(self.source, first_reading(found, prefix))

    def _refuse_losses(self, plan: Plan, manifest: Manifest) -> None:
        for bad in plan.hiding:
            if behind := manifest.unseen(self.source, bad.hides):
                raise OSError(
                    f"{bad.item} of {self.source} cannot be read ({bad.reason}), and {behind} items of the index that "
                    "may lie behind it were not seen. Nothing is changed: fix it and run the command again."
                )
        lost, held = manifest.losses(self.source)
        if lost > max(_LOST_UNASKED, held * _LOST_SHARE) and not self.options.prune:
            raise ValueError(
                f"{lost} of the {held} items that the index holds of {self.source} are not there any more, or cannot "
                "be read any more. Nothing is changed: look at the source, and to remove them run the same with "
                "--prune (prune=True)."
            )

    def _same_model(self, manifest: Manifest) -> None:
        from ..modeling_open_clip import same_space

        known = manifest.fact("model")
        if known is not None and not same_space(known, self.name):
            raise ValueError(
                f"{self.work} holds the vectors of {known}, not of {self.name}: they mean something else. Build with "
                "that model, or another index with this one."
            )
        # One name, although other numbers (bfloat16) may turn a digit of it.
        self.name = manifest.fact("model", known or self.name)

    def _encode_chunks(self, chunks: Iterator[list[tuple[int, Item]]], workers: int) -> None:
        options, records = self.options, self.work / _RECORDS
        with tqdm(desc="Encoding", unit=" items", disable=not (options.show_progress and self.ranks.first)) as bar:
            if options.engine == "ray":
                from .ray_engine import encode_with_ray

                source = self.encoder if self.folder is None else self.folder
                self.counts = encode_with_ray(source, self.store, records, chunks, options, bar)
            else:
                from .chunks import ChunkEncoder

                encoder = ChunkEncoder(self.loaded(), self.store, records, options.batch_size, workers)
                self.counts = encoder.encode(chunks, bar.update)

    # -- the index --------------------------------------------------------------------------------------------------
    def fill(self, uri: str, held: Held | None, extra: dict) -> Counter[str]:
        """Update the index, unless nothing has changed."""
        from ..modeling_open_clip import same_space

        with Manifest(self.work / _MANIFEST) as manifest:
            begins_words = self.options.bm25 and not (held is not None and held.words)
            store = self.store
            store.refresh()  # others may have encoded, too
            contexts = Contexts(manifest, partial(stored_vectors, store), self.options.context)
            contexts.outdate()
            if held is not None and not begins_words and next(manifest.waiting(1), None) is None:
                return Counter()
            width = store.rows(store.find(store.keys()[:1])).shape[1] if len(store) else self.loaded().width
            if held is not None and held.width is not None:
                width = min(width, held.width)
            elif (self.options.truncate_dim or width) > width:
                raise ValueError(
                    f"truncate_dim must be at most {width}, the width of the model's vectors, got "
                    f"{self.options.truncate_dim}."
                )
            else:
                width = self.options.truncate_dim or width
            # One that the pipeline made may call this model by a name with other numbers.
            known = held is not None and held.model is not None and same_space(held.model, self.name)
            name = held.model if known else self.name
            kind, precision = self.options.index, self.options.precision
            with open_index(uri, width, name, kind, precision=precision, **extra) as index:
                if begins_words:
                    keep_words(index)
                return bring_up_to_date(manifest, store, index, contexts, self.options.show_progress)

    def write_skipped(self, listed: Path) -> Counter[str]:
        """Write the items that could not be encoded as JSON lines, and return the count of each reason."""
        counts: Counter[str] = Counter()

        def counted(records: Iterable[dict]) -> Iterator[dict]:
            for record in records:
                counts[record["reason"].partition(": ")[0]] += 1
                yield record

        with Manifest(self.work / _MANIFEST) as manifest:
            bad = (record for _, record in read_json_lines(listed)) if listed.is_file() else ()
            failed = ({"item": item, "reason": reason} for item, reason in manifest.failures(self.source))
            write_json_lines(self.work / SKIPPED_FILE, counted(chain(bad, failed)))
        listed.unlink(missing_ok=True)
        return counts


def _first_line(bad: Path) -> str:
    """Why the first of the items that could not be listed could not."""
    if not bad.is_file():
        return ""
    _, record = next(read_json_lines(bad))
    return f"{record['item']}: {record['reason']}."
