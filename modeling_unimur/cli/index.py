"""`unimur index`: encode a corpus into an index, update it, and search it."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import sys

from ..index.precision import PRECISIONS
from .arguments import (
    add_model_and_index,
    add_reranker,
    add_trust,
    non_negative_integer,
    opened_reranker,
    opening_arguments,
    positive_integer,
)
from .errors import CommandError

_CONDITION = re.compile(r"(?P<key>[^<>=]+)(?P<sign>>=|<=|=|>|<)(?P<value>.*)", re.DOTALL)
_SIGNS = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this sub-command's arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    build = actions.add_parser("build", help="encode a source into an index; continues an interrupted build")
    update = actions.add_parser("update", help="update an index from its source: new, changed and deleted items")
    search = actions.add_parser("search", help="search an index with a dialogue of one turn")
    tune = actions.add_parser("tune-hybrid", help="compare weights of BM25 by questions with known answers")
    for child in (build, update):
        child.add_argument(
            "source",
            metavar="SOURCE",
            help="a folder of images, tables and archives; .parquet, .tar (webdataset), .jsonl, .txt as file or "
            "pattern; or a retrieval set such as gimp_manual",
        )
        add_model_and_index(child)
        child.add_argument("--work", metavar="DIR", help="folder for vectors and manifest (default: beside the index)")
        child.add_argument("--engine", choices=("local", "ray"), default="local", help="default: this process, or "
                           "those of torchrun")  # fmt: skip
        child.add_argument(
            "--ray-address", metavar="ADDRESS", help="address of a Ray cluster (default: start one on this machine)"
        )
        child.add_argument(
            "--ray-workers", type=positive_integer, default=2, metavar="N", help="number of encoders (default: 2)"
        )
        child.add_argument(
            "--workers",
            type=non_negative_integer,
            metavar="N",
            help="decoding processes per encoder (default: the spare CPUs)",
        )
        child.add_argument("--batch-size", type=positive_integer, default=32, metavar="N", help="default: 32")
        child.add_argument(
            "--chunk-size",
            type=positive_integer,
            default=1024,
            metavar="N",
            help="items per stored chunk (default: 1024)",
        )
        child.add_argument(
            "--prune",
            action="store_true",
            help="remove items that are gone from the source even if they are more than 20 and more than a tenth",
        )
        child.add_argument("--moved-from", metavar="SOURCE", help="previous location of SOURCE, whose ids are kept")
        child.add_argument(
            "--bm25", action="store_true", help="keep the words of texts and captions too, for search --hybrid"
        )
        child.add_argument(
            "--context",
            type=_context,
            metavar="FIELD=WEIGHT",
            help="give each image a share of the texts with the same FIELD, such as section=0.5 (default: as built)",
        )
        child.add_argument("--device", help="device of the model (default: an accelerator if available)")
    build.add_argument("--kind", metavar="KIND", help="type of a new index: Flat, HNSW32, IVF1024,PQ48, memory, ... "
                       "(default: Flat)")  # fmt: skip
    build.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="precision of a new index: binary with --kind memory, int8 also with Flat, HNSW32 and IVF1024,Flat "
        "(default: float32)",
    )
    build.add_argument(
        "--truncate-dim",
        type=positive_integer,
        metavar="N",
        help="keep the first N numbers of each vector in a new index (default: all)",
    )
    search.add_argument("query", metavar="TEXT", nargs="?", help="text of the query")
    search.add_argument("--image", metavar="PATH", help="image of the query")
    add_model_and_index(search)
    search.add_argument("--modality", choices=("both", "text", "image", "joint", "pair"), default="both")
    search.add_argument("--coherent", action="store_true", help="prefer texts and images that agree with each other")
    search.add_argument(
        "--hybrid",
        type=hybrid_setting,
        metavar="WEIGHT",
        help="search words too: weight of BM25 from 0 to 1, or rrf (reciprocal rank fusion)",
    )
    add_reranker(search, "rescore the best hits")
    search.add_argument("--top-k", type=positive_integer, default=5, metavar="N", help="default: 5")
    search.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="condition on payloads: licence=cc0, 'year>=2020'",
    )
    add_trust(search)
    tune.add_argument(
        "questions", metavar="QUESTIONS", help='JSON lines {"query": text, "ids": [ids of texts and images]}'
    )
    add_model_and_index(tune)
    tune.add_argument("--modality", choices=("text", "image", "joint"), default="joint", help="default: joint")
    tune.add_argument("--top-k", type=positive_integer, default=10, metavar="N", help="default: 10")
    add_trust(tune)
    for child in (search, tune):
        child.add_argument("--json", action="store_true", help="print JSON")


def hybrid_setting(text: str) -> float | str:
    """A weight of BM25 from 0 to 1, or `rrf`."""
    from ..index.hybrid import check_hybrid

    value: float | str = text
    with contextlib.suppress(ValueError):
        value = float(text)
    try:
        return check_hybrid(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _context(text: str) -> tuple[str, float]:
    """A field of payloads and a weight, from `section=0.5`."""
    from ..encoding.context import check_context

    field, _, weight = text.rpartition("=")
    try:
        return check_context((field, float(weight)))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: write FIELD=WEIGHT, such as section=0.5") from error


def read_conditions(words: list[str]) -> dict:
    """Conditions as `search` takes them, from `key=value`, `key>=value` and so on; values are JSON where they can be.

    Raises:
        CommandError: for what is no condition.
    """
    where: dict = {}
    for word in words:
        found = _CONDITION.fullmatch(word)
        if found is None:
            raise CommandError(f"--where {word}: write key=value, or >=, <=, >, < in place of =")
        key, value = found["key"].strip(), found["value"].strip()
        with contextlib.suppress(ValueError):
            value = json.loads(value)
        if found["sign"] == "=":
            where[key] = value
        else:
            where[key] = {**(where[key] if isinstance(where.get(key), dict) else {}), _SIGNS[found["sign"]]: value}
    return where


def run(args: argparse.Namespace) -> int:
    """Carry out the action and return the exit status."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # decoding processes are forked
    return {"search": _search, "tune-hybrid": _tune}.get(args.action, _build)(args)


