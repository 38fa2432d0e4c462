"""A heads-only release: its size, what loading it costs beyond its two backbones, and from which caches it loads.

    python benchmarks/release.py [--quick] [--model FOLDER --language-model FOLDER --clip FOLDER]

The release is made of the model's heads; it names its backbones by id and commit, and they lie in a cache of
huggingface_hub, as after a first load. The cache is warm, and each part keeps the dtype of its checkpoint:

- `load_over_backbones`: seconds of `AutoModel.from_pretrained(release)` over those of the two backbones by themselves;
- `heads_megabytes`: all files of the release; `weights_megabytes`: the trained tensors among them.

The same with random weights in bfloat16, an OPT of 1.3 billion parameters and CLIP ViT-B/32 (`--quick`: small ones):

- `load_over_backbones_half_precision`, as above;
- `peak_gib_half_precision_over_weights`: the highest resident memory while a process of its own loads the release and
  then reads every weight once (until then they are only mapped from their files, and would not count), less what it
  held before, over the bytes of all weights.

`hub_layouts_passed`, of 4: a release and its backbones are downloaded from a hub on this machine, as blobs of each
repository and as blobs of the whole cache (by Xet), and load by the newest transformers and huggingface_hub, which are
those installed here, and by the oldest (`tests/environments/floor.txt`). A damaged file must be refused each time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import sysconfig
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from packaging.utils import canonicalize_name
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, CLIPConfig, OPTConfig

from benchmarks.harness import (
    Timings,
    alternate,
    argument_parser,
    in_fresh_process,
    peak_mib,
    report,
    reset_peak,
)
from modeling_unimur import UniMuRConfig, UniMuRModel, UniMuRProcessor
from modeling_unimur.data.cache import cache_dir
from modeling_unimur.releasing.bases import Base
from modeling_unimur.releasing.clean_folder import read_heads, write_heads
from tests import tiny
from tests.environments import closure
from tests.environments.floor import floor_folder, pins
from tests.environments.load_on_demand import TEXT
from tests.hub_server import Fault, HubServer

BASES = {"text": Base("local/language-model", "a1" * 20), "clip": Base("local/clip", "b2" * 20)}
_OPT = {"hidden_size": 2048, "ffn_dim": 8192, "num_hidden_layers": 24, "num_attention_heads": 32}
_SMALL_OPT = {"hidden_size": 256, "ffn_dim": 1024, "num_hidden_layers": 2, "num_attention_heads": 4}
_SMALL_TOWER = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


def cache_of(folders: dict[str, Path], work: Path) -> Path:
    """A cache of huggingface_hub in which the bases are these folders."""
    for part, base in BASES.items():
        repository = work / "hub" / f"models--{base.model.replace('/', '--')}"
        (repository / "snapshots").mkdir(parents=True)
        (repository / "snapshots" / base.revision).symlink_to(folders[part].resolve(), target_is_directory=True)
    return work / "hub"


def on_bases(config: UniMuRConfig) -> UniMuRConfig:
    """The configuration of a heads-only release on the bases."""
    for part, base in BASES.items():
        setattr(config, f"{part}_base_model", base.model)
        setattr(config, f"{part}_base_revision", base.revision)
    config.heads_only = True
    return config


def heads_release(model: Path, folder: Path) -> Path:
    """The model's heads as a release on the bases."""
    folder.mkdir()
    config = on_bases(UniMuRConfig.from_pretrained(model))
    write_heads(folder, config, read_heads(model), UniMuRProcessor.from_pretrained(model))
    return folder


def load_times(release: Path, cache: Path, quick: bool) -> Timings:
    """Seconds of loading a release, and of loading its two backbones."""

    def load_release():
        return AutoModel.from_pretrained(release, trust_remote_code=True, cache_dir=cache)

    def load_backbones():
        text, clip = BASES["text"], BASES["clip"]
        return (
            AutoModelForCausalLM.from_pretrained(text.model, revision=text.revision, cache_dir=cache),
            AutoModel.from_pretrained(clip.model, revision=clip.revision, cache_dir=cache),
        )

    return alternate({"release": load_release, "backbones": load_backbones}, reference="backbones", quick=quick)


# -- half precision ---------------------------------------------------------------------------------------------------
def random_backbones(work: Path, quick: bool) -> dict[str, Path]:
    """Folders with an OPT and a CLIP of random weights in bfloat16."""
    size, tower = (_SMALL_OPT, _SMALL_TOWER) if quick else (_OPT, {})
    configs = {
        "text": (AutoModelForCausalLM, OPTConfig(**size, word_embed_proj_dim=size["hidden_size"])),
        "clip": (AutoModel, CLIPConfig(text_config=tower, vision_config=tower)),
    }
    for part, (cls, config) in configs.items():
        with torch.device("meta"):
            model = cls.from_config(config, dtype=torch.bfloat16)
        model.to_empty(device="cpu")
        model.tie_weights()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.uniform_(-0.02, 0.02)
        model.save_pretrained(work / part)
    return {part: work / part for part in configs}


def untrained_heads(folders: dict[str, Path], folder: Path) -> Path:
    """Heads as a release on the bases, of which these are the folders."""
    text, clip = (AutoConfig.from_pretrained(folders[part]) for part in ("text", "clip"))
    ids = {"ret_token_ids": [text.vocab_size], "image_token_id": text.vocab_size + 1}
    config = on_bases(UniMuRConfig(text_config=text, clip_config=clip, **ids))
    UniMuRModel(config, build_backbones=False).save_pretrained(folder)
    return folder


