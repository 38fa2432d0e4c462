"""WebQA through UniVL-DR: texts and pictures in one index, alone and together."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...data.retrieval_set import RetrievalSet
from ...data.retrieval_sources import load_retrieval_set, names_a_set
from ..provenance import model_revision
from ..report import Figures, TaskResult
from ..universal.encoding import Encoder, UniVLDREncoder
from ..universal.evaluate import evaluate_system
from ..universal.systems import UniversalSystem
from ..universal.task import SETTINGS, RetrievalTask
from ..universal.univl_dr import Space, with_bm25
from .options import TaskOptions

_MAIN = ("mrr@10", "ndcg@10", "recall@20", "recall@100")
_NOTES = (
    "Settings: texts alone, images alone, one index of both; a query counts in those that can answer it. Means over "
    "queries in percent, an empty ranking counts 0.",
    "The others are those of UniVL-DR's paper: BM25 over texts and captions, BM25 for texts joined with the first "
    "model for images, and both when an oracle tells what kind answers the query.",
)

_CORPUS = (
    "Corpus: setting {setting} ({captions} captions, {deduplicate} merged), {count:,} documents. Figures of another "
    "setting are not comparable; UniVL-DR's are of setting released."
)


def open_set(data: str, **choices: str | None) -> RetrievalSet:
    """A retrieval set.

    Args:
        data: a folder that `RetrievalSet.save` wrote, WebQA in any of the layouts that `load_webqa` reads, or a
            set's name, as `load_retrieval_set` takes it (`gimp_manual`).
        choices: `setting`, `captions` and `deduplicate` of WebQA, as that function takes them.

    Raises:
        FileNotFoundError, ValueError: nothing is there, or it is neither.
    """
    if not names_a_set(data):
        saved = (Path(data).expanduser() / "corpus-corpus.parquet").is_file()
        data = f"{'folder' if saved else 'webqa'}={Path(data).expanduser()}"
    return load_retrieval_set(data, **choices)


def evaluate_webqa(data: str, sources: Sequence[str], options: TaskOptions, work: Path | None = None) -> TaskResult:
    """Universal retrieval by releases of UniVL-DR.

    Args:
        data: as `open_set`.
        sources: folders or Hub ids of models; each row is called by the last part of its source.
        options: `split` (`test` by default), `least_score`, `seed`; `setting`, `captions` and `deduplicate` of WebQA.
        work: not used: a corpus is encoded in one go.

    Raises:
        FileNotFoundError, ValueError: as the reader and the models' loaders.
        ImportError: without `bm25s`.
    """
    from ... import UniVLDRModel, UniVLDRProcessor

    split = options.split or "test"
    choices = {name: getattr(options, name) for name in ("setting", "captions", "deduplicate")}
    retrieval = open_set(data, **choices)
    task = RetrievalTask.from_set(retrieval, split, options.least_score)
    encoders, about = {}, {}
    for source in sources:
        model = UniVLDRModel.from_pretrained(source).eval()
        name = Path(source).name if len({Path(other).name for other in sources}) == len(sources) else source
        encoders[name] = UniVLDREncoder(model, UniVLDRProcessor.from_pretrained(source))
        about[name] = {"source": source, "revision": model_revision(source, model)}
    found = universal_result(task, encoders, {"path": data, "split": split, **retrieval.about}, options.seed)
    if retrieval.about:
        found.notes.append(_CORPUS.format(**retrieval.about, count=len(task.doc_ids)))
    for name, entry in about.items():
        found.systems[name].about.update(entry)
    return found


def universal_result(
    task: RetrievalTask, encoders: Mapping[str, Encoder], data: Mapping[str, object], seed: int = 0
) -> TaskResult:
    """All encoders, BM25 and what is made of it with the first encoder.

    Args:
        task: queries and documents.
        encoders: by the names of their rows.
        data: `path` and `split`.
        seed: of the intervals.
    """
    systems: list[UniversalSystem] = []
    seconds, extra = {}, []
    for name, encoder in encoders.items():
        start = time.perf_counter()
        space = Space.of(encoder, task)
        systems.append(space.system(name))
        seconds[name] = round(time.perf_counter() - start, 3)
        if not extra:
            extra = with_bm25(systems[0], space)[0]
    figures = {}
    for system in [*systems, *extra]:
        start, values = time.perf_counter(), {}
        for setting, result in evaluate_system(system, task, SETTINGS).items():
            for measure, column in result.measures.items():
                values[f"{setting} {measure}"] = np.full(len(task.query_ids), np.nan)
                values[f"{setting} {measure}"][result.rows] = column
        spent = seconds.get(system.name, 0.0) + round(time.perf_counter() - start, 3)
        figures[system.name] = Figures(values, about={"seconds": spent})
    digest = hashlib.sha256()
    for column in (task.query_ids, task.query_texts, task.doc_ids, task.doc_texts):
        digest.update(repr(list(column)).encode("utf-8", "surrogatepass"))
    ids = np.array(task.query_ids)
    about = {**data, "digest": digest.hexdigest()[:16], "documents": len(task.doc_ids)}
    measured = next(iter(figures.values())).values
    main = tuple(name for s in SETTINGS for m in _MAIN if (name := f"{s} {m}") in measured)
    return TaskResult("webqa", about, ids, ids, figures, list(_NOTES), main, seed)


__all__ = ["evaluate_webqa", "open_set", "universal_result"]