def _build(args: argparse.Namespace) -> int:
    from ..encoding.build import BuildOptions, build_index
    from .retriever import model_folder

    names = {field.name for field in dataclasses.fields(BuildOptions)} - {"index", "show_progress"}
    options = {name: value for name, value in vars(args).items() if name in names}
    options = BuildOptions(index=getattr(args, "kind", None), show_progress=sys.stderr.isatty(), **options)
    model = model_folder(args.model)
    report = build_index(args.source, model, args.index, options, must_exist=args.action == "update")
    if not report.skipped_file:  # another rank than the first
        return 0
    print(
        f"{report.items:,} items in {args.index}: {report.added:,} added, {report.replaced:,} replaced, "
        f"{report.removed:,} removed, {report.unchanged:,} unchanged. {report.encoded:,} contents encoded in "
        f"{report.seconds:.1f} s."
    )
    if report.skipped:
        print(f"{report.skipped:,} items were skipped: {report.skipped_file}")
        for reason, count in report.reasons.items():
            print(f"{count:>9,} x {reason}")
    return 0


def _search(args: argparse.Namespace) -> int:
    from ..index.hybrid import require_words
    from .retriever import model_folder, open_with_index
    from .terminal import Terminal

    where = read_conditions(args.where)
    parts = [{"type": "text", "text": args.query}] if args.query else []
    parts += [{"type": "image", "image": args.image}] if args.image else []
    if not parts:
        raise CommandError("what to search for? Give a TEXT, an --image, or both")
    model, opening, reranker = model_folder(args.model), opening_arguments(args), opened_reranker(args)
    if args.hybrid is not None:
        require_words(args.index)
    retriever = open_with_index(model, args.index, args.collection, **opening)
    messages = [{"role": "user", "content": parts}]
    options = {"top_k": args.top_k, "modality": args.modality, "coherent": args.coherent, "hybrid": args.hybrid}
    options |= {"reranker": reranker, "rerank_top_k": args.rerank_top_k}
    found = retriever(messages, where=where or None, **options)
    for reason, count in getattr(reranker, "skipped", {}).items():
        print(f"{count:,} hits were not rescored: {reason}", file=sys.stderr)
    if args.json:
        print(json.dumps(found, ensure_ascii=False))
        return 0
    terminal = Terminal(sys.stdout)
    for kind, hits in (found if isinstance(found, dict) else {args.modality: found}).items():
        terminal.write(f"{kind}:")
        for hit in hits:
            parts = [hit["text"], hit["image"]] if kind == "pair" else [hit]
            terminal.write(f"  {hit['score']:.3f}  {'  +  '.join(map(_line, parts))}")
    return 0


