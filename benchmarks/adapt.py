"""`unimur adapt` on a ready index: how long it takes, and what a conversation finds there before and after.

    python benchmarks/adapt.py [--quick]

The index is made beforehand: definitions from WordNet in the space of MiniLM (all-MiniLM-L6-v2, the text tower of the
small dual encoder), 10,000 of them. The language model is SmolLM2-135M-Instruct; it never saw that space.

- `adapt_seconds`: the whole call, loading included.
- `<set>_r1_untrained`, `<set>_r1`, `<set>_r10`: recall in percent on texts and dialogues that no fit has seen, before
  and after; `<set>_r1_closed_form`: of the ridge regression alone.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.harness import argument_parser, report
from modeling_unimur import UniMuRModel, UniMuRProcessor
from modeling_unimur.data.dialogues import load_glosses
from modeling_unimur.data.json_lines import write_json_lines
from modeling_unimur.data.packages import cache_dir
from modeling_unimur.evaluation.systems import ClipSpace
from modeling_unimur.training.adapt import AdaptOptions, adapt

TEXTS, QUICK_TEXTS = 10_000, 120


def main() -> None:
    parser = argument_parser(__doc__)
    args = parser.parse_args()
    models, count = cache_dir() / "models", QUICK_TEXTS if args.quick else TEXTS
    rows = load_glosses()["train"]
    texts = list(dict.fromkeys(rows["gloss"]))
    texts = [texts[number * len(texts) // count] for number in range(count)]
    mini = models / "unimur-mini"
    space = ClipSpace(UniMuRModel.from_pretrained(mini), UniMuRProcessor.from_pretrained(mini))
    vectors = space.texts(texts, desc="The ready index").numpy()
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "vectors.npy", vectors)
        write_json_lines(Path(folder) / "texts.jsonl", ({"id": f"g{n}", "text": t} for n, t in enumerate(texts)))
        start = time.perf_counter()
        results = adapt(
            Path(folder) / "vectors.npy",
            Path(folder) / "texts.jsonl",
            models / "smollm2-135m-instruct",
            Path(folder) / "heads",
            options=AdaptOptions(seed=args.seed, **({"contexts": 200} if args.quick else {})),
        )
        seconds = time.perf_counter() - start
        size = (Path(folder) / "heads" / "model.safetensors").stat().st_size
    figures: dict[str, float] = {"adapt_seconds": seconds, "heads_megabytes": size / 1e6, "texts": count}
    for name, found in results["held_out"].items():
        figures[f"{name}_queries"], figures[f"{name}_candidates"] = found["queries"], found["candidates"]
        figures[f"{name}_r1_untrained"] = found["untrained"]["r1"]
        figures[f"{name}_r1_closed_form"] = found["closed_form"]["r1"]
        figures[f"{name}_r1"], figures[f"{name}_r10"] = (found[results["kept"]][key] for key in ("r1", "r10"))
    report("adapt", args, figures, notes=[f"heads kept: {results['kept'].replace('_', ' ')}"])


if __name__ == "__main__":
    main()
