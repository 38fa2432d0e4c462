"""Evaluates UniVL-DR on WebQA: texts and images in one index, separately and together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...data.registry import load_retrieval_set, names_a_set
from ...data.retrieval_set import RetrievalSet
from ...encoding.encoder import Encoder
from ...index.second_stage import open_reranker
from ..provenance import model_revision
from ..report import TaskResult
from ..universal.task import RetrievalTask
from ..universal.univl_dr import universal_result
from .options import TaskOptions

_CORPUS = (
    "Corpus: setting {setting} ({captions} captions, {deduplicate} merged), {count:,} documents. Figures of another "
    "setting are not comparable; UniVL-DR's are of setting released."
)


def open_set(data: str, **choices: str | None) -> RetrievalSet:
    """Opens a retrieval set: a folder that `RetrievalSet.save` wrote, WebQA in any of the layouts that `load_webqa`
    reads (with its `choices`), or a set's name (`gimp_manual`).

    Raises:
        FileNotFoundError, ValueError: nothing is there, or it is neither.
    """
    if not names_a_set(data):
        saved = (Path(data).expanduser() / "corpus-corpus.parquet").is_file()
        data = f"{'folder' if saved else 'webqa'}={Path(data).expanduser()}"
    return load_retrieval_set(data, **choices)


def evaluate_webqa(data: str, sources: Sequence[str], options: TaskOptions, work: Path | None = None) -> TaskResult:
    """Evaluates universal retrieval on `open_set(data)` by releases of UniVL-DR: folders or Hub ids, whose rows are
    called by their last part. `work` is not used: a corpus is encoded in one go.

    Options: `split` (`test` by default), `least_score`, `seed`, `reranker`, `truncate_dims`; of WebQA `setting`,
    `captions` and `deduplicate`.

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
        encoders[name] = Encoder(model, UniVLDRProcessor.from_pretrained(source))
        about[name] = {"source": source, "revision": model_revision(source, model)}
    reranker = None if options.reranker is None else open_reranker(options.reranker)
    about_set = {"path": data, "split": split, **retrieval.about}
    further = {"reranker": reranker, "truncate_dims": options.truncate_dims}
    found = universal_result(task, encoders, about_set, options.seed, **further)
    if retrieval.about:
        found.notes.append(_CORPUS.format(**retrieval.about, count=len(task.doc_ids)))
    for name, entry in about.items():
        found.systems[name].about.update(entry)
    return found
