"""`unimur mine`: mine hard negatives of a retrieval set with a trained UniVL-DR."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import add_reranker
from .errors import CommandError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `unimur mine`."""
    parser.add_argument("model", metavar="FOLDER", help="folder of a UniVL-DR model")
    parser.add_argument("source", metavar="SET", help="gimp_manual, webqa=PATH or folder=PATH")
    parser.add_argument("--output", required=True, metavar="FILE", help="FILE.parquet or FILE.jsonl")
    parser.add_argument("--split", default="train", help="split of the queries (default: train)")
    parser.add_argument("--captions", default="raw", help="captions of UniVL-DR's data.zip: raw, expanded, query")
    parser.add_argument(
        "--deduplicate", help="documents of WebQA to merge: none (as released), texts, all (default: texts)"
    )
    parser.add_argument("--depth", type=int, default=100, help="number of ranks to take negatives from (default: 100)")
    parser.add_argument("--per-kind", action="store_true", help="rank texts and images separately, not jointly")
    parser.add_argument("--keep", type=int, metavar="N", help="maximum number of negatives per kind and query")
    parser.add_argument(
        "--max-similarity", type=float, metavar="COSINE", help="exclude documents at least this similar to a positive"
    )
    add_reranker(parser, "exclude what scores above the best positive", with_top_k=False)
    parser.add_argument("--max-score", type=float, metavar="SCORE", help="exclude what the reranker scores above this")
    parser.add_argument("--keep-same-text", action="store_true", help="keep copies of a positive's text")
    parser.add_argument("--keep-same-group", action="store_true", help="keep documents of a positive's section")
    parser.add_argument("--device", help="device of the model (default: an accelerator if available)")


def run(args: argparse.Namespace) -> int:
    """Mines, writes the file and prints how many there are."""
    if not (Path(args.model) / "config.json").is_file():
        raise CommandError(f"{args.model} is not a model folder: it holds no config.json")
    if Path(args.output).suffix not in (".parquet", ".jsonl"):
        raise CommandError(f"--output {args.output}: write FILE.parquet or FILE.jsonl")
    import logging

    import torch

    from .. import UniVLDRModel, UniVLDRProcessor
    from ..data.registry import load_retrieval_set
    from ..training.documents import DecodedImages, Documents
    from ..training.mining import MiningOptions, mine_rows, write_mined
    from ..training.query_rows import QueryRows

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = MiningOptions(
        depth=args.depth,
        joint=not args.per_kind,
        keep=args.keep,
        drop_same_text=not args.keep_same_text,
        drop_same_group=not args.keep_same_group,
        max_similarity=args.max_similarity,
        reranker=args.reranker,
        max_score=args.max_score,
    )
    retrieval = load_retrieval_set(args.source, args.captions, args.deduplicate)
    if args.split not in retrieval.queries:
        raise CommandError(f"--split {args.split}: the set has {', '.join(sorted(retrieval.queries))}")
    device = args.device or (torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu")
    model, processor = UniVLDRModel.from_pretrained(args.model), UniVLDRProcessor.from_pretrained(args.model)
    documents = Documents(retrieval)
    rows = QueryRows(retrieval, documents, args.split)
    images = None if model.config.fusion == "caption" else DecodedImages(processor)
    mined = mine_rows(model.to(device).eval(), processor, rows, documents, images, options)
    write_mined(mined, args.output)
    counts = [sum(map(len, kinds)) for kinds in zip(*mined.values(), strict=True)]
    print(f"{len(mined):,} queries, {counts[0]:,} images and {counts[1]:,} texts: {args.output}")
    return 0
