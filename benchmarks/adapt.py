"""`unimur adapt` on a ready index: how long it takes, and what a conversation finds there before and after.

    python benchmarks/adapt.py [--quick] [--contexts N]

The index is made beforehand: definitions from WordNet in the space of MiniLM (all-MiniLM-L6-v2, of
sentence-transformers), 10,000 of them. The language model is SmolLM2-135M-Instruct; it never saw that space. The
encoder is at hand: half of the contexts are dialogues and glosses, and queries are its own, corrected by the heads.

- `adapt_seconds`, `adapt_cpu_seconds`: the whole call, loading included.
- `last_weight`, `readout_weight`: beside a weight of 1 on the encoder's vector of the whole dialogue.
- `chosen_<set>_mrr_encoder`, `_anchored`: mean reciprocal rank in percent on the contexts that chose the weights.
- `<set>_r1_untrained`, `_closed_form`, `_sharpened` (heads alone), `_encoder` (alone), `_anchored` (both together),
  and `_r10` of the last two: recall in percent on texts and dialogues that no fit and no choice has seen.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.harness import argument_parser, report, watched
from modeling_unimur.data.cache import cache_dir
from modeling_unimur.data.json_lines import write_json_lines
from modeling_unimur.training.adapt import AdaptOptions, adapt
from modeling_unimur.training.text_encoders import load_text_space
from unimur_mini.dialogues import load_glosses
from unimur_mini.packages import MINILM_REQUIREMENT, pip_package

TEXTS, QUICK_TEXTS = 10_000, 120


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--contexts", type=int, default=AdaptOptions.contexts, help="to train on, at most")
    args = parser.parse_args()
    contexts = min(args.contexts, 200) if args.quick else args.contexts
    count = QUICK_TEXTS if args.quick else TEXTS
    encoder = next(pip_package(MINILM_REQUIREMENT).rglob("modules.json")).parent
    rows = load_glosses()["train"]
    texts = list(dict.fromkeys(rows["gloss"]))
    texts = [texts[number * len(texts) // count] for number in range(count)]
    vectors = load_text_space(encoder).encode_documents(texts, desc="The ready index").numpy()
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "vectors.npy", vectors)
        write_json_lines(Path(folder) / "texts.jsonl", ({"id": f"g{n}", "text": t} for n, t in enumerate(texts)))
        start, cpu = time.perf_counter(), time.process_time()
        with watched():
            results = adapt(
                Path(folder) / "vectors.npy",
                Path(folder) / "texts.jsonl",
                cache_dir() / "models" / "smollm2-135m-instruct",
                Path(folder) / "heads",
                encoder=encoder,
                options=AdaptOptions(seed=args.seed, contexts=contexts),
            )
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        size = (Path(folder) / "heads" / "model.safetensors").stat().st_size
    anchor = results["anchor"]
    figures: dict[str, float] = {"adapt_seconds": seconds, "adapt_cpu_seconds": cpu, "heads_megabytes": size / 1e6}
    figures |= {"texts": count, "contexts": results["contexts"]}
    figures |= {name: anchor[name] for name in ("last_weight", "readout_weight")}
    for name, found in anchor["chosen_on"].items():
        figures |= {f"chosen_{name}_mrr_{which}": merit for which, merit in found.items()}
    for name, found in results["held_out"].items():
        figures[f"{name}_queries"], figures[f"{name}_candidates"] = found["queries"], found["candidates"]
        for which in ("untrained", "closed_form", "sharpened", "encoder", "anchored"):
            figures[f"{name}_r1_{which}"] = found[which]["r1"]
        figures |= {f"{name}_r10_{which}": found[which]["r10"] for which in ("encoder", "anchored")}
    kept = f"written: {results['kept']}, readout {anchor['readout'].replace('_', ' ')}"
    report("adapt", args, figures, notes=[kept, *results["notes"]])


if __name__ == "__main__":
    main()
