"""The pipeline task `multimodal-retrieval`: a dialogue in, ranked texts and images out."""

import contextlib
import importlib
import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence, Sized
from functools import partial
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, get_worker_info
from tqdm.auto import tqdm
from transformers import Pipeline
from transformers.dynamic_module_utils import custom_object_save
from transformers.pipelines.pt_utils import PipelineDataset, PipelineIterator

from .coherent_reply import DEPTH, Coherence
from .conversation import is_conversation, is_image, is_message, read_conversation, require_unicode
from .image_loading import load_image
from .index_folder import IndexFolder
from .memory_index import MEMORY, RetrievalIndex
from .modeling_open_clip import picture_inputs, picture_vectors, same_space, space_name, text_vectors
from .prefix_cache import ChatCache
from .shared_lock import SharedLock
from .thread_lock import ThreadLock
from .vector_index import KINDS, MODALITIES, Hit, is_database

_ON_ERROR = ("raise", "skip")


class _Batch(NamedTuple):
    """Dialogues that are read together."""

    dialogues: list
    # What errors call them; None for the one that is not one of many.
    numbers: "Sequence[int | None]"
    # Whether it is one chat that goes on from what is kept of its owner's.
    kept: bool = False
    owner: "str | None" = None

    def name(self, place: int) -> str:
        number = self.numbers[place]
        return "The dialogue" if number is None else f"Dialogue {number}"


class _Batches(Sequence):
    """A sequence of dialogues as one of batches, which are read when they are asked for."""

    def __init__(self, dialogues, size: int):
        self.dialogues, self.size = dialogues, size

    def __len__(self) -> int:
        return math.ceil(len(self.dialogues) / self.size)

    def __getitem__(self, batch: int) -> _Batch:
        numbers = range(batch * self.size, min((batch + 1) * self.size, len(self.dialogues)))
        return _Batch([self.dialogues[number] for number in numbers], numbers)


def _batches(dialogues: Iterator, size: int) -> "Iterator[_Batch]":
    for start in itertools.count(0, size):
        batch = list(itertools.islice(dialogues, size))
        if not batch:
            return
        yield _Batch(batch, range(start, start + len(batch)))


class _Answers:
    """Answers to a sequence of dialogues, made while they are iterated over."""

    def __init__(self, make, number: int):
        self._make, self._number = make, number

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator:
        return self._make()


def _as_it_is(batch):
    return batch


def _is_stream(inputs) -> bool:
    """Whether the value is a generator, a dataset or a column of one: dialogues that are read one after the other."""
    if isinstance(inputs, (str, bytes, list, tuple, Mapping, os.PathLike, torch.Tensor)) or is_image(inputs):
        return False
    return hasattr(inputs, "__iter__") or (hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__"))


def _each(items) -> Iterator:
    """The items of a list, a generator or a dataset, one after the other."""
    return iter(items) if hasattr(items, "__iter__") else (items[number] for number in range(len(items)))


def _require_batch_size(batch_size: int) -> None:
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}.")


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _shown(hit: Hit, *more: str) -> dict:
    """A hit as the pipeline returns it."""
    known = {"id": hit.id, "score": hit.score, **{name: getattr(hit, name) for name in more}}
    if hit.cosine is not None:
        known["cosine"] = hit.cosine
    return {**known, hit.kind: None, **hit.payload, **known}


class _Candidate(NamedTuple):
    """A candidate that can be embedded."""

    name: str  # in the report
    content: object  # a text or a decoded image
    id: "str | None"
    payload: dict


