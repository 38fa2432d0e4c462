"""UniVL-DR-mini as one folder that `pipeline("multimodal-retrieval", model=folder, trust_remote_code=True)` loads.

    python conversion/assemble_univl_dr_mini.py [--output FOLDER]
    python conversion/assemble_univl_dr_mini.py --take RUN    # commit what a run has trained

The small dual encoder, with the form of image head that it was trained with, and in it the tensors that
`recipes/univl_dr_mini.yaml` trained, which lie in `hub_cards/univl-dr-mini/` in float16. The second call finds the
folder and returns at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from conversion.assemble_clip_lite2_minilm import assemble as assemble_clip  # noqa: E402
from conversion.release_version import release_version  # noqa: E402
from modeling_unimur import OpenCLIPModel, UniVLDRModel, UniVLDRProcessor  # noqa: E402
from modeling_unimur.data.cache import build_once, build_version, cache_dir  # noqa: E402
from modeling_unimur.releasing.clean_folder import write_model  # noqa: E402

CARD_FOLDER = ROOT / "hub_cards" / "univl-dr-mini"
TRAINED, ARGUMENTS = CARD_FOLDER / "trained.safetensors", CARD_FOLDER / "arguments.json"
# What a run may have set otherwise than a fresh model and processor have it.
_CONFIG, _PROCESSOR = ("fusion", "image_weight", "learn_image_weight"), ("max_target_tokens", "verbalization_tokens")


def _fresh(arguments: dict) -> tuple[UniVLDRModel, UniVLDRProcessor]:
    clip = str(assemble_clip())
    # An older form of the head leaves some tensors of the folder aside.
    dual = OpenCLIPModel.from_pretrained(clip, picture_head=arguments["picture_head"], dtype=torch.float32)
    model = UniVLDRModel.from_backbones(dual, dtype=torch.float32, **arguments["config"])
    return model, UniVLDRProcessor.from_backbones(clip, **arguments["processor"])


def untrained() -> tuple[UniVLDRModel, UniVLDRProcessor]:
    """The untrained release: the plain dual encoder in the release's configuration."""
    return _fresh(json.loads(ARGUMENTS.read_text(encoding="utf-8")))


def take(run: str | Path) -> None:
    """Writes the tensors of a run's model that are not the dual encoder's, and its arguments, into the card's folder.

    Raises:
        ValueError: nothing differs.
    """
    model, processor = UniVLDRModel.from_pretrained(run), UniVLDRProcessor.from_pretrained(run)
    arguments = {
        "picture_head": model.config.clip_config.picture_head,
        "config": {name: getattr(model.config, name) for name in _CONFIG},
        "processor": {name: getattr(processor, name) for name in _PROCESSOR},
    }
    before = _fresh(arguments)[0].state_dict()
    trained = {
        name: tensor.half().contiguous()
        for name, tensor in model.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    if not trained:
        raise ValueError(f"{run} holds the dual encoder as it was: nothing was trained there.")
    CARD_FOLDER.mkdir(parents=True, exist_ok=True)
    save_file(trained, TRAINED, metadata={"format": "pt"})
    ARGUMENTS.write_text(json.dumps(arguments, indent=1) + "\n", encoding="utf-8")


def assemble(output_dir: str | Path | None = None) -> Path:
    """Builds the full release, by default in `<cache>/models/univl-dr-mini`, anew when its tensors or the code
    changed; returns at once if it exists.

    Raises:
        ValueError: the committed tensors are not this model's.
    """

    def build(folder: Path) -> None:
        model, processor = untrained()
        trained = {name: tensor.float() for name, tensor in load_file(TRAINED).items()}
        unknown = model.load_state_dict(trained, strict=False).unexpected_keys
        if unknown:
            raise ValueError(f"{TRAINED} holds what this model has not: {sorted(unknown)}")
        write_model(folder, model, processor)
        (folder / "README.md").write_text((CARD_FOLDER / "README.md").read_text(encoding="utf-8"), encoding="utf-8")

    if output_dir:
        return build_once(Path(output_dir), build)
    version = release_version(TRAINED, ARGUMENTS, CARD_FOLDER / "README.md")
    return build_version(cache_dir() / "models" / "univl-dr-mini", version, build)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", help="folder to write; by default in the cache")
    parser.add_argument("--take", metavar="RUN", help="commit a run's trained tensors first")
    args = parser.parse_args()
    if args.take:
        take(args.take)
    print(assemble(args.output))


if __name__ == "__main__":
    main()
