"""A chat of twenty turns through the pipeline: with the cache of its keys and values, and reading it anew each turn.

    python benchmarks/chat.py [--quick] [--model FOLDER]

Every turn is one message of about twenty words; candidates are a few texts. Both pipelines answer the chat after every
message:

- `turn_20_speedup`: time of the answer after message 20 read anew, over that with the cache; `turn_10_speedup`;
- `cached_ms_turn_N`, `anew_ms_turn_N`: of an answer, N = 2, 10, 20; the least of seven chats;
- `chat_speedup`: over all answers together;
- `largest_difference`: of the embeddings, over all turns;
- `cache_mib`: keys and values of the whole chat.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.harness import argument_parser, report, watched
from modeling_unimur import MultimodalRetrievalPipeline, UniMuRModel, UniMuRProcessor

TURNS, CHATS, QUICK_CHATS = 20, 7, 2
_SENTENCE = (
    "yesterday we walked along the river and saw an old red boat that nobody had painted for years so I thought of "
    "you and of the summer when we built a small one out of wood"
)
_WORDS = _SENTENCE.split()


def chat(number: int) -> list[dict]:
    """Messages that no other chat begins with."""
    messages = []
    for turn in range(TURNS):
        start = (7 * turn + 3 * number) % len(_WORDS)
        words = [f"{number}.{turn}:", *(_WORDS * 2)[start : start + 20]]
        messages.append({"role": "user" if turn % 2 == 0 else "assistant", "content": " ".join(words)})
    return messages


def run(args: argparse.Namespace) -> dict[str, float]:
    """All figures of one run."""
    model, processor = UniMuRModel.from_pretrained(args.model), UniMuRProcessor.from_pretrained(args.model)
    retrievers = {}
    for name in ("cached", "anew"):
        retrievers[name] = MultimodalRetrievalPipeline(model=model, processor=processor)
        retrievers[name].add(texts=[" ".join(_WORDS[n : n + 6]) for n in range(20)])
    retrievers["anew"].chats.max_bytes = 0
    times: dict[str, list[list[float]]] = {name: [[] for _ in range(TURNS + 1)] for name in retrievers}
    difference = 0.0
    for number in range(QUICK_CHATS if args.quick else CHATS):
        messages = chat(number)
        for turns in range(2, TURNS + 1):
            for name, retriever in retrievers.items():
                start = time.perf_counter()
                retriever(messages[:turns])
                times[name][turns].append(time.perf_counter() - start)
            if number == 0:
                with torch.inference_mode():
                    found = retrievers["cached"].chats.embed(messages[:turns])
                plain = retrievers["anew"].embed(messages[:turns])
                difference = max(difference, float((found - plain).abs().max()))
    best = {name: [min(seconds, default=0.0) for seconds in turns] for name, turns in times.items()}
    figures = {f"turn_{turn}_speedup": best["anew"][turn] / best["cached"][turn] for turn in (10, TURNS)}
    figures["chat_speedup"] = sum(best["anew"]) / sum(best["cached"])
    for name, seconds in best.items():
        figures.update({f"{name}_ms_turn_{turn}": 1000 * seconds[turn] for turn in (2, 10, TURNS)})
    kept = retrievers["cached"].chats
    return {**figures, "largest_difference": difference, "cache_mib": kept.num_bytes / len(kept) / 2**20}


def main() -> None:
    args = argument_parser(__doc__, "unimur-mini").parse_args()
    with watched():
        figures = run(args)
    report("chat", args, figures, [f"{args.model.name}, {torch.get_num_threads()} threads"])


if __name__ == "__main__":
    main()
