"""Manuals that UniVL-DR-mini was trained on beside one that it never saw: BM25, the dual encoder as it comes, models.

    python benchmarks/manuals.py [--corpora SET ...] [--model NAME=FOLDER ...] [--dims N ...]

Each corpus is one ranking of passages and images, asked by the test questions; grade 2, the section or image meant,
counts. `scikit_learn_guide` was never trained on; it is the development corpus on which `model.trained_share` of
`recipes/univl_dr_mini.yaml` was chosen, so figures of its test split stand beside that choice and not apart from it.

- `CORPUS_bm25`, `CORPUS_untrained`, `CORPUS_release`: MRR@10 in percent over texts and captions, with `_low` and
  `_high`, the 95 % interval by the bootstrap over questions; `CORPUS_NAME` of a further `--model`;
- `CORPUS_NAME_N`, with `--dims`: the same by the first N numbers of the vectors;
- `CORPUS_all_questions`, `CORPUS_NAME_all`: of the validation and test questions together;
- `CORPUS_untrained_hybrid` and so on: with BM25, whose weight the validation questions choose;
- `CORPUS_release_over_untrained`, `..._hybrid_over_untrained_hybrid`: paired differences;
- `mean_...`: of the corpora that the file holds (those that are not measured keep their figures);
  `CORPUS_questions`, `CORPUS_texts`, `CORPUS_images`: numbers.

The quick run has eleven texts with random vectors.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.harness import RESULTS, argument_parser, interval_figures, report
from benchmarks.ladder_rows import Rows
from modeling_unimur.data.retrieval_set import RetrievalSet
from modeling_unimur.evaluation.universal import (
    HYBRID,
    DualEncoder,
    RetrievalTask,
    Space,
    bm25_system,
    setting_figures,
    with_bm25,
)

CORPORA = ("gimp_manual", "gnucash_manual", "debian_handbook", "scikit_learn_guide")
LEAST_SCORE = 2
UNTRAINED, RELEASE = "untrained", "release"
WORDS = ("layer", "mask", "brush", "palette", "gradient", "channel", "selection", "path", "filter", "font", "guide")


class RandomEncoder:
    """Stands for a model in the quick run: each text has a vector of its own."""

    def __init__(self, seed: int):
        self.seed = seed

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Random vectors of texts."""
        rows = [np.random.default_rng([self.seed, *text.encode()]).standard_normal(8) for text in texts]
        return np.array(rows, dtype=np.float32).reshape(len(texts), 8)

    def encode_images(self, addresses: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """No image can be read."""
        return np.zeros((len(addresses), 8), np.float32), np.zeros(len(addresses), bool)

    def fuse(self, images: np.ndarray, captions: np.ndarray, has_image: np.ndarray, has_caption: np.ndarray):
        """Captions alone."""
        return captions / np.maximum(np.linalg.norm(captions, axis=1, keepdims=True), 1e-9)


def quick_set() -> RetrievalSet:
    """A text and an image of each word."""
    corpus = [
        {"doc_id": f"{kind}-{word}", "kind": kind, "text": f"{start} {word}", "image": ""}
        for word in WORDS
        for kind, start in (("text", "about a"), ("image", "drawing of a"))
    ]
    queries = [{"query_id": word, "text": f"what is a {word}?", "kind": "text"} for word in WORDS]
    qrels = [{"query_id": word, "doc_id": f"text-{word}", "score": 2} for word in WORDS]
    splits = ("validation", "test")
    return RetrievalSet.from_rows(dict.fromkeys(splits, queries), corpus, dict.fromkeys(splits, qrels))


def no_images(addresses: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Leaves captions alone, as where no image can be read."""
    return torch.empty(0, 1), torch.zeros(len(addresses), dtype=torch.bool)


def encoders(
    retrieval: RetrievalSet, folders: Mapping[str, Path | None], precision: torch.dtype | None, captions: bool
) -> dict[str, DualEncoder]:
    """The dual encoder as it comes, with the release's configuration, and the models of `folders`."""
    from conversion.assemble_univl_dr_mini import assemble, untrained
    from modeling_unimur import UniVLDRModel, UniVLDRProcessor
    from modeling_unimur.encoding.encoder import Encoder
    from modeling_unimur.training.documents import PooledImages

    made = {UNTRAINED: untrained()}
    for name, folder in folders.items():
        folder = folder or assemble()
        made[name] = UniVLDRModel.from_pretrained(folder), UniVLDRProcessor.from_pretrained(folder)
    # One frozen image tower: its outputs are the same for all.
    pooled = no_images if captions else PooledImages(*made[UNTRAINED], retrieval.corpus["image"][:]).lookup
    return {name: Encoder(*pair, precision=precision, pooled=pooled) for name, pair in made.items()}


def measure(
    corpus: str, retrieval: RetrievalSet, models: Mapping[str, DualEncoder], dims: Sequence[int] = ()
) -> dict[str, float]:
    """All figures of one corpus."""
    task, dev = (RetrievalTask.from_set(retrieval, split, LEAST_SCORE) for split in ("test", "validation"))
    rows = Rows(task)
    rows.add("bm25", bm25_system(task.query_texts, task.doc_texts, task.is_image))
    figures = {"questions": len(task.query_ids), "images": int(task.is_image.sum())}
    figures["texts"] = len(task.doc_ids) - figures["images"]
    counts = [figures["questions"], len(dev.query_ids)]
    figures["all_questions"] = sum(counts)
    for name, encoder in models.items():
        space = Space(encoder, task, dev)
        beside, weight = with_bm25(name, space)
        rows.add(name, space.system())
        rows.add(f"{name}_hybrid", beside[HYBRID.format(name)])
        figures[f"{name}_bm25_weight"] = weight.value
        # What the validation questions come to without BM25 is among the weights that were tried.
        splits = [rows.found.interval(name, "both mrr@10").mean, weight.tried[0.0]]
        figures[f"{name}_all"] = float(np.average(splits, weights=counts))
        for dim in dims:
            found = setting_figures(space.system(dim), task, ("both",)).values["both mrr@10"]
            figures[f"{name}_{dim}"] = float(found.mean())
    for name in rows.found.systems:
        figures |= interval_figures(name, rows.found.interval(name, "both mrr@10"))
    for name in (name for name in models if name != UNTRAINED):
        for end in ("", "_hybrid"):
            found = rows.difference(name + end, UNTRAINED + end)
            figures |= interval_figures(f"{name}{end}_over_{UNTRAINED}{end}", found)
    return {f"{corpus}_{name}": value for name, value in figures.items()}


def kept_figures(measured: Sequence[str]) -> dict[str, float]:
    """Figures of the file, of the corpora that are not measured now."""
    path = RESULTS / "manuals.json"
    known = json.loads(path.read_text(encoding="utf-8"))["figures"] if path.is_file() else {}
    others = tuple(f"{corpus}_" for corpus in CORPORA if corpus not in measured)
    return {name: value for name, value in known.items() if name.startswith(others)}


def _named_folder(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not equals or not name.isidentifier() or name in (UNTRAINED, "bm25"):
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=FOLDER")
    return name, Path(folder)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--corpora", nargs="+", default=list(CORPORA), help=f"default: {' '.join(CORPORA)}")
    parser.add_argument("--model", action="append", type=_named_folder, default=[], metavar="NAME=FOLDER")
    parser.add_argument("--dims", nargs="+", type=int, default=[], metavar="N", help="widths of truncated vectors")
    parser.add_argument("--bf16", action="store_true", help="encode under bfloat16 autocast")
    parser.add_argument("--captions", action="store_true", help="leave the images out: captions stand for them")
    args = parser.parse_args()
    figures: dict[str, float] = {}
    corpora = ["quick"] if args.quick else args.corpora
    for corpus in corpora:
        if args.quick:
            retrieval = quick_set()
            models = {UNTRAINED: RandomEncoder(args.seed), RELEASE: RandomEncoder(args.seed + 1)}
        else:
            from modeling_unimur.data.registry import load_retrieval_set

            retrieval = load_retrieval_set(corpus)
            folders = {RELEASE: None, **dict(args.model)}
            models = encoders(retrieval, folders, torch.bfloat16 if args.bf16 else None, args.captions)
        figures |= measure(corpus, retrieval, models, args.dims)
    if not args.quick:
        figures |= kept_figures(corpora)
        corpora = [corpus for corpus in CORPORA if f"{corpus}_bm25" in figures]
    for name in ("bm25", *(f"{name}{end}" for name in models for end in ("", "_hybrid"))):
        if all(f"{corpus}_{name}" in figures for corpus in corpora):
            figures[f"mean_{name}"] = float(np.mean([figures[f"{corpus}_{name}"] for corpus in corpora]))
    shown = "captions of images" if args.captions else "images"
    report("manuals", args, figures, [f"passages and {shown} in one ranking; MRR@10 in percent"])


if __name__ == "__main__":
    main()
