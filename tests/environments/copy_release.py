"""Run by tests in another environment: copies models that were loaded by their own code, and sends them to workers.

`python copy_release.py PICTURE HOW RELEASE...` fails where a copy or a worker computes something else than the
model. HOW is `pickle`, which tries `pickle` and `copy.deepcopy`, or `workers`, which tries DataLoaders, spawned and
forked, and the pool of processes of sentence-transformers.
"""

import copy
import importlib.util
import pickle
import sys

import torch
from load_release import TEXTS, conversation
from torch.utils.data import DataLoader, Dataset
from transformers import AutoModel, AutoProcessor

TRUST = {"trust_remote_code": True}


class Contexts(Dataset):
    """Contexts that the worker embeds, by a model that it holds."""

    def __init__(self, model, processor, contexts: list):
        self.model, self.processor, self.contexts = model, processor, contexts

    def __len__(self) -> int:
        return len(self.contexts)

    def __getitem__(self, row: int) -> torch.Tensor:
        with torch.no_grad():
            batch = self.processor.process_context([self.contexts[row]])
            return self.model.get_multimodal_features(**batch).pooler_output[0]


def require_close(found, expected: torch.Tensor, what: str) -> None:
    """Ends the process where two embeddings differ."""
    torch.testing.assert_close(torch.as_tensor(found), expected, atol=1e-5, rtol=0, msg=f"{what} differs")


def captions(model, processor, picture: str) -> list:
    """What `generate` says of a picture."""
    return model.generate(**processor.process_caption_prompt(picture), max_new_tokens=4, do_sample=False).tolist()


def try_copies(model, processor, contexts: list) -> None:
    """A model and a processor that were pickled, and ones that were copied."""
    expected, said = torch.stack(list(Contexts(model, processor, contexts))), captions(model, processor, contexts[-1])
    for how, made in (
        ("pickle", pickle.loads(pickle.dumps((model, processor)))),
        ("deepcopy", copy.deepcopy((model, processor))),
    ):
        assert type(made[0]) is type(model)
        assert made[0].can_generate()
        require_close(torch.stack(list(Contexts(*made, contexts))), expected, how)
        assert captions(*made, contexts[-1]) == said, how


def try_workers(model, processor, contexts: list, release: str) -> None:
    """Workers of DataLoaders, and the pool of processes of sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    dataset = Contexts(model, processor, contexts)
    expected = torch.stack(list(dataset))
    for start in ("spawn", "fork"):
        loader = DataLoader(dataset, batch_size=2, num_workers=1, multiprocessing_context=start)
        require_close(torch.cat(list(loader)), expected, start)
    embedder = SentenceTransformer(release, device="cpu", **TRUST)
    pool = embedder.start_multi_process_pool(["cpu", "cpu"])
    try:
        found = embedder.encode_query(TEXTS * 2, pool=pool, chunk_size=1)
    finally:
        embedder.stop_multi_process_pool(pool)
    require_close(found, torch.from_numpy(embedder.encode_query(TEXTS * 2)), "the pool")


def main(picture: str, how: str, *releases: str) -> None:
    """Loads each release and copies it."""
    if importlib.util.find_spec("modeling_unimur") is not None:
        sys.exit("modeling_unimur can be imported here: this environment proves nothing.")
    for release in releases:
        model, processor = AutoModel.from_pretrained(release, **TRUST), AutoProcessor.from_pretrained(release, **TRUST)
        assert type(model).__module__.startswith("transformers_modules.")
        contexts = [*TEXTS, conversation(picture), picture]
        if how == "pickle":
            try_copies(model, processor, contexts)
        else:
            try_workers(model, processor, contexts, release)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
