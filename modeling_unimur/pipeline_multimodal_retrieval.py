"""The pipeline task `multimodal-retrieval`: a dialogue in, ranked texts and pictures out."""

import importlib
import itertools
import os
from collections.abc import Sequence

import torch
from tqdm.auto import tqdm
from transformers import Pipeline
from transformers.dynamic_module_utils import custom_object_save

from .candidates_unimur import picture_inputs, picture_vectors, same_space, space_name, text_vectors
from .chat_cache_unimur import ChatCache
from .image_loading import load_image
from .index_folder import IndexFolder
from .messages_unimur import is_conversation
from .retrieval_index import MEMORY, RetrievalIndex
from .vector_index import KINDS, Hit, is_database


def _require_batch_size(batch_size: int) -> None:
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size is a whole number from 1 on, not {batch_size!r}.")


def _shown(hit: Hit, *more: str) -> dict:
    """A hit as the pipeline returns it."""
    known = {"id": hit.id, "score": hit.score, **{name: getattr(hit, name) for name in more}}
    return {**known, hit.kind: None, **hit.payload, **known}


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
        # Turns of a chat that were read already are not run again; `chats.max_bytes = 0` leaves that out.
        self.chats = ChatCache(self.model, self.processor)
        self._space: str | None = None

    # -- the candidates ---------------------------------------------------------------------------------------------
    def add(
        self,
        images: "list | None" = None,
        texts: "list[str] | None" = None,
        image_ids: "list[str] | None" = None,
        text_ids: "list[str] | None" = None,
        image_payloads: "list[dict] | None" = None,
        text_payloads: "list[dict] | None" = None,
        captions: "list[str] | None" = None,
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
            image_payloads, text_payloads (`list[dict]`, *optional*): what comes back with a hit besides, and can be
                asked for by `where`: a caption, a licence, anything small.
            captions (`list[str]`, *optional*): of the pictures, None or "" for one without; they come back with a hit
                as payload `caption`. A model that fuses pictures with their words (UniVL-DR) embeds them too.
            batch_size (`int`): candidates embedded at a time.
            show_progress (`bool`): whether to show a bar.
            allow_urls (`bool`): whether pictures may be fetched from URLs.

        Returns:
            `dict`: `{"images": added, "texts": added, "skipped": [{"item", "reason"}]}`.

        Raises:
            ValueError: when ids or payloads and candidates do not agree in number.
        """
        _require_batch_size(batch_size)
        report: dict = {"images": 0, "texts": 0, "skipped": []}
        if captions is not None:
            image_payloads = self._with_captions(images, captions, image_payloads)
        plans = []
        for kind, items, ids, payloads in (
            ("image", images, image_ids, image_payloads),
            ("text", texts, text_ids, text_payloads),
        ):
            if items is None:
                continue
            if isinstance(items, (str, os.PathLike)) or not hasattr(items, "__iter__"):
                raise ValueError(f"{kind}s is a list, not {items!r:.80}; for one candidate pass [{items!r:.80}].")
            items = list(items)
            for what, given in (("ids", ids), ("payloads", payloads)):
                if given is not None and len(given) != len(items):
                    raise ValueError(f"{len(items)} {kind}s and {len(given)} {what} do not agree.")
            ids = list(map(str, ids)) if ids is not None else self._default_ids(kind, items)
            payloads = [{}] * len(items) if payloads is None else [payload or {} for payload in payloads]
            plans.append((kind, list(zip(items, ids, payloads, strict=True))))
        for kind, rows in plans:
            for start in tqdm(range(0, len(rows), batch_size), desc=f"Embedding {kind}s", disable=not show_progress):
                batch = rows[start : start + batch_size]
                report[f"{kind}s"] += self._add_batch(kind, batch, allow_urls, report["skipped"])
        return report

    @staticmethod
    def _with_captions(images, captions, payloads) -> list[dict]:
        numbers = [0 if given is None else len(given) for given in (images, captions)]
        if isinstance(captions, str) or numbers[0] != numbers[1] or (payloads and len(payloads) != numbers[0]):
            raise ValueError(f"{numbers[0]} images and {numbers[1]} captions do not agree: pass one a picture.")
        payloads = payloads or [{}] * numbers[0]
        return [
            {**({"caption": text} if text else {}), **(payload or {})}
            for text, payload in zip(captions, payloads, strict=True)
        ]

    def _default_ids(self, kind: str, items: list) -> list[str]:
        numbers = (n for n in itertools.count(self.index.count(kind)) if (kind, f"{kind}-{n}") not in self.index)
        return [str(x) if isinstance(x, (str, os.PathLike)) else f"{kind}-{next(numbers)}" for x in items]

    def _add_batch(self, kind: str, rows: list, allow_urls: bool, skipped: list) -> int:
        loaded, ids, payloads = [], [], []
        for item, item_id, payload in rows:
            try:
                if kind == "image":
                    loaded.append(load_image(item, allow_urls=allow_urls))
                elif not isinstance(item, str) or not item.strip():
                    raise ValueError(
                        "an empty text" if isinstance(item, str) else f"{type(item).__name__}, not a text"
                    )
                else:
                    loaded.append(item)
                ids.append(item_id)
                payloads.append(self._payload(kind, item, payload))
            except (ValueError, OSError) as error:
                skipped.append({"item": item if isinstance(item, str) else item_id, "reason": str(error)})
        if loaded:
            self.index.add(kind, ids, self._embed(kind, loaded, payloads), payloads)
        return len(loaded)

    def _payload(self, kind: str, item, payload: dict) -> dict:
        """What is stored with a candidate: the text, or what names the picture, and what its owner gave."""
        if not self.index.keeps_objects and not isinstance(item, str):
            item = os.fspath(item) if isinstance(item, os.PathLike) else None
        return {kind: item, **payload}

    def _embed(self, kind: str, items: list, payloads: list[dict]) -> torch.Tensor:
        if kind == "image":
            return picture_vectors(self.model, picture_inputs(self.processor, items, payloads))
        return text_vectors(self.model, self.processor.process_texts(items))

    def _ready(self, features) -> dict:
        return {key: value.to(self.device) for key, value in features.items()}

    def add_embeddings(self, kind: str, ids: "list[str]", embeddings: torch.Tensor, payloads: list) -> None:
        """Adds candidates of `kind` `"text"` or `"image"` that are embedded already, `(candidates, width)`; a payload
        is a dict, or the text itself or what names the picture."""
        if embeddings.shape[-1] != self.model.config.embedding_width:
            raise ValueError(
                f"This model's space has {self.model.config.embedding_width} dimensions; the embeddings have "
                f"{embeddings.shape[-1]}."
            )
        payloads = [payload if isinstance(payload, dict) else {kind: payload} for payload in payloads]
        self.index.add(kind, ids, torch.nn.functional.normalize(embeddings.detach().float(), dim=-1), payloads)

    def remove(self, images: Sequence[str] = (), texts: Sequence[str] = ()) -> int:
        """Removes candidates by their ids; returns how many.

        Raises:
            ValueError: an id that is not there; no candidate of its kind has been removed then.
        """
        return sum(self.index.remove(kind, ids) for kind, ids in (("image", images), ("text", texts)) if len(ids))

    # -- the index --------------------------------------------------------------------------------------------------
    @property
    def space(self) -> "str | None":
        """Name and revision of the candidates' space, which an index keeps; see `space_name`."""
        if self._space is None:
            self._space = space_name(self.model, self.processor)
        return self._space

    def save_index(self, folder: "str | os.PathLike | None" = None) -> None:
        """Writes the index, by default to where it was loaded from; another index in the folder is replaced whole."""
        if self.index.model is None:
            self.index.model = self.space
        if folder is None:
            self.index.save()
        else:
            self.index.save(folder, replace=True)

    def load_index(
        self, index, create: "str | None" = None, read_only: bool = False, model: "str | None" = None, **options
    ) -> None:
        """Searches and fills another index from now on.

        Args:
            index: a folder, a Milvus file `*.db` or a server's address; or an index of `modeling_unimur.retrieval`.
                All but a folder of `save_index` need that package.
            create (`str`, *optional*): makes an index of this kind where there is none: `"memory"`, or in FAISS' words
                `"Flat"`, `"HNSW32"`, `"IVF1024,PQ48"`.
            read_only (`bool`): for searching only, beside a process that writes.
            model (`str`, *optional*): what the index calls this model, where that is another name than `space`.
            options: of `modeling_unimur.retrieval.open_index`.

        Raises:
            FileNotFoundError: when there is none.
            ValueError: when it is damaged, or was made by a model with another space.
            BlockingIOError: when another process writes it.
            ImportError: when what keeps it is not installed.
        """
        given = hasattr(index, "search")
        found = index if given else self._open_index(os.fspath(index), create, read_only, model, options)
        try:
            width, name = self.model.config.embedding_width, model or self.space
            if found.width not in (None, width):
                raise ValueError(f"The index holds vectors of {found.width} numbers; this model's have {width}.")
            if None not in (found.model, name) and not same_space(found.model, name):
                raise ValueError(
                    f"The index was made by another model ({found.model}, not {name}): its vectors mean something "
                    "else. Load it with that model, or build another one."
                )
        except ValueError:
            if not given:
                found.close()
            raise
        self.index = found

    def _open_index(self, place: str, create, read_only: bool, model: "str | None", options: dict):
        about = None if is_database(place) else IndexFolder(place).about()
        if about is not None and about.get("factory") == MEMORY and not options:
            return RetrievalIndex.load(place, read_only=read_only)
        if about is None and create is None and not is_database(place):
            raise FileNotFoundError(
                f"{place} holds no index: make one with `save_index`, or name its kind by create=."
            )
        try:
            package = importlib.import_module("modeling_unimur.retrieval")
        except ImportError as error:
            raise ImportError(
                f"The index in {place} is opened by the package: `pip install unimur[faiss]`, or unimur[milvus]."
            ) from error
        if create is None:
            return package.open_index(place, read_only=read_only, **options)
        try:
            return package.open_index(place, read_only=read_only, **options)
        except FileNotFoundError:
            pass
        width, name = self.model.config.embedding_width, model or self.space
        if name is None:
            raise ValueError("This model's candidates are ready vectors: name the model that made them, model=.")
        return package.open_index(place, width, name, index=create, **options)

    # -- the call ---------------------------------------------------------------------------------------------------
    def _sanitize_parameters(
        self, top_k=None, modality=None, image_threshold=None, max_length=None, allow_urls=None, where=None, **kwargs
    ):
        if kwargs:
            raise TypeError(f"multimodal-retrieval does not know {sorted(kwargs)}.")
        if modality is not None and modality not in ("both", "joint", *KINDS):
            raise ValueError(f"modality is 'both', 'text', 'image' or 'joint', not {modality!r}.")
        if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            raise ValueError(f"top_k is a whole number from 1 on, not {top_k!r}.")
        pre = {"max_length": max_length, "allow_urls": allow_urls}
        post = {"top_k": top_k, "modality": modality, "image_threshold": image_threshold, "where": where}
        return (
            {key: value for key, value in pre.items() if value is not None},
            {},
            {key: value for key, value in post.items() if value is not None},
        )

    def __call__(self, inputs, batch_size: "int | None" = None, **kwargs):
        """Ranks the candidates for dialogues. Of one chat of several messages, only what follows an earlier call's is
        run (`chats`).

        Args:
            inputs: one dialogue (a list of chat messages, a string, a picture) or a list of them.
            batch_size (`int`, *optional*): dialogues embedded at a time, 8 by default.
            top_k (`int`): hits of each kind, 5 by default.
            modality (`str`): `"both"` (default), `"text"`, `"image"`, or `"joint"` for one ranking of both kinds.
            image_threshold (`float`, *optional*): best cosine from which on pictures are returned at all.
            where (`dict`, *optional*): what a candidate's payload must say, as in
                `{"licence": "cc0", "year": {"gte": 2020}}`.
            max_length (`int`, *optional*): longest context in tokens; the latest are kept.
            allow_urls (`bool`): whether pictures may be fetched from URLs.

        Returns:
            `dict` or `list`: `{"text": [{"id", "score", "text"}], "image": [{"id", "score", "image"}]}` with what else
            their payloads hold, a list of hits with their `"kind"` for `"joint"`; a list of these for a list of
            dialogues.

        Raises:
            ValueError: for a malformed dialogue, a picture that cannot be read, or an index without candidates.
            FileNotFoundError: for a picture that is not there.
        """
        _, _, post = self._sanitize_parameters(**kwargs)
        self._require_candidates({**self._postprocess_params, **post}.get("modality", "both"))
        single = is_conversation(inputs)
        if single and self.chats.takes(inputs):
            pre, _, post = self._sanitize_parameters(**kwargs)
            embeds = self.chats.embed(inputs, **{**self._preprocess_params, **pre})
            return self.postprocess({"embeds": embeds}, **{**self._postprocess_params, **post})[0]
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

    def postprocess(self, model_outputs, top_k=5, modality="both", image_threshold=None, where=None):
        embeds = model_outputs["embeds"].float()
        if modality == "joint":
            return [[_shown(hit, "kind") for hit in hits] for hits in self.index.search(embeds, top_k, None, where)]
        kinds = KINDS if modality == "both" else (modality,)
        found = {kind: self.index.search(embeds, top_k, kind, where) for kind in kinds}
        threshold = self.model.config.image_threshold if image_threshold is None else image_threshold
        results = []
        for row in range(len(embeds)):
            hits = {kind: [_shown(hit) for hit in found[kind][row]] for kind in kinds}
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
