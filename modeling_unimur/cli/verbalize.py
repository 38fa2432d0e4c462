"""`unimur verbalize`: describe the images of a retrieval set in words."""

from __future__ import annotations

import argparse
from pathlib import Path

from .errors import CommandError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `unimur verbalize`."""
    parser.add_argument("source", metavar="SET", help="gimp_manual, webqa=PATH or folder=PATH")
    parser.add_argument(
        "--by",
        required=True,
        metavar="NAME",
        help="ocr, ocr=LANGUAGE, unimur=FOLDER, or model=ID (any image-to-text model)",
    )
    parser.add_argument(
        "--output", required=True, metavar="FILE.jsonl", help="output file with doc_id and words of each image"
    )
    parser.add_argument("--prompt", help="prompt for model=ID; {caption} is replaced by the image's caption")
    parser.add_argument(
        "--learn-queries",
        metavar="DIR",
        help="first train model=ID to write the queries of the training split and save it here; reuse an existing one",
    )
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="default: 8")
    parser.add_argument("--device", default="cpu", help="device of the model (default: cpu)")


def run(args: argparse.Namespace) -> int:
    """Describes images that have no words yet, resumes an interrupted call, and writes the file."""
    if not args.output.endswith(".jsonl"):
        raise CommandError(f"--output {args.output}: write FILE.jsonl")
    import logging

    from ..data.registry import load_retrieval_set
    from ..verbalization import open_verbalizer, train_query_writer, verbalize, write_words

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    retrieval, name = load_retrieval_set(args.source), args.by
    if args.learn_queries:
        kind, _, model = name.partition("=")
        if kind != "model":
            raise CommandError(f"--learn-queries teaches model=ID, not {name}")
        if not Path(args.learn_queries, "config.json").is_file():
            train_query_writer(model, retrieval, args.learn_queries, args.prompt)
        name = f"model={args.learn_queries}"
    words = verbalize(retrieval.corpus, open_verbalizer(name, args.prompt, args.device), args.batch_size)
    write_words(words, args.output)
    print(f"{len(words):,} images, {sum(map(bool, words.values())):,} of them with words: {args.output}")
    return 0