def measure_peak(release: Path, cache: Path) -> dict[str, float]:
    """Memory of loading a release in this process, which has loaded none."""
    reset_peak()
    before = peak_mib()
    model = AutoModel.from_pretrained(release, trust_remote_code=True, cache_dir=cache)
    weights = {weight.data_ptr(): weight for weight in model.state_dict().values()}  # tied ones are one
    for weight in weights.values():
        weight.sum()
    size = sum(weight.nbytes for weight in weights.values()) / 2**20
    return {"peak_gib_half_precision_over_weights": (peak_mib() - before) / size}


def half_precision(work: Path, quick: bool) -> dict[str, float]:
    """The figures of backbones in bfloat16."""
    work.mkdir()
    folders = random_backbones(work, quick)
    release, cache = untrained_heads(folders, work / "release"), cache_of(folders, work)
    timings = load_times(release, cache, quick)
    peak = in_fresh_process(measure_peak, release, cache)
    return {"load_over_backbones_half_precision": timings.seconds["release"] / timings.seconds["backbones"], **peak}


# -- layouts of the cache ---------------------------------------------------------------------------------------------
class Reader:
    """A process that imports its own versions of packages from `path`, works in a folder, and loads the release
    acme/unimur from a cache."""

    def __init__(self, path: list[Path], cache: Path, work: Path, environment: dict[str, str]):
        work.mkdir()
        self.cache = cache
        self.process = closure.start("load_on_demand.py", path=path, work=work, **environment)

    def load(self) -> dict:
        """What `tests/environments/load_on_demand.py` answers."""
        self.process.stdin.write(json.dumps({"repo": "acme/unimur", "cache": str(self.cache)}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait(timeout=60)


def hub_layouts(work: Path) -> int:
    """In how many of the two layouts, read by the newest and by the oldest packages, a small release loads."""
    for part, make in (("lm", tiny.language_model), ("clip", tiny.clip)):
        make(work / part)
    packages, passed = Path(sysconfig.get_paths()["purelib"]), 0
    with HubServer() as hub:
        bases = {part: Base(f"acme/{part}", hub.put(f"acme/{part}", work / part)) for part in ("lm", "clip")}
        processor = UniMuRProcessor.from_backbones(str(work / "lm"), str(work / "clip"))
        model = UniMuRModel.from_backbones(str(work / "lm"), str(work / "clip"), processor=processor)
        with torch.no_grad():
            expected = model.get_multimodal_features(**processor.process_context(TEXT)).pooler_output[0]
        for part, base in zip(("text", "clip"), bases.values(), strict=True):
            setattr(model.config, f"{part}_base_model", base.model)
            setattr(model.config, f"{part}_base_revision", base.revision)
        model.save_pretrained(work / "unimur", heads_only=True)
        processor.save_pretrained(work / "unimur")
        commit = hub.put("acme/unimur", work / "unimur")
        for hub.xet in (False, True):
            cache = work / f"cache-{hub.xet}"
            newest = Reader([packages], cache, work / f"newest-{hub.xet}", hub.environment())
            oldest = Reader([floor_folder(), packages], cache, work / f"oldest-{hub.xet}", hub.environment())
            answers = [[newest.load()]]
            hub.faults.append(Fault(r"GET (/acme/.*/model\.safetensors|/xet/.*)", 503))  # weights are in the cache now
            answers.append([oldest.load()])
            if (cache / "blobs").is_dir() != hub.xet:
                raise RuntimeError("huggingface_hub has laid out its cache in another way than was asked for.")
            weights = cache / "models--acme--unimur" / "snapshots" / commit / "model.safetensors"
            weights.resolve().chmod(0o644)
            weights.write_bytes(weights.read_bytes()[:-4] + b"\0\1\2\3")
            for reader, given in zip((newest, oldest), answers, strict=True):
                given.append(reader.load())
                reader.close()
            hub.faults.clear()
            for whole, damaged in answers:
                found = torch.tensor(whole.get("embedding", [0.0] * len(expected)))
                is_right = torch.allclose(found, expected, atol=1e-5)
                passed += is_right and "that the Hub announced" in damaged.get("error", "")
    return passed


def run(args: argparse.Namespace) -> dict[str, float]:
    """All figures of one run."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        release = heads_release(args.model, work / "release")
        cache = cache_of({"text": args.language_model, "clip": args.clip}, work)
        timings = load_times(release, cache, args.quick)
        files = [path for path in release.rglob("*") if path.is_file()]
        return {
            "load_over_backbones": timings.seconds["release"] / timings.seconds["backbones"],
            "load_seconds": timings.seconds["release"],
            "backbones_seconds": timings.seconds["backbones"],
            "heads_megabytes": sum(path.stat().st_size for path in files) / 1e6,
            "weights_megabytes": (release / "model.safetensors").stat().st_size / 1e6,
            **half_precision(work / "half", args.quick),
            "hub_layouts_passed": hub_layouts(work),
        }


def main() -> None:
    models = cache_dir() / "models"
    parser = argument_parser(__doc__, "unimur-mini")
    parser.add_argument("--language-model", type=Path, default=models / "smollm2-135m-instruct", help="its own")
    parser.add_argument("--clip", type=Path, default=models / "clip-lite2-minilm", help="its own")
    args = parser.parse_args()
    for folder in (args.model, args.language_model, args.clip):
        if not (folder / "config.json").is_file():
            parser.error(f"there is no model in {folder}: run conversion/assemble_unimur_mini.py, or name others")
    newest = {name: version(name) for name in ("transformers", "huggingface_hub")}
    notes = [
        "dtypes of the checkpoints (the mini's float32), warm cache; minimum of 7 rounds, variants in turn",
        "megabytes of 10^6 bytes",
        "; ".join(f"{name}: newest {newest[name]}, oldest {pins()[canonicalize_name(name)]}" for name in newest),
    ]
    report("release", args, run(args), notes)


if __name__ == "__main__":
    main()
