"""The pipeline task `multimodal-retrieval`: a dialogue in, ranked texts and pictures out."""

import itertools
import os

import torch
from tqdm.auto import tqdm
from transformers import Pipeline
from transformers.dynamic_module_utils import custom_object_save

from .image_loading import load_image
from .messages_unimur import is_conversation
from .retrieval_index import KINDS, RetrievalIndex

_PROBE = "a photo of a cat on a red chair"
# Cosine of the probe in two spaces that are one; bf16 and another image backend stay above it.
_SAME_SPACE = 0.999


def _require_batch_size(batch_size: int) -> None:
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size is a whole number from 1 on, not {batch_size!r}.")


class MultimodalRetrievalPipeline(Pipeline):
    """Retrieves the text and the picture of a dialogue's reply.

    ```python
    retriever = pipeline("multimodal-retrieval", model="<folder or Hub id>", trust_remote_code=True)
    retriever.add(images=["cat.png", "dog.png"], texts=["Good morning!", "What a mess."])
    retriever([{"role": "user", "content": "look who slept on my keyboard"}], top_k=3)
    ```
    """

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.index = RetrievalIndex()

    # -- the candidates ---------------------------------------------------------------------------------------------
    def add(
        self,
        images: "list | None" = None,
        texts: "list[str] | None" = None,
        image_ids: "list[str] | None" = None,
        text_ids: "list[str] | None" = None,
        batch_size: int = 32,
        show_progress: bool = False,
        allow_urls: bool = False,
    ) -> dict:
        """Embeds candidates and adds them to the index. A bad one is left out and reported; the others are added.

        Args:
            images (`list`, *optional*): paths, `PIL.Image`s or arrays.
            texts (`list[str]`, *optional*): texts.
            image_ids, text_ids (`list[str]`, *optional*): by default the path and the text itself. A known id is
                replaced.
            batch_size (`int`): candidates embedded at a time.
            show_progress (`bool`): whether to show a bar.
            allow_urls (`bool`): whether pictures may be fetched from URLs.

        Returns:
            `dict`: `{"images": added, "texts": added, "skipped": [{"item", "reason"}]}`.

        Raises:
            ValueError: when ids and candidates do not agree in number.
        """
        _require_batch_size(batch_size)
        report: dict = {"images": 0, "texts": 0, "skipped": []}
        plans = []
        for kind, items, ids in (("image", images, image_ids), ("text", texts, text_ids)):
            if items is None:
                continue
            if isinstance(items, (str, os.PathLike)) or not hasattr(items, "__iter__"):
                raise ValueError(f"{kind}s is a list, not {items!r:.80}; for one candidate pass [{items!r:.80}].")
            items = list(items)
            if ids is not None and len(ids) != len(items):
                raise ValueError(f"{len(items)} {kind}s and {len(ids)} ids do not agree.")
            plans.append((kind, items, list(map(str, ids)) if ids is not None else self._default_ids(kind, items)))
        for kind, items, ids in plans:
            for start in tqdm(range(0, len(items), batch_size), desc=f"Embedding {kind}s", disable=not show_progress):
                part = slice(start, start + batch_size)
                report[f"{kind}s"] += self._add_batch(kind, items[part], ids[part], allow_urls, report["skipped"])
        return report

    def _default_ids(self, kind: str, items: list) -> list[str]:
        numbers = (n for n in itertools.count(self.index.count(kind)) if (kind, f"{kind}-{n}") not in self.index)
        return [str(x) if isinstance(x, (str, os.PathLike)) else f"{kind}-{next(numbers)}" for x in items]

    def _add_batch(self, kind: str, items: list, ids: list, allow_urls: bool, skipped: list) -> int:
        loaded, kept = [], []
        for item, item_id in zip(items, ids, strict=True):
            try:
                if kind == "image":
                    loaded.append(load_image(item, allow_urls=allow_urls))
                elif not isinstance(item, str) or not item.strip():
                    raise ValueError(
                        "an empty text" if isinstance(item, str) else f"{type(item).__name__}, not a text"
                    )
                else:
                    loaded.append(item)
                kept.append((item_id, item))
            except (ValueError, OSError) as error:
                skipped.append({"item": item if isinstance(item, str) else item_id, "reason": str(error)})
        if loaded:
            embeds = self._embed_images(loaded) if kind == "image" else self._embed_texts(loaded)
            self.index.add(kind, [i for i, _ in kept], embeds, [item for _, item in kept])
        return len(loaded)

    @torch.inference_mode()
    def _embed_images(self, images: list) -> torch.Tensor:
        return self.model.get_image_features(**self._ready(self.processor.process_images(images))).pooler_output

    @torch.inference_mode()
    def _embed_texts(self, texts: list) -> torch.Tensor:
        return self.model.get_text_features(**self._ready(self.processor.process_texts(texts))).pooler_output

    def _ready(self, features) -> dict:
        return {key: value.to(self.device) for key, value in features.items()}

    def add_embeddings(self, kind: str, ids: "list[str]", embeddings: torch.Tensor, payloads: list) -> None:
        """Adds candidates of `kind` `"text"` or `"image"` that are embedded already, `(candidates, width)`."""
        if embeddings.shape[-1] != self.model.config.embedding_width:
            raise ValueError(
                f"This model's space has {self.model.config.embedding_width} dimensions; the embeddings have "
                f"{embeddings.shape[-1]}."
            )
        self.index.add(kind, ids, embeddings, payloads)

    def _probe(self) -> "torch.Tensor | None":
        return None if self.model.clip is None else self._embed_texts([_PROBE])[0].float().cpu()

    def save_index(self, folder: "str | os.PathLike") -> None:
        """Writes the index to a folder."""
        self.index.probe = self._probe()
        self.index.save(folder)

    def load_index(self, folder: "str | os.PathLike") -> None:
        """Reads an index that `save_index` wrote.

        Raises:
            FileNotFoundError: when there is none.
            ValueError: when it is damaged, or was made by a model with another space.
        """
        index = RetrievalIndex.load(folder)
        probe = self._probe()
        if index.probe is not None and probe is not None:
            same = index.probe.shape == probe.shape and float(index.probe @ probe) > _SAME_SPACE
            if not same:
                raise ValueError(f"The index in {folder} was made by another model: its vectors mean something else.")
        self.index = index

    # -- the call ---------------------------------------------------------------------------------------------------
    def _sanitize_parameters(
        self, top_k=None, modality=None, image_threshold=None, max_length=None, allow_urls=None, **kwargs
    ):
        if kwargs:
            raise TypeError(f"multimodal-retrieval does not know {sorted(kwargs)}.")
        if modality is not None and modality not in ("both", "joint", *KINDS):
            raise ValueError(f"modality is 'both', 'text', 'image' or 'joint', not {modality!r}.")
        if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            raise ValueError(f"top_k is a whole number from 1 on, not {top_k!r}.")
        pre = {"max_length": max_length, "allow_urls": allow_urls}
        post = {"top_k": top_k, "modality": modality, "image_threshold": image_threshold}
        return (
            {key: value for key, value in pre.items() if value is not None},
            {},
            {key: value for key, value in post.items() if value is not None},
        )

    def __call__(self, inputs, batch_size: "int | None" = None, **kwargs):
        """Ranks the candidates for dialogues.

        Args:
            inputs: one dialogue (a list of chat messages, a string, a picture) or a list of them.
            batch_size (`int`, *optional*): dialogues embedded at a time, 8 by default.
            top_k (`int`): hits of each kind, 5 by default.
            modality (`str`): `"both"` (default), `"text"`, `"image"`, or `"joint"` for one ranking of both kinds.
            image_threshold (`float`, *optional*): best cosine from which on pictures are returned at all.
            max_length (`int`, *optional*): longest context in tokens; the latest are kept.
            allow_urls (`bool`): whether pictures may be fetched from URLs.

        Returns:
            `dict` or `list`: `{"text": [{"id", "score", "text"}], "image": [{"id", "score", "image"}]}`, a list of
            hits with their `"kind"` for `"joint"`; a list of these for a list of dialogues.

        Raises:
            ValueError: for a malformed dialogue, a picture that cannot be read, or an index without candidates.
            FileNotFoundError: for a picture that is not there.
        """
        _, _, post = self._sanitize_parameters(**kwargs)
        self._require_candidates({**self._postprocess_params, **post}.get("modality", "both"))
        single = is_conversation(inputs)
        batch = [inputs] if single else list(inputs)
        size = self._batch_size or 8 if batch_size is None else batch_size
        _require_batch_size(size)
        results = []
        for start in range(0, len(batch), size):
            part = {"dialogues": batch[start : start + size], "first": None if single else start}
            results.extend(super().__call__(part, **kwargs))
        return results[0] if single else results

    def _require_candidates(self, modality: str) -> None:
        kinds = (modality,) if modality in KINDS else KINDS
        if not any(self.index.count(kind) for kind in kinds):
            raise ValueError(
                f"There is no {' or '.join(kinds)} to retrieve: call add(images=..., texts=...) or load_index(...) "
                "first."
            )

    def embed(self, inputs) -> torch.Tensor:
        """The unified embeddings of dialogues, `(dialogues, width)`, unit vectors."""
        features = self.processor.process_context(inputs)
        with torch.inference_mode():
            return self.model.get_multimodal_features(**self._ready(features)).pooler_output

    def preprocess(self, inputs, max_length=None, allow_urls=False):
        return dict(
            self.processor.process_context(
                inputs["dialogues"], max_length=max_length, allow_urls=allow_urls, first=inputs["first"]
            )
        )

    def _forward(self, model_inputs):
        return {"embeds": self.model.get_multimodal_features(**model_inputs).pooler_output}

    def postprocess(self, model_outputs, top_k=5, modality="both", image_threshold=None):
        embeds = model_outputs["embeds"]
        if modality == "joint":
            return self.index.search(embeds, top_k)
        found = {
            kind: self.index.search(embeds, top_k, kind) for kind in (KINDS if modality == "both" else (modality,))
        }
        threshold = self.model.config.image_threshold if image_threshold is None else image_threshold
        results = []
        for row in range(len(embeds)):
            hits = {k: [{"id": h["id"], "score": h["score"], k: h[k]} for h in found[k][row]] for k in found}
            if threshold is not None and hits.get("image") and hits["image"][0]["score"] < threshold:
                hits["image"] = []
            results.append(hits)
        return results

    # -- files ------------------------------------------------------------------------------------------------------
    def save_pretrained(self, save_directory, **kwargs):
        """Saves the model, the processor and the code of both and of this task."""
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)
        custom_object_save(self, save_directory)


__all__ = ["MultimodalRetrievalPipeline"]
