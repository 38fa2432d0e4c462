"""The pipeline on the full release: how fast it starts, how many dialogues it answers, and what our code adds.

    python benchmarks/pipeline.py [--quick]

Eight multi-turn dialogues, with and without images, one at a time (`batch1`) and together (`batch8`), float32; with
`--quick` two (`batch2`). In one run, on the same token ids and pixel tensors:

- `bare`: the language model's decoder on ready input vectors, the dual encoder's image tower and, for an anchored
  query, its text tower on the whole dialogue and on the last turn; nothing of ours;
- `model`: `get_multimodal_features`;
- `call`: the whole call of the pipeline, which reads and resizes image files, tokenises, embeds and searches;
- `decoding`, `tokenising`, `search`: those parts of the call on their own.

`overhead_percent` is what a call costs beyond `bare` and the decoding of images, over the time of `bare`, in the
worst of the four settings, `mean_overhead_percent` in all together; `call_over_bare_percent` counts the decoding too.
It can be negative: dialogues of like length run together, which saves padding. `cold_start_seconds` runs from an empty
Python to a pipeline that has answered once (files in the system's cache, median of 3), `cold_start_bare_seconds` to
both backbones loaded by transformers and run once.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.harness import alternate, argument_parser, report, watched
from unimur_mini.demo.default_gallery import images_by_id
from unimur_mini.demo.inputs import EXAMPLE_DIALOGUES, read_dialogues

BATCH, QUICK_BATCH = 8, 2
# The size of the demo's gallery and pool; the vectors are random, which costs a search as much.
GALLERY_IMAGES, GALLERY_TEXTS = 1500, 265
TOP_K = 3
COLD_STARTS = 3

_COLD_START = """
import sys, torch
from transformers import pipeline
retriever = pipeline("multimodal-retrieval", model=sys.argv[1], trust_remote_code=True)
retriever.add(texts=["Good morning!"])
retriever("hello there", top_k=1)
"""
_COLD_START_BARE = """
import sys, torch
from transformers import AutoModel, AutoModelForCausalLM
language_model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
clip = AutoModel.from_pretrained(sys.argv[2], trust_remote_code=True)
with torch.inference_mode():
    language_model.base_model(torch.tensor([[1, 2, 3]]))
    clip.get_text_features(torch.tensor([[1, 2, 3]]))
"""


def conversations(path: Path, count: int) -> dict[str, list[list[dict]]]:
    """`count` dialogues of a file without and as many with images (repeated where it has fewer), images as paths.

    Raises:
        ValueError: a file without one of both kinds.
    """
    dialogues = read_dialogues(path)
    known = images_by_id([image_id for dialogue in dialogues for image_id in dialogue.image_ids()])
    kinds: dict[str, list[list[dict]]] = {"text": [], "pictures": []}
    for dialogue in dialogues:
        _, messages = dialogue.resolved(known)
        parts = [part for m in messages if isinstance(m["content"], list) for part in m["content"]]
        kinds["pictures" if any(part["type"] == "image" for part in parts) else "text"].append(messages)
    if not all(kinds.values()):
        raise ValueError(f"{path} needs dialogues with and without images.")
    return {kind: (found * count)[:count] for kind, found in kinds.items()}


def open_pipeline(folder: Path, seed: int):
    """The pipeline of a full release, by the public road, with a gallery of random vectors."""
    from transformers import pipeline

    retriever = pipeline("multimodal-retrieval", model=str(folder), trust_remote_code=True, dtype=torch.float32)
    retriever.chats.max_bytes = 0  # the same dialogue many times over would be read once
    generator = torch.Generator().manual_seed(seed)
    for kind, count in (("image", GALLERY_IMAGES), ("text", GALLERY_TEXTS)):
        names = [f"{kind} {number}" for number in range(count)]
        vectors = torch.randn(count, retriever.model.config.embedding_width, generator=generator)
        retriever.add_embeddings(kind, names, vectors, names)
    return retriever


# -- cold start -------------------------------------------------------------------------------------------------------
def cold_starts(retriever, folder: Path, count: int) -> dict[str, float]:
    """Seconds from an empty process to the first answer, in turn with the bare backbones; medians."""
    times: dict[str, list[float]] = {"cold_start_seconds": [], "cold_start_bare_seconds": []}
    with tempfile.TemporaryDirectory() as parts:
        retriever.model.language_model.save_pretrained(Path(parts) / "language_model")
        retriever.model.clip.save_pretrained(Path(parts) / "clip")
        for code in folder.glob("*.py"):  # an open_clip model comes with its wrapper
            shutil.copy(code, Path(parts) / "clip")
        commands = {
            "cold_start_seconds": [_COLD_START, str(folder)],
            "cold_start_bare_seconds": [_COLD_START_BARE, f"{parts}/language_model", f"{parts}/clip"],
        }
        for _ in range(count):
            for name, command in commands.items():
                start = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, "-c", *command], capture_output=True, text=True, env=_offline(), check=False
                )
                if done.returncode:
                    raise RuntimeError(f"{name} failed: {done.stderr.strip().splitlines()[-1]}")
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def _offline() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}


# -- throughput -------------------------------------------------------------------------------------------------------
def parts_of_a_call(retriever, dialogues: list[list[dict]], size: int) -> dict[str, Callable[[], object]]:
    """Functions that take all dialogues, `size` at a time, through the call and through each part of it."""
    model, processor = retriever.model, retriever.processor
    batches = [dialogues[start : start + size] for start in range(0, len(dialogues), size)]
    prepared = [dict(processor.process_context(batch)) for batch in batches]
    files = [_image_files(batch) for batch in batches]
    with torch.no_grad():
        vectors = [_input_vectors(model, features) for features in prepared]
        turns = [_anchor_texts(features) for features in prepared]
        embeds = [{"embeds": model.get_multimodal_features(**features).pooler_output} for features in prepared]
    decoder = model.language_model.base_model

    @torch.inference_mode()
    def bare():
        for features, inputs, texts in zip(prepared, vectors, turns, strict=True):
            decoder(inputs_embeds=inputs, attention_mask=features["attention_mask"], use_cache=False)
            if "pixel_values" in features:
                model.clip.get_image_features(features["pixel_values"])
            for ids, mask in texts:
                model.clip.get_text_features(ids, attention_mask=mask)

    @torch.no_grad()
    def embed():
        for features in prepared:
            model.get_multimodal_features(**features)

    def decode():
        for paths in files:
            if paths:
                processor.process_images(paths)

    def preprocess():
        for batch in batches:
            processor.process_context(batch)

    def search():
        for output in embeds:
            retriever.postprocess(output, top_k=TOP_K)

    return {
        "bare": bare,
        "model": embed,
        "call": lambda: retriever(dialogues, top_k=TOP_K, batch_size=size),
        "decoding": decode,
        "preprocessing": preprocess,
        "search": search,
    }


def _image_files(dialogues: list[list[dict]]) -> list[str]:
    contents = [message["content"] for dialogue in dialogues for message in dialogue]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return [part["image"] for part in parts if part["type"] == "image"]


def _anchor_texts(features: dict) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Ids and mask of the whole dialogues and of their last turns, without columns of padding alone."""
    if "anchor_input_ids" not in features:
        return []
    parts = zip(features["anchor_input_ids"].unbind(1), features["anchor_attention_mask"].unbind(1), strict=True)
    used = [(ids, mask, mask.ne(0).any(dim=0)) for ids, mask in parts]
    return [(ids[:, columns], mask[:, columns]) for ids, mask, columns in used]


