"""Run by a test in another environment: loads a release of UniVL-DR as a stranger to the package does.

`python load_univl_dr.py PICTURE OUTPUT RELEASE` writes what the stranger gets to `OUTPUT/found.safetensors`, and what
it gets after saving the pipeline and loading that again to `OUTPUT/again.safetensors`.
"""

import importlib.util
import sys
from pathlib import Path

import torch
from load_release import TEXTS
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor, pipeline

CAPTION = "a cat slept on my keyboard"


def embeddings(model, processor, retriever, picture: str) -> dict:
    """Embeddings of texts, a picture and a captioned one, and the scores of the pipeline's joint ranking."""
    with torch.no_grad():
        found = {
            "text": model.get_text_features(**processor.process_texts(TEXTS)).pooler_output,
            "image": model.get_image_features(**processor.process_images([picture])).pooler_output,
            "document": model.get_multimodal_features(
                **processor.process_documents([picture], [CAPTION])
            ).pooler_output,
        }
    report = retriever.add(images=[picture], captions=[CAPTION], texts=TEXTS)
    if report["skipped"]:
        sys.exit(f"The pipeline could not read {report['skipped']}.")
    hits = retriever("a cat", modality="joint", top_k=3)
    found["scores"] = torch.tensor([hit["score"] for hit in sorted(hits, key=lambda hit: hit["id"])])
    return {key: value.detach().contiguous() for key, value in found.items()}


def load(release: str) -> tuple:
    """Model, processor and pipeline out of a folder, by the folder's own code."""
    trust = {"trust_remote_code": True}
    made = (
        AutoModel.from_pretrained(release, **trust),
        AutoProcessor.from_pretrained(release, **trust),
        pipeline("multimodal-retrieval", model=release, **trust),
    )
    for part in made:
        if not type(part).__module__.startswith("transformers_modules."):
            sys.exit(f"{type(part)} did not come from the release folder.")
    return made


def main(picture: str, output: str, release: str) -> None:
    """Two generations."""
    if importlib.util.find_spec("modeling_unimur") is not None:
        sys.exit("modeling_unimur can be imported here: this environment proves nothing.")
    first = load(release)
    save_file(embeddings(*first, picture), Path(output, "found.safetensors"))
    first[2].save_pretrained(Path(output, "saved"))
    save_file(embeddings(*load(str(Path(output, "saved"))), picture), Path(output, "again.safetensors"))


if __name__ == "__main__":
    main(*sys.argv[1:])
