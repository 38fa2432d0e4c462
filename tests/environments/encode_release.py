"""Run by tests in another environment: encodes by sentence-transformers as a stranger to the package does.

`python encode_release.py PICTURE OUTPUT RELEASE` writes embeddings of contexts, texts and a picture to
`OUTPUT/<name of the release>.safetensors`, under the names that `load_release.py` gives them.
"""

import importlib.util
import sys
from pathlib import Path

import torch
from load_release import TEXTS, conversation
from PIL import Image
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer


def main(picture: str, output: str, release: str) -> None:
    """Loads and encodes."""
    if importlib.util.find_spec("modeling_unimur") is not None:
        sys.exit("modeling_unimur can be imported here: this environment proves nothing.")
    embedder = SentenceTransformer(release, trust_remote_code=True, device="cpu")
    image = Image.open(picture).convert("RGB")
    found = {
        "context": embedder.encode_query(["a cat slept on my keyboard", conversation(picture), image]),
        "text": embedder.encode_document(TEXTS),
        "image": embedder.encode_document([image]),
    }
    tensors = {key: torch.from_numpy(value) for key, value in found.items()}
    save_file(tensors, Path(output, f"{Path(release).name}.safetensors"))


if __name__ == "__main__":
    main(*sys.argv[1:])
