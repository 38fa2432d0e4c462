"""Run by tests in another environment: loads release folders as a stranger to the package does.

`python load_release.py PICTURE OUTPUT RELEASE...` writes the embeddings that the stranger gets from each release to
`OUTPUT/<name of the release>.safetensors`, and fails where the package itself can be imported.
"""

import importlib.util
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline

TEXTS = ["she plays guitar", "no, but the birthday cake was good"]


def conversation(picture: str) -> list:
    """A dialogue with one picture in it."""
    content = [{"type": "text", "text": "look at this "}, {"type": "image", "image": picture}]
    return [
        {"role": "user", "content": content},
        {"role": "assistant", "content": "what a beautiful morning it is"},
    ]


def embeddings(model, processor, retriever, picture: str) -> dict:
    """What a release computes, by its model and processor and by its pipeline.

    Returns:
        `dict[str, torch.Tensor]`: embeddings of contexts, texts and pictures, and the scores of the pipeline's hits.
    """
    batch = ["a cat slept on my keyboard", conversation(picture), picture]
    with torch.no_grad():
        found = {
            "context": model.get_multimodal_features(**processor.process_context(batch)).pooler_output,
            "text": model.get_text_features(**processor.process_texts(TEXTS)).pooler_output,
            "image": model.get_image_features(**processor.process_images([picture])).pooler_output,
        }
    report = retriever.add(images=[picture], texts=TEXTS)
    if report["skipped"]:
        sys.exit(f"The pipeline could not read {report['skipped']}.")
    for kind, hits in retriever(conversation(picture), top_k=2).items():
        scores = {hit["id"]: hit["score"] for hit in hits}
        found[f"{kind}_scores"] = torch.tensor([scores[key] for key in sorted(scores)])
    return {key: value.detach().contiguous() for key, value in found.items()}


def load(release: str) -> tuple:
    """Model, processor and pipeline out of a folder, by the folder's own code."""
    trust = {"trust_remote_code": True}
    made = (
        AutoModel.from_pretrained(release, **trust),
        AutoProcessor.from_pretrained(release, **trust),
        pipeline("multimodal-retrieval", model=release, **trust),
    )
    for part in (AutoConfig.from_pretrained(release, **trust), *made):
        if not type(part).__module__.startswith("transformers_modules."):
            sys.exit(f"{type(part)} did not come from the release folder.")
    return made


def main(picture: str, output: str, *releases: str) -> None:
    """Writes down what each release computes here."""
    if importlib.util.find_spec("modeling_unimur") is not None:
        sys.exit("modeling_unimur can be imported here: this environment proves nothing.")
    for release in releases:
        save_file(embeddings(*load(release), picture), Path(output, f"{Path(release).name}.safetensors"))


if __name__ == "__main__":
    main(*sys.argv[1:])
