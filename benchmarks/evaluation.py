"""The papers' protocols: what sharing a cache saves, and what ready embeddings cost in MMDialog's pools.

    python benchmarks/evaluation.py [--quick]

- `answer_ranking_speedup`: 100 answer options for each of 10 rounds of a dialogue about an image, by likelihood, on
  the full release in float32: all behind one cache, over each option from the start in batches of 20 (FROMAGe's way,
  with vocabulary logits at the options' tokens alone). `answer_score_error` is the largest difference of a score.
- `turn_encoding_speedup`: the unified embeddings of all contexts of a dialogue of 20 turns: one pass over what they
  share, over each context anew in batches of like length. `turn_error` is the largest difference of a value.
- `pools_seconds`, `pools_peak_gib`: 10,000 dialogues of 3.58 replies, each with a text and an image among its
  dialogue's own 1,000 + 1,000 candidates out of 46,000 texts and 24,000 images, ranked from ready embeddings of 512
  values in a fresh process; the peak is that of the whole process, embeddings included.

The words are drawn by the seed; time depends on the number of tokens, which `answer_tokens`, `option_tokens` and
`turn_tokens` give.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.harness import (
    LONG_ROUNDS,
    MIN_ROUNDS,
    alternate,
    argument_parser,
    in_fresh_process,
    peak_mib,
    random_unit_vectors,
    report,
    reset_peak,
    watched,
)
from modeling_unimur.cli.retriever import open_retriever
from modeling_unimur.evaluation.answer_ranking import AnswerScorer, Question
from modeling_unimur.evaluation.tasks.replies import rank_in_pools
from modeling_unimur.evaluation.turn_encoding import TurnEncoder

ROUNDS, OPTIONS, TURNS = 10, 100, 20
# Of MMDialog's test: 45,801 turns in 10,000 dialogues, whose first is no reply; candidates beside each right one.
DIALOGUES, REPLIES, NEGATIVES, TEXTS, IMAGES, WIDTH = 10_000, 3.58, 999, 46_000, 24_000, 512
_WORDS = (
    "a the is it there on in with and red blue white small large man woman dog cat car tree house street table window "
    "shirt hat grass water sky standing sitting looking holding wearing one two some no yes maybe behind near"
)


def sentence(rng: random.Random, least: int, most: int) -> str:
    """Some words."""
    return " ".join(rng.choices(_WORDS.split(), k=rng.randint(least, most)))


def questions(seed: int, rounds: int, options: int, image: str) -> list[Question]:
    """The rounds of one dialogue, as VisDial has them: questions of 4 to 7 words, answers of 1 to 6."""
    rng, lines, found = random.Random(seed), [], []
    for _ in range(rounds):
        lines += [f"Q: {sentence(rng, 4, 7)}?", "A:"]
        content = [{"type": "image", "image": image}, {"type": "text", "text": "\n".join(lines)}]
        answers = [f" {sentence(rng, 1, 6)}" for _ in range(options)]
        found.append(Question([{"role": "user", "content": content}], answers))
        lines[-1] += answers[0]
    return found


def contexts(seed: int, turns: int) -> list[list[dict]]:
    """The beginnings of a dialogue whose turns have 8 to 24 words (15.8 tokens on the average in MMDialog)."""
    rng = random.Random(seed)
    messages = [
        {"role": ("user", "assistant")[n % 2], "content": [{"type": "text", "text": sentence(rng, 8, 24)}]}
        for n in range(turns)
    ]
    return [messages[:end] for end in range(1, turns + 1)]


def sharing(args: argparse.Namespace) -> dict[str, float]:
    """What one cache saves."""
    retriever = open_retriever(args.model)
    model, processor = retriever.model.float(), retriever.processor
    rounds, options, turns = (3, 20, 8) if args.quick else (ROUNDS, OPTIONS, TURNS)

    asked = questions(args.seed, rounds, options, str(args.image))
    shared, plain = (AnswerScorer(model, processor, share=share) for share in (True, False))
    scores: dict[str, list] = {}
    timings = alternate(
        {
            "plain": lambda: scores.update(plain=plain.score(asked)),
            "shared": lambda: scores.update(shared=shared.score(asked)),
        },
        LONG_ROUNDS,
        reference="shared",
        quick=args.quick,
    )
    error = max(float(np.abs(one - two).max()) for one, two in zip(scores["plain"], scores["shared"], strict=True))
    tokenizer = processor.tokenizer
    whole = tokenizer(asked[-1].messages[0]["content"][1]["text"], add_special_tokens=False)["input_ids"]
    every = [len(row) for part in asked for row in tokenizer(part.options, add_special_tokens=False)["input_ids"]]
    figures = {
        "answer_ranking_speedup": timings.seconds["plain"] / timings.seconds["shared"],
        "answer_score_error": error,
        "answers_seconds": timings.seconds["shared"],
        "answers_plain_seconds": timings.seconds["plain"],
        "answer_tokens": len(whole),
        "option_tokens": sum(every) / len(every),
    }

    group = contexts(args.seed, turns)
    shared, plain = (TurnEncoder(model, processor, share=share) for share in (True, False))
    figures["turn_error"] = float((shared.encode([group]) - plain.encode([group])).abs().max())
    timings = alternate(
        {"plain": lambda: plain.encode([group]), "shared": lambda: shared.encode([group])},
        reference="shared",
        quick=args.quick,
    )
    figures["turn_encoding_speedup"] = timings.seconds["plain"] / timings.seconds["shared"]
    figures["turns_seconds"] = timings.seconds["shared"]
    figures["turns_plain_seconds"] = timings.seconds["plain"]
    figures["turn_tokens"] = processor.process_context([group[-1]])["input_ids"].shape[1]
    return figures


def pools(seed: int, dialogues: int) -> dict[str, float]:
    """Ranks texts and images in every dialogue's own pools, from embeddings that are there."""
    rng = np.random.default_rng(seed)
    reset_peak()
    replies = round(dialogues * REPLIES)
    owners = np.sort(rng.integers(0, dialogues, replies))
    queries, work = random_unit_vectors(rng, replies, WIDTH), {}
    for kind, count in (("text", TEXTS), ("image", IMAGES)):
        negatives = [rng.integers(0, count, NEGATIVES).astype(np.int32) for _ in range(dialogues)]
        work[kind] = random_unit_vectors(rng, count, WIDTH), rng.integers(0, count, replies), negatives
    start = time.perf_counter()
    for candidates, golds, negatives in work.values():
        rank_in_pools(
            lambda rows, chosen, candidates=candidates: queries[rows] @ candidates[chosen].T,
            np.arange(replies),
            owners,
            golds,
            negatives,
        )
    return {"pools_seconds": time.perf_counter() - start, "pools_peak_gib": peak_mib() / 1024}


def main() -> None:
    parser = argument_parser(__doc__, "unimur-mini")
    parser.add_argument("--image", type=Path, help="that the answers are about; one of the images by default")
    args = parser.parse_args()
    if args.image is None:
        from modeling_unimur.evaluation.compare_dialogues import benchmark_gallery

        args.image = benchmark_gallery("dev")["image"][0]
    dialogues = 200 if args.quick else DIALOGUES
    with watched():
        figures = in_fresh_process(pools, args.seed, dialogues)
    with torch.inference_mode():
        figures = {**sharing(args), **figures, "pools_dialogues": dialogues}
    notes = [
        f"dtype float32; minimum of {LONG_ROUNDS} rounds (answers) or {MIN_ROUNDS} (turns), variants in turn",
        f"{ROUNDS} rounds of {OPTIONS} options; {TURNS} turns; pools of {NEGATIVES + 1} texts and as many images",
    ]
    report("evaluation", args, figures, notes)


if __name__ == "__main__":
    main()
