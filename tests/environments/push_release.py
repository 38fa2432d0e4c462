"""Run by tests beside a hub: pushes two backbones and two releases on them, as their author does.

`python push_release.py LANGUAGE_MODEL CLIP PICTURE OUTPUT` pushes the folders to acme/lm (tagged v1) and acme/clip, a
heads-only release on them to acme/unimur (tagged v0.1.0) and a full one to acme/unimur-full, and writes what these
releases compute to `OUTPUT/<name of the release>.safetensors`.
"""

import sys
from pathlib import Path

from huggingface_hub import HfApi
from load_release import embeddings
from safetensors.torch import save_file
from transformers import pipeline

from modeling_unimur import UniMuRModel, UniMuRProcessor


def parts(language_model: str, clip: str, **revision) -> tuple:
    """An untrained model, its processor and its pipeline."""
    processor = UniMuRProcessor.from_backbones(language_model, clip, max_context_tokens=128, **revision)
    model = UniMuRModel.from_backbones(language_model, clip, processor=processor, **revision)
    return model, processor, pipeline("multimodal-retrieval", model=model, processor=processor)


def main(language_model: str, clip: str, picture: str, output: str) -> None:
    """Pushes and writes all of it."""
    api = HfApi()
    for repo_id, folder in (("acme/lm", language_model), ("acme/clip", clip)):
        api.create_repo(repo_id)
        api.upload_folder(repo_id=repo_id, folder_path=folder)
    api.create_tag("acme/lm", tag="v1")

    heads = parts("acme/lm", "acme/clip", language_model_revision="v1")
    for part in heads[:2]:
        part.push_to_hub("acme/unimur")
    api.create_tag("acme/unimur", tag="v0.1.0")
    full = parts(language_model, clip)
    full[2].push_to_hub("acme/unimur-full")
    for name, made in (("unimur", heads), ("unimur-full", full)):
        save_file(embeddings(*made, picture), Path(output, f"{name}.safetensors"))


if __name__ == "__main__":
    main(*sys.argv[1:])
