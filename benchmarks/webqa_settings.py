"""WebQA's released setting beside the merged one, on a generated set in the form of UniVL-DR's `data.zip`.

    python benchmarks/webqa_settings.py [--manual SET] [--model FOLDER]

The set is made of a manual: its validation and test questions, the passages that answer each under ids of that
question alone (WebQA repeats a text under another id for every question), and its figures. Captions of
`all_imgs_query.json` have a generated query behind them, the title of the figure's section. There is no table of
images: captions stand for them.

- `SETTING_documents`: of the corpus; `repeated`: texts that stand under several ids;
- `SETTING_SYSTEM_text`, `SETTING_SYSTEM_image`, `SETTING_SYSTEM_both`: MRR@10 in percent of `bm25` and `model`, among
  texts, among images, and in one ranking.

The quick run has eleven texts and eleven figures, and BM25 alone.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.harness import argument_parser, report
from benchmarks.manuals import LEAST_SCORE, quick_set
from modeling_unimur.data.retrieval_set import RetrievalSet
from modeling_unimur.data.webqa.load import SETTINGS
from modeling_unimur.evaluation.tasks.options import TaskOptions
from modeling_unimur.evaluation.tasks.webqa import evaluate_webqa, open_set
from modeling_unimur.evaluation.universal import SETTINGS as KINDS
from modeling_unimur.evaluation.universal import RetrievalTask, bm25_system, setting_figures

# Passages of one question.
MOST_TEXTS = 3
_FILES = {"validation": "dev", "test": "test"}


def write_released(manual: RetrievalSet, folder: Path) -> int:
    """Writes a manual as UniVL-DR's files; returns the number of texts that stand under several ids."""
    rows = {row["doc_id"]: row for row in manual.corpus}
    images = [row for row in rows.values() if row["kind"] == "image"]
    numbers = {row["doc_id"]: str(30_000_000 + number) for number, row in enumerate(images)}
    texts: list[dict] = []
    files: dict[str, list[dict]] = {"train": []}
    for split, name in _FILES.items():
        relevant, files[name] = manual.relevant(split), []
        for query in manual.queries[split]:
            right = [doc for doc, grade in relevant.get(query["query_id"], {}).items() if grade >= LEAST_SCORE]
            passages = [rows[doc]["text"] for doc in right if rows[doc]["kind"] == "text"][:MOST_TEXTS]
            ids = [f"{name}{len(files[name])}_{number}" for number in range(len(passages))]
            texts += [{"snippet_id": one, "fact": text, "title": ""} for one, text in zip(ids, passages, strict=True)]
            shown = [numbers[doc] for doc in right if doc in numbers]
            entry = {"qid": f"{name}{len(files[name])}", "Q": query["text"], "A": [], "img_posFacts": shown}
            files[name].append(entry | {"txt_posFacts": ids, "img_negFacts": [], "txt_negFacts": []})
    files["all_docs"] = texts
    about = [(numbers[row["doc_id"]], row["text"], row.get("section", "").split(" > ")[-1]) for row in images]
    files["all_imgs"] = [{"image_id": one, "caption": caption, "title": ""} for one, caption, _ in about]
    files["all_imgs_query"] = [
        {"image_id": one, "caption": f"{caption} [SEP] {query}", "title": ""} for one, caption, query in about
    ]
    for name, lines in files.items():
        (folder / f"{name}.json").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return sum(count > 1 for count in Counter(text["fact"] for text in texts).values())


def measure(folder: Path, models: Sequence[str]) -> dict[str, float]:
    """All figures of both settings."""
    figures: dict[str, float] = {}
    for setting in SETTINGS:
        if models:
            systems = evaluate_webqa(str(folder), models, TaskOptions(setting=setting)).systems
        else:
            task = RetrievalTask.from_set(open_set(str(folder), setting=setting), "test")
            systems = {"BM25": setting_figures(bm25_system(task.query_texts, task.doc_texts, task.is_image), task)}
        figures[f"{setting}_documents"] = len(open_set(str(folder), setting=setting).corpus)
        named = {"bm25": "BM25", **({"model": next(iter(systems))} if models else {})}
        for name, row in named.items():
            values = systems[row].values
            for kind in (kind for kind in KINDS if f"{kind} mrr@10" in values):  # those that any question asks for
                figures[f"{setting}_{name}_{kind}"] = float(np.nanmean(values[f"{kind} mrr@10"]))
    return figures


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--manual", default="gnucash_manual", help="retrieval set (default: gnucash_manual)")
    parser.add_argument("--model", default="univl-dr-mini", help="folder of a model (default: univl-dr-mini)")
    args = parser.parse_args()
    models, manual = [], quick_set()
    if not args.quick:
        from modeling_unimur.cli.retriever import model_folder
        from modeling_unimur.data.registry import load_retrieval_set

        models, manual = [str(model_folder(args.model))], load_retrieval_set(args.manual)
    with tempfile.TemporaryDirectory() as folder:
        repeated = write_released(manual, Path(folder))
        figures = {"repeated": repeated, **measure(Path(folder), models)}
    report("webqa_settings", args, figures, ["captions stand for images; MRR@10 in percent"])


if __name__ == "__main__":
    main()
