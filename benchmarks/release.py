"""A heads-only release: how large it is, and what loading it costs beyond loading its two backbones.

    python benchmarks/release.py [--quick] [--model FOLDER --language-model FOLDER --clip FOLDER]

The release is made of the model's heads; it names its backbones by id and commit, and they lie in a cache of
huggingface_hub, as after a first load. Both sides load in float32 from that cache, which is warm:

- `load_over_backbones`: seconds of `AutoModel.from_pretrained(release)` over those of the two backbones by themselves;
- `heads_megabytes`: all files of the release; `weights_megabytes`: the trained tensors among them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from transformers import AutoModel, AutoModelForCausalLM

from benchmarks.harness import alternate, argument_parser, report
from modeling_unimur import UniMuRConfig, UniMuRProcessor
from modeling_unimur.data.packages import cache_dir
from modeling_unimur.releasing.bases import Base
from modeling_unimur.releasing.clean_folder import read_heads, write_heads

BASES = {"text": Base("local/language-model", "a1" * 20), "clip": Base("local/clip", "b2" * 20)}


def cache_of(folders: dict[str, Path], work: Path) -> Path:
    """A cache of huggingface_hub in which the bases are these folders."""
    for part, base in BASES.items():
        repository = work / "hub" / f"models--{base.model.replace('/', '--')}"
        (repository / "snapshots").mkdir(parents=True)
        (repository / "snapshots" / base.revision).symlink_to(folders[part].resolve(), target_is_directory=True)
    return work / "hub"


def heads_release(model: Path, folder: Path) -> Path:
    """The model's heads as a release on the bases."""
    config = UniMuRConfig.from_pretrained(model)
    for part, base in BASES.items():
        setattr(config, f"{part}_base_model", base.model)
        setattr(config, f"{part}_base_revision", base.revision)
    config.heads_only = True
    folder.mkdir()
    write_heads(folder, config, read_heads(model), UniMuRProcessor.from_pretrained(model))
    return folder


def run(args: argparse.Namespace) -> dict[str, float]:
    """All figures of one run."""
    with tempfile.TemporaryDirectory() as work:
        release = heads_release(args.model, Path(work) / "release")
        cache = cache_of({"text": args.language_model, "clip": args.clip}, Path(work))

        def load_release():
            return AutoModel.from_pretrained(release, trust_remote_code=True, cache_dir=cache, dtype=torch.float32)

        def load_backbones():
            common = {"cache_dir": cache, "dtype": torch.float32}
            text, clip = BASES["text"], BASES["clip"]
            return (
                AutoModelForCausalLM.from_pretrained(text.model, revision=text.revision, **common),
                AutoModel.from_pretrained(clip.model, revision=clip.revision, **common),
            )

        quick = {"retries": 1, "pause_seconds": 1} if args.quick else {}
        timings = alternate({"release": load_release, "backbones": load_backbones}, reference="backbones", **quick)
        files = [path for path in release.rglob("*") if path.is_file()]
        return {
            "load_over_backbones": timings.seconds["release"] / timings.seconds["backbones"],
            "load_seconds": timings.seconds["release"],
            "backbones_seconds": timings.seconds["backbones"],
            "heads_megabytes": sum(path.stat().st_size for path in files) / 1e6,
            "weights_megabytes": (release / "model.safetensors").stat().st_size / 1e6,
            "reference_spread": timings.spread,
            "busy_retries": timings.retries,
        }


def main() -> None:
    models = cache_dir() / "models"
    parser = argument_parser(__doc__)
    parser.add_argument("--model", type=Path, default=models / "unimur-mini", help="with the heads, full or not")
    parser.add_argument("--language-model", type=Path, default=models / "smollm2-135m-instruct", help="its own")
    parser.add_argument("--clip", type=Path, default=models / "clip-lite2-minilm", help="its own")
    args = parser.parse_args()
    for folder in (args.model, args.language_model, args.clip):
        if not (folder / "config.json").is_file():
            parser.error(f"there is no model in {folder}: run conversion/assemble_unimur_mini.py, or name others")
    notes = ["dtype float32, warm cache; minimum of 7 rounds, variants in turn; megabytes of 10^6 bytes"]
    report("release", args, run(args), notes)


if __name__ == "__main__":
    main()