def _tune(args: argparse.Namespace) -> int:
    from ..index.hybrid import FUSED_DEPTH, RRF, best_weight, candidates, compare_weights, require_words
    from ..memory_index import KINDS
    from .retriever import model_folder, open_with_index

    questions = read_questions(args.questions)
    require_words(args.index)
    model, opening = model_folder(args.model), opening_arguments(args)
    retriever = open_with_index(model, args.index, args.collection, **opening)
    queries, relevant = map(list, zip(*questions, strict=True))
    kind = None if args.modality == "joint" else args.modality
    kinds = KINDS if kind is None else (kind,)
    asked = set().union(*relevant)
    missing = sorted(item for item in asked if not any((one, item) in retriever.index for one in kinds))
    if len(missing) == len(asked):
        raise CommandError(
            f"{args.questions}: none of the {len(asked)} ids is in {args.index}, such as {missing[0]!r}"
        )
    depth = max(FUSED_DEPTH, args.top_k)
    found = candidates(retriever.index, retriever.embed(queries), queries, depth, kind)
    measures = compare_weights(found, relevant, args.top_k)
    best = best_weight(measures)
    if args.json:
        rows = {str(hybrid): {"mrr": mrr, "recall": recall} for hybrid, (mrr, recall) in measures.items()}
        print(json.dumps({"hybrid": best, "questions": len(queries), "missing_ids": len(missing), "measures": rows}))
        return 0
    print(f"{len(queries):,} questions, {len(missing):,} of {len(asked):,} ids are not in the index")
    print(f"{'hybrid':24}{f'MRR@{args.top_k}':>10}{f'recall@{args.top_k}':>12}")
    names = {0.0: "0 (vectors alone)", 1.0: "1 (BM25 alone)", RRF: RRF}
    for hybrid, (mrr, recall) in measures.items():
        mark = "  best" if hybrid == best else ""
        print(f"{names.get(hybrid, str(hybrid)):24}{100 * mrr:10.1f}{100 * recall:12.1f}{mark}")
    print(f"use --hybrid {best:g}" if best != RRF else f"use --hybrid {RRF}")
    return 0


def read_questions(path: str) -> list[tuple[str, set[str]]]:
    """Questions and the ids that answer them, from JSON lines.

    Raises:
        CommandError: a line without a text `query` or a list of `ids`; the message names it; or no line.
    """
    from ..data.json_lines import read_json_lines

    found = []
    for number, record in read_json_lines(path):
        query, ids = (record.get(name) for name in ("query", "ids")) if isinstance(record, dict) else (None, None)
        good = isinstance(ids, list) and ids and all(isinstance(item, str) for item in ids)
        if not (good and isinstance(query, str) and query.strip()):
            raise CommandError(f'{path}, line {number}: write {{"query": "a text", "ids": ["at least one id"]}}')
        found.append((query, set(ids)))
    if not found:
        raise CommandError(f"{path} holds no questions")
    return found


def _line(hit: dict) -> str:
    named = hit.get("text") or hit.get("caption") or hit.get("image") or hit["id"]
    return hit["id"] + (f"  {named}" if named != hit["id"] else "")
