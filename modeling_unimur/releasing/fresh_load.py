"""A script for a separate process: loads a release without this package and saves its embeddings.

With the arguments FOLDER OUTPUT [LANGUAGE_MODEL] [CLIP] it loads by AutoModel, AutoProcessor, `pipeline` and, where it
is installed, SentenceTransformer; it writes embeddings to OUTPUT (safetensors) and prints one line of JSON.
"""

import contextlib
import importlib.util
import json
import sys

import torch
import transformers
from PIL import Image
from safetensors.torch import save_file

TEXTS = ["a cat slept on my keyboard", "what a beautiful morning it is"]


def image() -> Image.Image:
    """A generated image."""
    return Image.linear_gradient("L").convert("RGB").resize((96, 64))


def embeddings(model, processor) -> dict:
    """A release's embeddings of two texts and an image: rows of unit vectors, by what was read."""
    with torch.inference_mode():
        found = {"context": model.get_multimodal_features(**processor.process_context(TEXTS)).pooler_output}
        if model.clip is None:
            return found
        if hasattr(processor, "process_documents"):  # UniVL-DR
            shown = processor.process_documents([image()], TEXTS[:1])
        else:
            content = [{"type": "image", "image": image()}, {"type": "text", "text": TEXTS[0]}]
            shown = processor.process_context([[{"role": "user", "content": content}]])
        found["shown"] = model.get_multimodal_features(**shown).pooler_output
        found["image"] = model.get_image_features(**processor.process_images([image()])).pooler_output
        with contextlib.suppress(ValueError):  # heads that rank images alone
            found["text"] = model.get_text_features(**processor.process_texts(TEXTS)).pooler_output
    return {key: value.float().contiguous() for key, value in found.items()}


def _require_close(found, expected, what: str, tolerance: float) -> None:
    if not torch.allclose(torch.as_tensor(found).float(), expected, atol=tolerance):
        raise SystemExit(f"{what} computes other embeddings than AutoModel")


def _require_from_release(*parts) -> None:
    for part in parts:
        if not type(part).__module__.startswith("transformers_modules."):
            raise SystemExit(f"{type(part).__name__} did not come from the release")


def main(folder: str, output: str, *given: str) -> None:
    """Loads the release in every supported way, compares the results, and reports them."""
    sys.modules["modeling_unimur"] = None  # an import of the package fails as on a machine without it
    backbones = {name: path for name, path in zip(("language_model", "clip"), given, strict=False) if path}
    trust = {"trust_remote_code": True}
    model = transformers.AutoModel.from_pretrained(folder, **trust, **backbones).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder, **trust)
    _require_from_release(model, processor)
    found = embeddings(model, processor)
    about = {"width": found["context"].shape[-1], "parameters": model.num_parameters()}
    whole = all(parameter.dtype == torch.float32 for parameter in model.parameters())
    tolerance = 1e-5 if whole else 2e-2  # in bfloat16 another order of rows is seen
    roads = ["AutoModel", "AutoProcessor", "pipeline"]
    del model  # one copy in memory at a time
    retriever = transformers.pipeline("multimodal-retrieval", model=folder, model_kwargs=dict(backbones), **trust)
    _require_from_release(retriever)
    _require_close(retriever.embed(list(TEXTS)), found["context"], "The pipeline", tolerance)
    if "text" in found:
        retriever.add(images=[image()], texts=TEXTS)
        hits = retriever(TEXTS[0], top_k=1)
        if not hits["text"] or not hits["image"]:
            raise SystemExit("The pipeline retrieves nothing")
    del retriever
    if importlib.util.find_spec("sentence_transformers") is not None:
        from sentence_transformers import SentenceTransformer

        embedder = SentenceTransformer(folder, model_kwargs=dict(backbones), device="cpu", **trust)
        _require_close(embedder.encode_query(TEXTS), found["context"], "SentenceTransformer", tolerance)
        if "image" in found:
            _require_close(embedder.encode_document([image()]), found["image"], "SentenceTransformer", tolerance)
        roads.append("SentenceTransformer")
    save_file(found, output)
    print(json.dumps({"roads": roads, **about}))


if __name__ == "__main__":
    main(*sys.argv[1:])
