"""`unimur adapt`: fit heads for an existing index."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import positive_integer
from .errors import CommandError

_ROWS = (
    ("chance", "a random order"),
    ("untrained", "heads before anything"),
    ("closed_form", "heads, closed form"),
    ("sharpened", "heads, sharpened"),
    ("encoder", "the encoder itself"),
    ("anchored", "encoder and heads"),
    *((f"{kept}_own_metric", "written, lengths kept") for kept in ("closed_form", "sharpened", "encoder", "anchored")),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `unimur adapt`."""
    parser.add_argument("embeddings", metavar="EMBEDDINGS", help="vectors: .npy, .parquet, or a FAISS index")
    parser.add_argument(
        "--texts", metavar="FILE", help="one text per vector: .jsonl or .parquet with text, id, kind, image; or .txt"
    )
    parser.add_argument(
        "--language-model", required=True, metavar="ID", help="causal language model: a folder or a Hub id"
    )
    parser.add_argument("--output", required=True, metavar="FOLDER", help="folder for the heads and the index")
    parser.add_argument(
        "--encoder",
        metavar="ID",
        help="model that made the vectors; its own query vectors are then corrected by the heads",
    )
    parser.add_argument(
        "--chats", metavar="FILE", help="your own chats to train on, JSON lines of chat messages; needs --encoder"
    )
    parser.add_argument(
        "--kind", choices=("text", "image"), default="text", help="kind of items that do not specify it"
    )
    parser.add_argument(
        "--vector-column", metavar="NAME", help="column to use in a parquet file with several columns of vectors"
    )
    parser.add_argument(
        "--contexts", type=positive_integer, metavar="N", help="maximum number of training contexts (default: 10000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    parser.add_argument("--no-index", action="store_true", help="do not write an index beside the heads")


def run(args: argparse.Namespace) -> int:
    """Fits heads and prints their recalls, those of the baselines, and how to query."""
    for name in filter(None, (args.embeddings, args.texts, args.chats)):
        if not Path(name).expanduser().is_file():
            raise CommandError(f"there is no file {name}")
    from ..training.adapt import INDEX_FOLDER, AdaptOptions, adapt

    given = {name: getattr(args, name) for name in ("contexts", "seed") if getattr(args, name) is not None}
    results = adapt(
        args.embeddings,
        args.texts,
        args.language_model,
        args.output,
        encoder=args.encoder,
        chats=args.chats,
        kind=args.kind,
        vector_column=args.vector_column,
        save_index=not args.no_index,
        options=AdaptOptions(**given),
    )
    for line in report(results):
        print(line)
    print(f"Written to {args.output}. To query it:")
    print(f'  retriever = pipeline("multimodal-retrieval", model="{args.output}", trust_remote_code=True)')
    if not args.no_index:
        print(f'  retriever.load_index("{Path(args.output) / INDEX_FOLDER}"); retriever("...", top_k=5)')
    print("  your_index.search(retriever.embed(dialogue).numpy(), 10)  # your own, in place")
    return 0


def report(results: dict) -> list[str]:
    """The lines that report the results of `adapt`."""
    items = ", ".join(f"{count:,} {kind}s" for kind, count in results["items"].items() if count)
    lines = [
        f"{items} of {results['width']} numbers; {results['trained_parameters']:,} parameters trained on "
        f"{results['contexts']:,} contexts in {sum(results['seconds'].values()):.0f} s"
    ]
    lines += [f"Note: {note}" for note in results["notes"]]
    for name, row in results["held_out"].items():
        words = name.replace("_", " ").capitalize()
        lines.append(f"{words}: {row['queries']} held out, among {row['candidates']:,} (percent)")
        lines.append(f"  {'':<22}{'R@1':>7}{'R@10':>7}")
        for key, label in _ROWS:
            if key in row:
                lines.append(f"  {label:<22}{row[key]['r1']:>7.1f}{row[key]['r10']:>7.1f}")
    lines.append(_written(results))
    if any(name == "text_to_text" for name in results["held_out"]) and results["encoder"]:
        lines.append("From a whole text to its own vector the encoder is right by definition: its row is the ceiling.")
    return lines


def _written(results: dict) -> str:
    """The line that says which variant was written and why."""
    anchor, judged = results.get("anchor"), "further texts and dialogues that nothing was fitted on"
    if anchor is None:
        words = results["kept"].replace("_", " ")
        return f"Written: {words}, which found most of further texts that none of them was fitted on."
    if results["kept"] == "encoder":
        return f"Written: the encoder alone; on {judged}, neither the last turn nor the heads found more."
    words = anchor["readout"].replace("_", " ")
    return (
        f"Written: the encoder's whole dialogue + {anchor['last_weight']:g} last turn + {anchor['readout_weight']:g} "
        f"heads ({words}), which is nowhere below the encoder alone on {judged}."
    )