def _input_vectors(model, features: dict) -> torch.Tensor:
    """Any vectors of the right shape do: the time of a decoder does not depend on their values."""
    table = model.get_input_embeddings()
    return table(features["input_ids"].clamp(max=table.num_embeddings - 1))


def run(args: argparse.Namespace) -> dict[str, float]:
    """All figures of one run."""
    batch = QUICK_BATCH if args.quick else BATCH
    kinds, sizes = conversations(args.dialogues, batch), (1, batch)
    retriever = open_pipeline(args.model, args.seed)
    with watched():
        figures = cold_starts(retriever, args.model, 1 if args.quick else COLD_STARTS)
    totals = {"bare": 0.0, "call": 0.0, "decoding": 0.0}
    for kind, dialogues in kinds.items():
        for size in sizes:
            timings = alternate(parts_of_a_call(retriever, dialogues, size), reference="bare", quick=args.quick)
            seconds, where = timings.seconds, f"{kind}_batch{size}"
            seconds["tokenising"] = max(seconds.pop("preprocessing") - seconds["decoding"], 0.0)
            figures[f"queries_per_second_{where}"] = len(dialogues) / seconds["call"]
            figures[f"bare_queries_per_second_{where}"] = len(dialogues) / seconds["bare"]
            figures.update({f"{name}_ms_{where}": 1000 * seconds[name] / len(dialogues) for name in seconds})
            beyond = seconds["call"] - seconds["bare"]
            figures[f"overhead_percent_{where}"] = 100 * (beyond - seconds["decoding"]) / seconds["bare"]
            totals = {name: total + seconds[name] for name, total in totals.items()}
    beyond = totals["call"] - totals["bare"]
    figures["overhead_percent"] = max(
        figures[f"overhead_percent_{kind}_batch{size}"] for kind in kinds for size in sizes
    )
    figures["mean_overhead_percent"] = 100 * (beyond - totals["decoding"]) / totals["bare"]
    figures["call_over_bare_percent"] = 100 * beyond / totals["bare"]
    return figures


def main() -> None:
    parser = argument_parser(__doc__, "unimur-mini")
    parser.add_argument("--dialogues", type=Path, default=EXAMPLE_DIALOGUES, help="JSON lines of dialogues")
    args = parser.parse_args()
    notes = [
        "dtype float32; minimum of 7 rounds, variants in turn; cold starts: median of 3",
        f"{BATCH} dialogues, ms a dialogue; gallery of {GALLERY_IMAGES} images and {GALLERY_TEXTS} texts",
    ]
    report("pipeline", args, run(args), notes)


if __name__ == "__main__":
    main()
