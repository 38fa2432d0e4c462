"""Run by tests beside a hub: loads what it is asked for, again and again, and tells what came of it.

Every line of standard input is JSON, `{"repo": id, "cache": folder, ...}` with further arguments of `from_pretrained`;
every line of standard output is `{"embedding": [...], "dtypes": {part: name}}` or `{"error": "Type: message"}`.
"""

import json
import sys

import torch
from transformers import AutoModel, AutoProcessor

TEXT = "a cat slept on my keyboard"


def answer(repo: str, cache: str, **more) -> dict:
    """Loads a release and reads one context; whatever goes wrong is told."""
    arguments = {"trust_remote_code": True, "cache_dir": cache, **more}
    try:
        model = AutoModel.from_pretrained(repo, **arguments)
        arguments.pop("dtype", None)
        processor = AutoProcessor.from_pretrained(repo, **arguments)
        with torch.no_grad():
            embedding = model.get_multimodal_features(**processor.process_context(TEXT)).pooler_output[0]
        parts = {part: getattr(model, part) for part in ("language_model", "clip", "heads")}
        dtypes = {part: str(next(module.parameters()).dtype).split(".")[1] for part, module in parts.items()}
        return {"embedding": embedding.tolist(), "dtypes": dtypes}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), flush=True)
