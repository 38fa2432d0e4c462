"""UniMuR-mini as one folder that `pipeline("multimodal-retrieval", model=folder, trust_remote_code=True)` loads.

    python conversion/assemble_unimur_mini.py [--output FOLDER]

Packaged weights (SmolLM2-135M-Instruct; EfficientNet-Lite2 and MiniLM) become ordinary Hugging Face folders, and the
heads in `hub_cards/unimur-mini/` join them. The second call finds all of it and returns at once.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from conversion.assemble_clip_lite2_minilm import assemble as assemble_clip  # noqa: E402
from conversion.convert_smollm2_gguf_to_hf import convert as convert_smollm2  # noqa: E402
from conversion.release_version import release_version  # noqa: E402
from modeling_unimur import UniMuRModel, UniMuRProcessor  # noqa: E402
from modeling_unimur.data.cache import build_once, build_version, cache_dir  # noqa: E402
from modeling_unimur.releasing.clean_folder import write_model  # noqa: E402

HEADS = ROOT / "hub_cards" / "unimur-mini"


def backbones() -> tuple[Path, Path]:
    """Folders of the language model and the dual encoder; builds them if they do not exist."""
    return convert_smollm2(), assemble_clip()


def assemble(output_dir: str | Path | None = None) -> Path:
    """Builds the full release, by default in `<cache>/models/unimur-mini`, anew when the heads or the code changed;
    returns at once if it exists."""

    def build(folder: Path) -> None:
        language_model, clip = map(str, backbones())
        model = UniMuRModel.from_pretrained(HEADS, language_model=language_model, clip=clip)
        scalars = json.loads((HEADS / "processor.json").read_text(encoding="utf-8"))
        processor = UniMuRProcessor.from_backbones(language_model, clip, **scalars)
        if processor.ret_token_ids != model.config.ret_token_ids:
            raise ValueError(f"{HEADS} was trained with other token ids than this tokenizer gives; train it again.")
        write_model(folder, model, processor, heads_only=False)
        (folder / "README.md").write_text((HEADS / "README.md").read_text(encoding="utf-8"), encoding="utf-8")

    if output_dir:
        return build_once(Path(output_dir), build)
    version = release_version(*(HEADS / name for name in ("model.safetensors", "config.json", "processor.json")))
    return build_version(cache_dir() / "models" / "unimur-mini", version, build)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", help="folder to write; by default in the cache")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(assemble(args.output))


if __name__ == "__main__":
    main()