class MultimodalRetrievalPipeline(Pipeline):
    """Retrieves the text and the image of a dialogue's reply.

    ```python
    retriever = pipeline("multimodal-retrieval", model="<folder or Hub id>", trust_remote_code=True)
    retriever.add(images=["cat.png", "dog.png"], texts=["Good morning!", "What a mess."])
    retriever([{"role": "user", "content": "look who slept on my keyboard"}], top_k=3)
    ```

    Several threads may use one pipeline. They wait for one another, so that a batch is faster than threads.

    Args:
        anchor_encoder (*optional*): for anchored queries of a model whose candidates are ready embeddings: the encoder
            that made them, a `SentenceTransformer` or a callable from a list of texts to vectors. By default the one
            that the model's configuration names is loaded.
        args, kwargs: of every pipeline.
    """

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False

    def __init__(self, *args, anchor_encoder=None, **kwargs):
        super().__init__(*args, **kwargs)
        if anchor_encoder is not None:
            self.processor.anchor_encoder = anchor_encoder
        self.index = RetrievalIndex()
        self._model_lock, self._index_lock = ThreadLock(), SharedLock()
        # Turns of a chat that were read already are not run again; `chats.max_bytes = 0` leaves that out.
        self.chats = ChatCache(self.model, self.processor)
        self._space: str | None = None

    # -- the candidates ---------------------------------------------------------------------------------------------
    def add(
        self,
        images=None,
        texts=None,
        image_ids: "list[str | None] | None" = None,
        text_ids: "list[str | None] | None" = None,
        image_payloads: "list[dict] | None" = None,
        text_payloads: "list[dict] | None" = None,
        captions: "list[str] | None" = None,
        batch_size: int = 32,
        show_progress: bool = False,
        allow_urls: "bool | None" = None,
    ) -> dict:
        """Embeds candidates and adds them to the index. A bad one is left out and reported; the others are added.

        Candidates, ids, payloads and captions are lists, or generators, datasets and their columns, which are read
        batch by batch.

        Args:
            images (`list`, *optional*): paths, `PIL.Image`s, arrays or the bytes of files.
            texts (`list[str]`, *optional*): texts. A string is a text, whatever it ends with.
            image_ids, text_ids (`list[str]`, *optional*): by default, and where one is None, the path or the text
                itself, and a running number for an image without a path. A known id is replaced.
            image_payloads, text_payloads (`list[dict]`, *optional*): what comes back with a hit besides, and can be
                asked for by `where`: a caption, a licence, anything small.
            captions (`list[str]`, *optional*): of the images, None or "" for one without; they come back with a hit
                as payload `caption`. A model that fuses images with their captions (UniVL-DR) embeds them too.
            batch_size (`int`): candidates embedded at a time.
            show_progress (`bool`): whether to show a bar.
            allow_urls (`bool`, *optional*): whether images may be fetched from URLs; no by default.

        Returns:
            `dict`: `{"images": added, "texts": added, "skipped": [{"item", "reason"}]}`.

        Raises:
            ValueError: when ids, payloads or captions and candidates do not agree in number. Where one of them has no
                length, this shows only at its end.
        """
        _require_batch_size(batch_size)
        given = {
            "image": (images, {"ids": image_ids, "payloads": image_payloads, "captions": captions}),
            "text": (texts, {"ids": text_ids, "payloads": text_payloads}),
        }
        for kind, (items, columns) in given.items():
            self._require_columns(kind, () if items is None else items, columns)
        report: dict = {"images": 0, "texts": 0, "skipped": []}
        for kind, (items, columns) in given.items():
            if items is None:
                continue
            rows = self._rows(kind, items, columns)
            total = len(items) if isinstance(items, Sized) else None
            with tqdm(total=total, desc=f"Embedding {kind}s", disable=not show_progress) as bar:
                while batch := list(itertools.islice(rows, batch_size)):
                    report[f"{kind}s"] += self._add_batch(kind, batch, allow_urls, report["skipped"])
                    bar.update(len(batch))
        return report

    @staticmethod
    def _require_columns(kind: str, items, columns: dict) -> None:
        for what, values in ((f"{kind}s", items), *columns.items()):
            if values is not None and not (isinstance(values, (list, tuple)) or _is_stream(values)):
                raise ValueError(f"{what} is a list, not {values!r:.80}; for one candidate pass [{values!r:.80}].")
            if isinstance(values, Sized) and isinstance(items, Sized) and len(values) != len(items):
                raise ValueError(f"{len(items)} {kind}s and {len(values)} {what} do not agree: pass one for each.")

    @staticmethod
    def _rows(kind: str, items, columns: dict) -> Iterator[tuple]:
        """Each candidate's number with its values of the columns."""
        ended = object()
        streams = {what: itertools.repeat(None) if given is None else _each(given) for what, given in columns.items()}
        for number, item in enumerate(_each(items)):
            values = [next(stream, ended) for stream in streams.values()]
            if missing := [what for what, value in zip(streams, values, strict=True) if value is ended]:
                what = missing[0]
                raise ValueError(f"More than {number} {kind}s and {number} {what} do not agree: pass one for each.")
            yield number, item, *values
        for what, given in columns.items():
            if given is not None and next(streams[what], ended) is not ended:
                raise ValueError(f"There are more {what} than {kind}s: pass one for each.")

    def _add_batch(self, kind: str, rows: list, allow_urls: "bool | None", skipped: list) -> int:
        candidates = []
        for number, item, *values in rows:
            try:
                candidates.append(self._candidate(kind, number, item, *values, allow_urls=allow_urls))
            except Exception as error:  # of this candidate alone, whatever a decoder raises
                name = item if isinstance(item, str) else values[0] if values[0] is not None else f"{kind} {number}"
                skipped.append({"item": str(name), "reason": _reason(error)})
        with self._model_lock:
            candidates, inputs = self._inputs(kind, candidates, skipped)
            if not candidates:
                return 0
            vectors = picture_vectors(self.model, inputs) if kind == "image" else text_vectors(self.model, inputs)
        with self._index_lock.alone():
            return self._store(kind, candidates, vectors, skipped)

    def _candidate(self, kind, number, item, item_id, payload, caption=None, allow_urls=None) -> _Candidate:
        if kind == "image":
            content = load_image(item, allow_urls=self._may_fetch(allow_urls))
        elif not isinstance(item, str):
            raise ValueError(f"{type(item).__name__}, not a text")
        elif not item.strip():
            raise ValueError("an empty text")
        else:
            content = require_unicode(item, "The text")
        if caption is not None and not isinstance(caption, str):
            raise ValueError(f"The caption is a string, not {type(caption).__name__}.")
        if payload is not None and not isinstance(payload, dict):
            raise ValueError(f"The payload is a dict of JSON values, not {type(payload).__name__}.")
        if item_id is None and isinstance(item, (str, os.PathLike)):
            item_id = os.fspath(item)
        elif item_id is not None and not isinstance(item_id, str):
            if isinstance(item_id, bool) or not hasattr(item_id, "__index__"):
                raise ValueError(f"An id must be a string or an integer, got {type(item_id).__name__}.")
            item_id = str(item_id)
        shown = item
        if not isinstance(item, str) and not self.index.keeps_objects:
            shown = os.fspath(item) if isinstance(item, os.PathLike) else None
        payload = {
            kind: shown,
            **({"caption": require_unicode(caption, "The caption")} if caption else {}),
            **(payload or {}),
        }
        return _Candidate(item_id or f"{kind} {number}", content, item_id, payload)

    def _may_fetch(self, allow_urls: "bool | None") -> bool:
        return self.processor.allow_urls if allow_urls is None else allow_urls

    def _inputs(self, kind: str, candidates: list, skipped: list):
        """Those that the processor takes, and what it makes of them."""

        def read(some):
            contents = [candidate.content for candidate in some]
            if kind == "image":
                return picture_inputs(self.processor, contents, [candidate.payload for candidate in some])
            return self.processor.process_texts(contents)

        if not candidates:
            return [], None
        try:
            return candidates, read(candidates)
        except Exception:  # one of them
            good = []
        for candidate in candidates:
            try:
                read([candidate])
                good.append(candidate)
            except Exception as error:
                skipped.append({"item": candidate.name, "reason": _reason(error)})
        return good, read(good) if good else None

    def _store(self, kind: str, candidates: list, vectors: torch.Tensor, skipped: list) -> int:
        """Adds candidates; those that the index refuses, for an id or a payload, are reported. Returns how many."""
        free = (n for n in itertools.count(self.index.count(kind)) if (kind, f"{kind}-{n}") not in self.index)
        ids = [f"{kind}-{next(free)}" if candidate.id is None else candidate.id for candidate in candidates]
        try:
            self.index.add(kind, ids, vectors, [candidate.payload for candidate in candidates])
            return len(candidates)
        except (ValueError, TypeError) as error:  # nothing has been added then
            if len(candidates) == 1:
                skipped.append({"item": candidates[0].name, "reason": _reason(error)})
                return 0
        return sum(self._store(kind, [one], vectors[at : at + 1], skipped) for at, one in enumerate(candidates))

    def add_embeddings(self, kind: str, ids: "list[str]", embeddings: torch.Tensor, payloads: list) -> None:
        """Adds candidates of `kind` `"text"` or `"image"` that are embedded already, `(candidates, width)`; a payload
        is a dict, or the text itself or what names the picture."""
        if embeddings.shape[-1] != self.model.config.embedding_width:
            raise ValueError(
                f"This model's space has {self.model.config.embedding_width} dimensions; the embeddings have "
                f"{embeddings.shape[-1]}."
            )
        payloads = [payload if isinstance(payload, dict) else {kind: payload} for payload in payloads]
        with self._index_lock.alone():
            self.index.add(kind, ids, torch.nn.functional.normalize(embeddings.detach().float(), dim=-1), payloads)

    def remove(self, images: Sequence[str] = (), texts: Sequence[str] = ()) -> int:
        """Removes candidates by their ids; returns how many.

        Raises:
            ValueError: an id that is not there; no candidate of its kind has been removed then.
        """
        with self._index_lock.alone():
            return sum(self.index.remove(kind, ids) for kind, ids in (("image", images), ("text", texts)) if len(ids))

    # -- the index --------------------------------------------------------------------------------------------------
    @property
    def space(self) -> "str | None":
        """Name and revision of the candidates' space, which an index keeps; see `space_name`."""
        with self._model_lock:
            if self._space is None:
                self._space = space_name(self.model, self.processor)
            return self._space

    def save_index(self, folder: "str | os.PathLike | None" = None) -> None:
        """Writes the index, by default to where it was loaded from; another index in the folder is replaced whole."""
        with self._index_lock.alone():
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
            index: a folder, a Milvus file `*.db` or a server's address; or an index of `modeling_unimur.index`.
                All but a folder of `save_index` need that package.
            create (`str`, *optional*): makes an index of this kind where there is none: `"memory"`, or in FAISS' words
                `"Flat"`, `"HNSW32"`, `"IVF1024,PQ48"`.
            read_only (`bool`): for searching only, beside a process that writes.
            model (`str`, *optional*): what the index calls this model, where that is another name than `space`.
            options: of `modeling_unimur.index.open_index`.

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
                f"{place} contains no index: make one with `save_index`, or name its kind by create=."
            )
        try:
            package = importlib.import_module("modeling_unimur.index")
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
        self,
        top_k=None,
        modality=None,
        image_threshold=None,
        max_length=None,
        allow_urls=None,
        where=None,
        on_error=None,
        coherent=None,
        **kwargs,
    ):
        if kwargs:
            raise TypeError(f"multimodal-retrieval does not know {sorted(kwargs)}.")
        if modality is not None and modality not in MODALITIES:
            raise ValueError(f"modality must be one of {MODALITIES}, got {modality!r}.")
        if coherent is not None and not isinstance(coherent, bool):
            raise ValueError(f"coherent must be True or False, got {coherent!r}.")
        if top_k is not None and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1):
            raise ValueError(f"top_k must be a positive integer, got {top_k!r}.")
        if on_error is not None and on_error not in _ON_ERROR:
            raise ValueError(f"on_error is 'raise' or 'skip', not {on_error!r}.")
        pre = {"max_length": max_length, "allow_urls": allow_urls, "on_error": on_error}
        post = {"top_k": top_k, "modality": modality, "image_threshold": image_threshold, "where": where}
        post["coherent"] = coherent
        return (
            {key: value for key, value in pre.items() if value is not None},
            {},
            {key: value for key, value in post.items() if value is not None},
        )

    def __call__(self, inputs, batch_size: "int | None" = None, num_workers: "int | None" = None, **kwargs):
        """Ranks the candidates for dialogues. Of one chat of several messages, only what follows an earlier call's is
        run (`chats`).

        Args:
            inputs: one dialogue (a list of chat messages, a string, an image) or a list of them; or a generator, a
                dataset or a column of one, which is read batch by batch while the answers are iterated over.
            batch_size (`int`, *optional*): dialogues embedded at a time, 8 by default.
            num_workers (`int`, *optional*): processes that read dialogues and decode images, none by default.
            top_k (`int`): hits of each kind, 5 by default.
            modality (`str`): `"both"` (default), `"text"`, `"image"`, `"joint"` for one ranking of both kinds, or
                `"pair"` for ranked pairs of a text and an image.
            coherent (`bool`): whether texts and images are rescored by how well they agree with each other
                (`coherent_reply.Coherence`, by `coherence_weight`, `coherence_text_share` and `coherence_temperature`
                of the configuration). False by default.
            image_threshold (`float`, *optional*): best cosine from which on images are returned at all, in answers
                that are no joint ranking and no pairs.
            where (`dict`, *optional*): what a candidate's payload must say, as in
                `{"licence": "cc0", "year": {"gte": 2020}}`.
            max_length (`int`, *optional*): longest context in tokens; the latest are kept.
            allow_urls (`bool`, *optional*): whether images may be fetched from URLs; no by default.
            on_error (`str`): `"raise"` (default) for an error that names the bad dialogue, which for a list is raised
                before the model runs, unless an image turns out to be damaged when it is decoded; `"skip"` for
                `{"error": reason}` in its place, and answers to the others.

        Returns:
            `dict` or `list`: `{"text": [{"id", "score", "text"}], "image": [{"id", "score", "image"}]}` with what else
            their payloads hold, a list of hits with their `"kind"` for `"joint"`, a list of
            `{"score", "text": hit, "image": hit}` for `"pair"`; a list of these for a list of dialogues; an iterable
            of these for a generator or a dataset. `score` is the cosine with the dialogue. A hit that was rescored by
            `coherent=True` has that as `cosine`, and `score` is the sum of it and of the other kind's vote; where one
            kind has no candidate, the answer is that of a plain call. `"joint"` merges the rescored hits of both kinds
            by their scores. The score of a pair is the sum of its hits' scores and of `coherence_weight` times the
            cosine between its text and its image.

        Raises:
            ValueError: for a malformed dialogue, an image that cannot be read, or an index without candidates.
            FileNotFoundError: for an image that is not there.
        """
        given = self._sanitize_parameters(**kwargs)
        set_before = (self._preprocess_params, self._forward_params, self._postprocess_params)
        pre, forward, post = ({**before, **now} for before, now in zip(set_before, given, strict=True))
        size = self._batch_size or 8 if batch_size is None else batch_size
        _require_batch_size(size)
        workers = self._num_workers or 0 if num_workers is None else num_workers
        self._require_candidates(post.get("modality", "both"))
        if isinstance(inputs, Iterator):
            first = list(itertools.islice(inputs, 1))
            inputs = (
                list(itertools.chain(first, inputs))
                if first and is_message(first[0])
                else itertools.chain(first, inputs)
            )
        if _is_stream(inputs):
            return self.get_iterator(inputs, workers, size, pre, forward, post)
        if is_conversation(inputs):
            return self.run_single(inputs, pre, forward, post)
        inputs = list(inputs)
        if pre.get("on_error", "raise") == "raise":
            self._require_readable(inputs, pre.get("allow_urls"))
        return list(self.get_iterator(inputs, workers, size, pre, forward, post))

    def _require_candidates(self, modality: str) -> None:
        kinds = (modality,) if modality in KINDS else KINDS
        there = [self.index.count(kind) > 0 for kind in kinds]
        if not (all(there) if modality == "pair" else any(there)):
            missing = [kind for kind, found in zip(kinds, there, strict=True) if not found]
            raise ValueError(
                f"There is no {' or '.join(missing)} to retrieve: call add(images=..., texts=...) or load_index(...) "
                "first."
            )

    def _require_readable(self, dialogues: list, allow_urls: "bool | None") -> None:
        """Raises the error of the first bad dialogue, as far as it shows without decoding images."""

        def glance(source, allow_urls: bool):
            if isinstance(source, (str, os.PathLike)):
                address = os.fsdecode(source)
                fetched = allow_urls and address.startswith(("http://", "https://"))
                fine = fetched or address.startswith("data:") or (os.path.isfile(address) and os.path.getsize(address))
            else:
                fine = is_image(source)
            if not fine:  # `load_image` says best why
                load_image(source, allow_urls=allow_urls)

        batch = _Batch(dialogues, range(len(dialogues)))
        for place, dialogue in enumerate(dialogues):
            _, images = read_conversation(dialogue, batch.name(place), self._may_fetch(allow_urls), load=glance)
            if images and not hasattr(self.model, "language_model"):  # whose queries are texts
                self._read(_Batch([dialogue], [place]), None, allow_urls)

    def run_single(self, inputs, preprocess_params, forward_params, postprocess_params):
        kept = self.chats.takes(inputs)
        features = self.preprocess(_Batch([inputs], [None], kept), **preprocess_params)
        return self.postprocess(self.forward(features, **forward_params), **postprocess_params)[0]

    def get_iterator(
        self, inputs, num_workers: int, batch_size: int, preprocess_params, forward_params, postprocess_params
    ):
        """The answers to many dialogues, made as they are asked for: with a length where the dialogues have one."""
        params = (preprocess_params, forward_params, postprocess_params)
        if isinstance(inputs, Sized) and hasattr(inputs, "__getitem__"):
            batches = _Batches(inputs, batch_size)
            return _Answers(partial(self._answers, PipelineDataset, batches, num_workers, *params), len(inputs))
        # Each process would read the whole of it.
        return self._answers(PipelineIterator, _batches(iter(inputs), batch_size), min(num_workers, 1), *params)

    def _answers(self, kind, batches, num_workers, preprocess_params, forward_params, postprocess_params) -> Iterator:
        if num_workers:  # tokenizers warn of forks otherwise
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        dataset = kind(batches, self.preprocess, preprocess_params)
        for features in DataLoader(dataset, batch_size=None, num_workers=num_workers, collate_fn=_as_it_is):
            yield from self.postprocess(self.forward(features, **forward_params), **postprocess_params)

    def embed(
        self,
        inputs,
        batch_size: "int | None" = None,
        max_length: "int | None" = None,
        allow_urls: "bool | None" = None,
        on_error: "str | None" = None,
        owners: "list[str | None] | None" = None,
    ):
        """Embeds dialogues, for `rank` or for an index of one's own.

        Args:
            inputs: one dialogue or several, as in a call.
            batch_size, max_length, allow_urls, on_error (*optional*): as in a call.
            owners (`list[str]`, *optional*): whose chat each dialogue is. It goes on from what is kept of that owner's
                chats (`chats`), and of nobody else's; one of None is run from its start, with the others of a batch.

        Returns:
            `torch.Tensor`: unit vectors `(dialogues, width)`, float32 on the CPU. With `on_error="skip"` a list of
            vectors `(width,)`, with the exception in the place of a bad dialogue.

        Raises:
            ValueError, FileNotFoundError: as a call.
        """
        given, _, _ = self._sanitize_parameters(max_length=max_length, allow_urls=allow_urls, on_error=on_error)
        params = {**self._preprocess_params, **given}
        size = self._batch_size or 8 if batch_size is None else batch_size
        _require_batch_size(size)
        single = is_conversation(inputs) and not _is_stream(inputs)
        dialogues = [inputs] if single else list(_each(inputs))
        if owners is not None and len(owners) != len(dialogues):
            raise ValueError(f"{len(dialogues)} dialogues and {len(owners)} owners do not agree: pass one for each.")
        owners = [None] * len(dialogues) if owners is None else owners
        numbers = [None] if single else range(len(dialogues))
        places = range(len(dialogues))
        alone = [at for at in places if owners[at] is not None and self.chats.takes(dialogues[at])]
        together = [at for at in places if at not in set(alone)]
        groups = [[at] for at in alone] + [together[at : at + size] for at in range(0, len(together), size)]
        found: list = [None] * len(dialogues)
        for group in groups:
            kept = group[0] in alone
            batch = _Batch([dialogues[at] for at in group], [numbers[at] for at in group], kept, owners[group[0]])
            outputs = self.forward(self.preprocess(batch, **params))
            rows = iter(outputs["embeds"].float())
            for place, at in enumerate(group):
                found[at] = outputs["errors"][place] if place in outputs["errors"] else next(rows)
        if params.get("on_error") == "skip":
            return found
        return torch.stack(found) if found else torch.empty(0, self.model.config.embedding_width)

    def rank(self, embeddings: torch.Tensor, **kwargs) -> list:
        """Ranks the candidates for embedded dialogues.

        Args:
            embeddings (`torch.Tensor`): unit vectors `(dialogues, width)`, as `embed` returns them.
            kwargs: `top_k`, `modality`, `coherent`, `image_threshold` and `where`, as in a call.

        Returns:
            `list`: the answer to each dialogue, as in a call.

        Raises:
            ValueError: for another option or width.
        """
        pre, _, given = self._sanitize_parameters(**kwargs)
        if pre:
            raise TypeError(f"rank does not know {sorted(pre)}: they are options of embed.")
        return self._ranked(embeddings.float(), **{**self._postprocess_params, **given})

    def preprocess(self, inputs, max_length=None, allow_urls=None, on_error="raise"):
        """The model's inputs of one dialogue or of a list of them."""
        if not isinstance(inputs, _Batch):
            single = is_conversation(inputs)
            inputs = _Batch([inputs], [None]) if single else _Batch(list(inputs), range(len(inputs)))
        # A process of its own, started while another thread held the lock, would wait for ever.
        with contextlib.nullcontext() if get_worker_info() is not None else self._model_lock:
            try:
                return {**self._read(inputs, max_length, allow_urls), "errors": {}}
            except Exception as error:
                if len(inputs.dialogues) == 1:
                    if on_error == "raise":
                        raise
                    return {"errors": {0: error}}
            good, errors = [], {}
            for place, (dialogue, number) in enumerate(zip(inputs.dialogues, inputs.numbers, strict=True)):
                try:
                    self._read(_Batch([dialogue], [number]), max_length, allow_urls)
                    good.append(place)
                except Exception as error:
                    if on_error == "raise":
                        raise
                    errors[place] = error
            if not good:
                return {"errors": errors}
            rest = _Batch([inputs.dialogues[at] for at in good], [inputs.numbers[at] for at in good])
            return {**self._read(rest, max_length, allow_urls), "errors": errors}

    def _read(self, batch: _Batch, max_length: "int | None", allow_urls: "bool | None") -> dict:
        """What the model, or the chat cache, runs."""
        options = {"max_length": max_length, "allow_urls": allow_urls}
        if batch.kept:
            return {"chat": self.chats.read(batch.dialogues[0], **options, owner=batch.owner, where=batch.name(0))}
        return dict(self.processor.process_queries(batch.dialogues, **options, first=batch.numbers[0]))

    def _forward(self, model_inputs):
        errors = model_inputs.get("errors", {})
        features = {name: value for name, value in model_inputs.items() if name not in ("errors", "chat")}
        with self._model_lock:
            if "chat" in model_inputs:
                embeds = self.chats.run(model_inputs["chat"])
            elif features:
                embeds = self.model.get_multimodal_features(**features).pooler_output
            else:
                embeds = torch.empty(0, self.model.config.embedding_width)
        return {"embeds": embeds, "errors": errors}

    def postprocess(self, model_outputs, **kwargs):
        """The answers to a batch, a list."""
        answers = self._ranked(model_outputs["embeds"].float(), **kwargs)
        for place, error in sorted(model_outputs.get("errors", {}).items()):
            answers.insert(place, {"error": _reason(error)})
        return answers

    def _ranked(self, embeds, top_k=5, modality="both", image_threshold=None, where=None, coherent=False) -> list:
        coherence = Coherence.of(self.model.config)
        # Both kinds are looked up, as far as they vote, also for an answer of one kind.
        joins = modality == "pair" or (coherent and coherence.weight > 0)
        kinds = (modality,) if modality in KINDS and not joins else KINDS
        with self._index_lock.shared():
            if modality == "joint" and not joins:
                found = self.index.search(embeds, top_k, None, where)
                return [[_shown(hit, "kind") for hit in hits] for hits in found]
            depth = max(top_k, DEPTH) if joins else top_k
            found = [self.index.search(embeds, depth, kind, where, with_vectors=joins) for kind in kinds]
        threshold = self.model.config.image_threshold if image_threshold is None else image_threshold
        results = []
        for rows in zip(*found, strict=True):
            hits = dict(zip(kinds, rows, strict=True))
            best = hits["image"][0].score if hits.get("image") else None
            if coherent and joins:
                hits = dict(zip(KINDS, coherence.rescore(hits["text"], hits["image"]), strict=True))
            if modality == "pair":
                pairs = coherence.pairs(hits["text"], hits["image"], top_k)
                results.append([{"score": p.score, "text": _shown(p.text), "image": _shown(p.image)} for p in pairs])
            elif modality == "joint":
                merged = sorted([*hits["text"], *hits["image"]], key=lambda hit: -hit.score)
                results.append([_shown(hit, "kind") for hit in merged[:top_k]])
            else:
                if threshold is not None and best is not None and best < threshold:
                    hits["image"] = []
                wanted = KINDS if modality == "both" else (modality,)
                results.append({kind: [_shown(hit) for hit in hits[kind][:top_k]] for kind in wanted})
        return results

    # -- files ------------------------------------------------------------------------------------------------------
    def save_pretrained(self, save_directory, **kwargs):
        """Saves the model, the processor and the code of both and of this task."""
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)
        custom_object_save(self, save_directory)


__all__ = ["MultimodalRetrievalPipeline"]
