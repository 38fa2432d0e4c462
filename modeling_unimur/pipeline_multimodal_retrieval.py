"""The pipeline task `multimodal-retrieval`: a dialogue in, ranked texts and images out."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info
from tqdm.auto import tqdm
from transformers import Pipeline
from transformers.dynamic_module_utils import custom_object_save

from .conversation import (
    is_conversation,
    is_image,
    is_message,
    read_conversation,
    require_unicode,
    words_of_dialogue,
)
from .image_loading import load_image
from .memory_index import (
    DEPTH,
    KINDS,
    MEMORY,
    MODALITIES,
    Coherence,
    Hit,
    RetrievalIndex,
    ThreadLock,
    package,
    require_positive,
)
from .modeling_open_clip import image_inputs, image_vectors, same_space, space_name, text_vectors, unit_vectors

_END = object()


class _Batch(NamedTuple):
    """Dialogues that are read together, and their numbers for errors, None for one that is not one of many. With
    `kept` it is one chat, which goes on from what is kept of its owner's."""

    dialogues: list
    numbers: Sequence[int | None]
    kept: bool = False
    owner: str | None = None


@dataclass(frozen=True)
class _Numbered(Dataset):
    """A sequence of dialogues with their numbers, which are read when they are asked for."""

    dialogues: Any

    def __len__(self) -> int:
        return len(self.dialogues)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        return self.dialogues[number], number


@dataclass(frozen=True)
class _NumberedStream(IterableDataset):
    """Dialogues that are read one after the other, with their numbers."""

    dialogues: Iterable

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        return zip(self.dialogues, itertools.count())


@dataclass(frozen=True)
class _Answers:
    """Answers to a sequence of dialogues, made while they are iterated over."""

    make: Callable[[], Iterator]
    number: int

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator:
        return self.make()


class _Candidate(NamedTuple):
    """A candidate that can be embedded: its name in the report, the text or the decoded image, id and payload."""

    name: str
    content: Any
    id: str | None
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
        anchor_encoder (*optional*): that of [`UniMuRProcessor`].
        truncate_dim (`int`, *optional*): only so many first numbers of each vector count, at length 1.
        args, kwargs: of every pipeline.
    """

    _load_processor = True
    _load_tokenizer = _load_image_processor = _load_feature_extractor = False

    def __init__(self, *args, anchor_encoder=None, truncate_dim: int | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        most, self.truncate_dim = self.model.config.embedding_width, truncate_dim
        if truncate_dim is not None and not (isinstance(truncate_dim, int) and 1 <= truncate_dim <= most):
            raise ValueError(f"truncate_dim must be an integer from 1 to {most}, got {truncate_dim!r}.")
        if anchor_encoder is not None:
            self.processor.anchor_encoder = anchor_encoder
        self.index = RetrievalIndex()
        # Turns of a chat that ran already are not run again; `chats.max_bytes = 0` switches that off.
        self.chats = self.model.new_chat_cache(self.processor)
        self._model_lock = ThreadLock()

    # -- the candidates ---------------------------------------------------------------------------------------------
    def add(
        self,
        images=None,
        texts=None,
        image_ids: list[str | None] | None = None,
        text_ids: list[str | None] | None = None,
        image_payloads: list[dict] | None = None,
        text_payloads: list[dict] | None = None,
        captions: list[str] | None = None,
        batch_size: int = 32,
        show_progress: bool = False,
        allow_urls: bool | None = None,
    ) -> dict:
        """Embeds candidates and adds them to the index. A bad one is left out and reported; the others are added.

        Args:
            images (*optional*): paths, `PIL.Image`s, arrays or the bytes of files: a list, or a generator, a dataset
                or a column of one, which is read batch by batch. The other arguments likewise.
            texts (*optional*): texts. A string is a text, whatever it ends with.
            image_ids, text_ids (`list[str]`, *optional*): by default, and where one is None, the path or the text
                itself, and a running number for an image without a path. A known id is replaced.
            image_payloads, text_payloads (`list[dict]`, *optional*): what comes back with a hit, and can be asked for
                by `where`: a licence, a year, anything small.
            captions (`list[str]`, *optional*): of the images, None or "" for one without; payload `caption` of a hit.
                A model that fuses images with their captions (UniVL-DR) embeds them too.
            batch_size (`int`): candidates embedded at a time.
            show_progress (`bool`): whether to show a bar.
            allow_urls (`bool`, *optional*): whether images may be fetched from URLs; no by default.

        Returns:
            `dict`: `{"images": added, "texts": added, "skipped": [{"item", "reason"}]}`.

        Raises:
            ValueError: when ids, payloads or captions and candidates do not agree in number. Where one of them has no
                length, this shows only at its end.
        """
        require_positive("batch_size", batch_size)
        given = {
            "image": (images, {"ids": image_ids, "payloads": image_payloads, "captions": captions}),
            "text": (texts, {"ids": text_ids, "payloads": text_payloads}),
        }
        for kind, (items, columns) in given.items():
            _require_columns(kind, () if items is None else items, columns)
        report: dict = {"images": 0, "texts": 0, "skipped": []}
        for kind, (items, columns) in given.items():
            rows = _rows(kind, () if items is None else items, columns)
            total = len(items) if isinstance(items, Sized) else None
            with tqdm(total=total, desc=f"Embedding {kind}s", disable=not show_progress or items is None) as bar:
                while batch := list(itertools.islice(rows, batch_size)):
                    report[f"{kind}s"] += self._add_batch(kind, batch, allow_urls, report["skipped"])
                    bar.update(len(batch))
        return report

    def _add_batch(self, kind: str, rows: list, allow_urls: bool | None, skipped: list) -> int:
        def good(items: list, use: Callable, name: Callable) -> list:
            """What `use` makes of each item; those that it raises for are reported."""
            found = []
            for item in items:
                try:
                    found.append(use(item))
                except Exception as error:  # of this one alone, whatever a decoder raises
                    skipped.append({"item": name(item), "reason": _reason(error)})
            return found

        def inputs(some: list[_Candidate]):
            contents = [candidate.content for candidate in some]
            if kind == "image":
                return image_inputs(self.processor, contents, [candidate.payload for candidate in some])
            return self.processor.process_texts(contents)

        candidates = good(rows, lambda row: self._candidate(kind, *row, allow_urls), lambda row: _row_name(kind, *row))
        with self._model_lock:
            try:
                read = inputs(candidates) if candidates else None
            except Exception:  # of one of them
                candidates = good(candidates, lambda one: inputs([one]) and one, lambda one: one.name)
                read = inputs(candidates) if candidates else None
            if not candidates:
                return 0
            vectors = (image_vectors if kind == "image" else text_vectors)(self.model, read, self.truncate_dim)
        with self.index.guard:
            free = (n for n in itertools.count(self.index.count(kind)) if (kind, f"{kind}-{n}") not in self.index)
            ids = [f"{kind}-{next(free)}" if one.id is None else one.id for one in candidates]
            added = self.index.add(kind, ids, vectors, [one.payload for one in candidates], on_error="skip")
        names = dict(zip(ids, (one.name for one in candidates), strict=True))
        skipped += [{"item": names[item], "reason": reason} for item, reason in added.skipped]
        return added.added + added.replaced

    def _candidate(self, kind: str, number: int, item: Any, columns: dict, allow_urls: bool | None) -> _Candidate:
        item_id, payload, caption = (columns.get(what) for what in ("ids", "payloads", "captions"))
        if kind == "image":
            [content] = self.processor.load_images([item], allow_urls)
        elif not isinstance(item, str) or not item.strip():
            raise ValueError("an empty text" if isinstance(item, str) else f"{type(item).__name__}, not a text")
        else:
            content = require_unicode(item, "The text")
        for name, value, wanted in (("caption", caption, str), ("payload", payload, dict)):
            if not isinstance(value, (wanted, type(None))):
                raise ValueError(f"The {name} is a {wanted.__name__}, not {type(value).__name__}.")
        path = os.fspath(item) if isinstance(item, (str, os.PathLike)) else None
        if item_id is None:
            item_id = path
        elif not isinstance(item_id, str):
            if isinstance(item_id, bool) or not hasattr(item_id, "__index__"):
                raise ValueError(f"An id is a string or an integer, not {type(item_id).__name__}.")
            item_id = str(item_id)
        shown = {kind: item if self.index.keeps_objects else path}
        if caption:
            shown["caption"] = require_unicode(caption, "The caption")
        return _Candidate(item_id or f"{kind} {number}", content, item_id, {**shown, **(payload or {})})

    def add_embeddings(self, kind: str, ids: list[str], embeddings: torch.Tensor, payloads: list) -> None:
        """Adds candidates of `kind` `"text"` or `"image"` with their embeddings `(candidates, width)`, whole or
        truncated; a payload is a dict, the text, or what names the image."""
        if embeddings.shape[-1] not in (most := self.model.config.embedding_width, self.width):
            raise ValueError(f"This model's space has {most} dimensions; the embeddings have {embeddings.shape[-1]}.")
        payloads = [payload if isinstance(payload, dict) else {kind: payload} for payload in payloads]
        self.index.add(kind, ids, unit_vectors(embeddings.detach(), self.truncate_dim), payloads)

    def remove(self, images: Sequence[str] = (), texts: Sequence[str] = ()) -> int:
        """Removes candidates by their ids and returns how many. Raises ValueError for an unknown id, and removes none
        of its kind then."""
        return sum(self.index.remove(kind, ids) for kind, ids in (("image", images), ("text", texts)) if len(ids))

    # -- the index --------------------------------------------------------------------------------------------------
    @property
    def width(self) -> int:
        """Numbers of each vector: `truncate_dim`, or all of the model's."""
        return self.truncate_dim or self.model.config.embedding_width

    @functools.cached_property
    def space(self) -> str | None:
        """The candidates' space, which an index keeps; see `space_name`."""
        with self._model_lock:
            return space_name(self.model, self.processor)

    def save_index(self, folder: str | os.PathLike | None = None) -> None:
        """Writes the index, by default to where it was loaded from; another index in the folder is replaced whole.
        Raises ImportError where the package `modeling_unimur` is not installed."""
        if self.index.model is None:
            self.index.model = self.space
        self.index.save(**({} if folder is None else {"folder": folder, "replace": True}))

    def load_index(
        self, index, create: str | None = None, read_only: bool = False, model: str | None = None, **options
    ) -> None:
        """Searches and fills another index from now on.

        Args:
            index: a folder of `save_index`; or, with the package, what `modeling_unimur.index.open_index` takes, or an
                index of that module.
            create (`str`, *optional*): makes an index of this kind where there is none: `"memory"`, or in FAISS' words
                `"Flat"`, `"HNSW32"`, `"IVF1024,PQ48"`.
            read_only (`bool`): for searching only, beside a process that writes.
            model (`str`, *optional*): what the index calls this model, where that is another name than `space`.
            options: of `open_index`, which raises the same errors.

        Raises:
            ValueError: when it is damaged, or was made by a model with another space.
        """
        given = hasattr(index, "search")
        found = index if given else self._open_index(os.fspath(index), create, read_only, model, options)
        try:
            width, name = self.width, model or self.space
            if found.width not in (None, width):
                raise ValueError(
                    f"The index holds vectors of {found.width} numbers; this model's have {width}. For an index of "
                    f"truncated vectors, open the pipeline with truncate_dim={found.width}."
                )
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

    def _open_index(self, place: str, create: str | None, read_only: bool, model: str | None, options: dict):
        try:
            opener = package("", place)
        except ImportError:
            database = place.endswith(".db") or ":" in place or place.startswith(("qdrant+", "lancedb+"))
            if create is not None or options or database:
                raise
            index = RetrievalIndex.read_alone(place)
            index.read_only = read_only
            return index
        with contextlib.suppress(FileNotFoundError):
            return opener.open_index(place, read_only=read_only, **options)
        if create is None:
            raise FileNotFoundError(f"{place} contains no index: call `save_index`, or pass create={MEMORY!r}.")
        return opener.open_index(place, self.width, model or self.space, index=create, **options)

    # -- the call ---------------------------------------------------------------------------------------------------
    def _sanitize_parameters(
        self, max_length=None, allow_urls=None, on_error=None,
        top_k=None, modality=None, image_threshold=None, where=None, coherent=None, hybrid=None, reranker=None,
        rerank_top_k=None, **kwargs,
    ):  # fmt: skip
        if kwargs:
            raise TypeError(f"multimodal-retrieval does not know {sorted(kwargs)}.")
        for name, value in (("top_k", top_k), ("rerank_top_k", rerank_top_k)):
            if value is not None:
                require_positive(name, value)
        for name, value, choices in (
            ("modality", modality, MODALITIES),
            ("coherent", coherent, (True, False)),
            ("on_error", on_error, ("raise", "skip")),
        ):
            if value is not None and (value not in choices or type(value) is not type(choices[0])):
                raise ValueError(f"{name} must be one of {choices}, got {value!r}.")
        if hybrid is not None:
            package("hybrid", f"hybrid={hybrid!r}").check_hybrid(hybrid)
        if reranker and not hasattr(reranker, "rerank"):
            reranker = package("second_stage", f"reranker={reranker!r:.80}").open_reranker(reranker)
        with_words = hybrid is not None or bool(reranker) or None
        pre = {"max_length": max_length, "allow_urls": allow_urls, "on_error": on_error, "with_words": with_words}
        post = {
            "top_k": top_k, "modality": modality, "image_threshold": image_threshold, "where": where,
            "coherent": coherent, "hybrid": hybrid, "reranker": reranker, "rerank_top_k": rerank_top_k,
        }  # fmt: skip
        return tuple({key: value for key, value in one.items() if value is not None} for one in (pre, {}, post))

    def __call__(self, inputs, batch_size: int | None = None, num_workers: int | None = None, **kwargs):
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
                (`memory_index.Coherence`). False by default.
            hybrid (`float` or `str`, *optional*): also searches the words of texts and captions by BM25: its weight
                from 0 (cosines alone) to 1 (BM25 alone), or `"rrf"` for reciprocal rank fusion. Not together with
                `coherent` or pairs; see `modeling_unimur.index.hybrid`.
            reranker (*optional*): a second stage: name, path or object of a sentence-transformers `CrossEncoder` or
                `MultiVectorEncoder`, or any object with the method `rerank` of
                `modeling_unimur.index.second_stage.Reranker`; False for none. Not together with `coherent` or pairs.
            rerank_top_k (`int`): how many hits of each ranking are rescored, 50 by default.
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
            of these for a generator or a dataset. `score` is the cosine with the dialogue; with `coherent` (beside
            `cosine`) the sum of it and of the other kind's vote, with `hybrid` (beside `cosine` and `bm25`) the fused
            one, and with `reranker` (beside `first_score`) the second stage's: hits without `first_score` come last.
            That of a pair is the sum of its hits' scores and of `coherence_weight` times their cosine.

        Raises:
            ValueError: for a malformed dialogue, an image that cannot be read, or an index without candidates.
            FileNotFoundError: for an image that is not there.
        """
        set_before = (self._preprocess_params, self._forward_params, self._postprocess_params)
        given = self._sanitize_parameters(**kwargs)
        pre, forward, post = ({**before, **now} for before, now in zip(set_before, given, strict=True))
        size = self._size(batch_size)
        workers = self._num_workers or 0 if num_workers is None else num_workers
        self._require_candidates(post.get("modality", "both"))
        if isinstance(inputs, Iterator):
            first = list(itertools.islice(inputs, 1))
            inputs = itertools.chain(first, inputs)
            if first and is_message(first[0]):
                inputs = list(inputs)
        if _is_stream(inputs):
            return self._stream(inputs, workers, size, pre, forward, post)
        if is_conversation(inputs):
            batch = _Batch([inputs], [None], self._keeps(inputs))
            return self.postprocess(self.forward(self.preprocess(batch, **pre), **forward), **post)[0]
        inputs = list(inputs)
        if pre.get("on_error", "raise") == "raise":
            self._require_readable(inputs, pre.get("allow_urls"))
        return list(self._stream(inputs, workers, size, pre, forward, post))

    def _size(self, batch_size: int | None) -> int:
        size = self._batch_size or 8 if batch_size is None else batch_size
        require_positive("batch_size", size)
        return size

    def _require_candidates(self, modality: str) -> None:
        kinds = (modality,) if modality in KINDS else KINDS
        missing = [kind for kind in kinds if not self.index.count(kind)]
        if missing if modality == "pair" else len(missing) == len(kinds):
            raise ValueError(
                f"There is no {' or '.join(missing)} to retrieve: call add(images=..., texts=...) or load_index(...) "
                "first."
            )

    def _require_readable(self, dialogues: list, allow_urls: bool | None) -> None:
        """Raises the error of the first bad dialogue, as far as it shows without decoding images."""

        def glance(source, allow_urls: bool) -> None:
            fetched = allow_urls and isinstance(source, str) and source.startswith(("http://", "https://"))
            is_there = os.path.isfile(source) if isinstance(source, os.PathLike) else is_image(source)
            if not fetched and not is_there:  # `load_image` says best why
                load_image(source, allow_urls=allow_urls)

        if dialogues:
            self.processor.read_all(dialogues, allow_urls, 0, glance)

    def _keeps(self, dialogue) -> bool:
        return self.chats is not None and self.chats.takes(dialogue)

    def _stream(self, inputs, workers: int, size: int, pre: dict, forward: dict, post: dict):
        """The answers to many dialogues, made as they are asked for: with a length where the dialogues have one."""

        def answers(dataset, workers: int) -> Iterator:
            if workers:  # tokenizers warn of forks otherwise
                os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
            read = functools.partial(self._read_rows, options=pre)
            for features in DataLoader(dataset, size, num_workers=workers, collate_fn=read):
                yield from self.postprocess(self.forward(features, **forward), **post)

        if isinstance(inputs, Sized) and hasattr(inputs, "__getitem__"):
            return _Answers(lambda: answers(_Numbered(inputs), workers), len(inputs))
        return answers(_NumberedStream(inputs), min(workers, 1))  # each process would read the whole of it

    def _read_rows(self, rows: list[tuple[Any, int]], options: dict) -> dict:
        return self.preprocess(_Batch(*map(list, zip(*rows, strict=True))), **options)

    def embed(
        self,
        inputs,
        batch_size: int | None = None,
        max_length: int | None = None,
        allow_urls: bool | None = None,
        on_error: str | None = None,
        owners: list[str | None] | None = None,
    ):
        """Embeds dialogues, for `rank` or for an index of one's own.

        Args:
            inputs: one dialogue or several, as in a call.
            batch_size, max_length, allow_urls, on_error (*optional*): as in a call, which raises the same errors.
            owners (`list[str]`, *optional*): whose chat each dialogue is. It goes on from what is kept of that owner's
                chats (`chats`), and of nobody else's; one of None runs from its start, with the others of a batch.

        Returns:
            `torch.Tensor`: unit vectors `(dialogues, width)`, float32 on the CPU; with `on_error="skip"` a list of
            vectors, with the exception in the place of a bad dialogue.
        """
        given, _, _ = self._sanitize_parameters(max_length=max_length, allow_urls=allow_urls, on_error=on_error)
        params, size = {**self._preprocess_params, **given}, self._size(batch_size)
        single = is_conversation(inputs) and not _is_stream(inputs)
        dialogues = [inputs] if single else list(_each(inputs))
        owners = [None] * len(dialogues) if owners is None else owners
        if len(owners) != len(dialogues):
            raise ValueError(f"{len(dialogues)} dialogues and {len(owners)} owners do not agree: pass one for each.")
        alone, together = [], []
        for at, (dialogue, owner) in enumerate(zip(dialogues, owners, strict=True)):
            (alone if owner is not None and self._keeps(dialogue) else together).append(at)
        groups = [[at] for at in alone] + [together[at : at + size] for at in range(0, len(together), size)]
        found: list = [None] * len(dialogues)
        for number, group in enumerate(groups):
            names = [None] if single else group
            batch = _Batch([dialogues[at] for at in group], names, number < len(alone), owners[group[0]])
            outputs = self.forward(self.preprocess(batch, **params))
            rows = _with_errors(outputs["embeds"].float(), outputs["errors"])
            for at, row in zip(group, rows, strict=True):
                found[at] = row
        if params.get("on_error") == "skip":
            return found
        return torch.stack(found) if found else torch.empty(0, self.width)

    def rank(self, embeddings: torch.Tensor, words: list[str] | None = None, **kwargs) -> list:
        """The answers to embedded dialogues, unit vectors `(dialogues, width)`; `words` are the text of each, which
        `hybrid` and `reranker` need, and `kwargs` the options of a call that do not concern reading.

        Raises:
            ValueError: for another option or width.
        """
        pre, _, given = self._sanitize_parameters(**kwargs)
        if pre := set(pre) - {"with_words"}:
            raise TypeError(f"rank does not know {sorted(pre)}: they are options of embed.")
        return self._ranked(embeddings.float(), words, **{**self._postprocess_params, **given})

    def preprocess(self, inputs, max_length=None, allow_urls=None, on_error="raise", with_words=False):
        """The model's inputs of one dialogue or of a list of them."""
        read = functools.partial(self._read, max_length=max_length, allow_urls=allow_urls, with_words=with_words)
        if not isinstance(inputs, _Batch):
            inputs = _Batch([inputs], [None]) if is_conversation(inputs) else _Batch(inputs, range(len(inputs)))
        # A process of its own, started while another thread held the lock, would wait for ever.
        with contextlib.nullcontext() if get_worker_info() is not None else self._model_lock:
            with contextlib.suppress(Exception):  # of one of them
                return {**read(inputs), "errors": {}}
            good, errors = [], {}
            for place, one in enumerate(zip(inputs.dialogues, inputs.numbers, strict=True)):
                try:
                    read(_Batch(*([part] for part in one)))
                    good.append(one)
                except Exception as error:
                    if on_error == "raise":
                        raise
                    errors[place] = error
            rest = read(_Batch(*map(list, zip(*good, strict=True)))) if good else {}
            return {**rest, "errors": errors}

    def _read(self, batch: _Batch, max_length: int | None, allow_urls: bool | None, with_words: bool = False) -> dict:
        """What the model, or the chat cache, runs, and the dialogues' words where they are searched too."""
        options = {"max_length": max_length, "allow_urls": allow_urls}
        words = {"words": [_words(dialogue) for dialogue in batch.dialogues]} if with_words else {}
        if batch.kept:
            chat = self.chats.read(batch.dialogues[0], **options, owner=batch.owner, number=batch.numbers[0])
            return {"chat": chat, **words}
        return {**self.processor.process_queries(batch.dialogues, **options, first=batch.numbers[0]), **words}

    def _forward(self, model_inputs):
        errors = model_inputs.get("errors", {})
        features = {name: value for name, value in model_inputs.items() if name not in ("errors", "chat", "words")}
        with self._model_lock:
            if "chat" in model_inputs:
                embeds = self.chats.run(model_inputs["chat"])
            elif features:
                embeds = self.model.get_multimodal_features(**features).pooler_output
            else:
                embeds = torch.empty(0, self.width)
        embeds = embeds if self.truncate_dim is None else unit_vectors(embeds, self.truncate_dim)
        return {"embeds": embeds, "errors": errors, "words": model_inputs.get("words", [])}

    def postprocess(self, model_outputs, **kwargs):
        """The answers to a batch, a list."""
        errors = {place: {"error": _reason(error)} for place, error in model_outputs.get("errors", {}).items()}
        embeds, words = model_outputs["embeds"].float(), model_outputs.get("words")
        return _with_errors(self._ranked(embeds, words, **kwargs), errors)

    def _ranked(
        self, embeds, words=None, top_k=5, modality="both", image_threshold=None, where=None, coherent=False,
        hybrid=None, reranker=None, rerank_top_k=50,
    ) -> list:  # fmt: skip
        coherence = Coherence.of(self.model.config)
        # Both kinds are looked up, as far as they vote, also for an answer of one kind.
        joins = modality == "pair" or (coherent and coherence.weight > 0)
        kinds = (modality,) if modality in KINDS and not joins else KINDS
        if modality == "joint" and not joins:
            kinds = (None,)
        search = functools.partial(self.index.search, embeds, where=where)
        if (hybrid is not None or reranker) and (coherent or modality == "pair"):
            name = "reranker" if hybrid is None else "hybrid"
            raise ValueError(f"{name} cannot be combined with coherent or pairs, which rank by cosines alone.")
        if hybrid is not None:
            module = package("hybrid", f"hybrid={hybrid!r}")
            search = functools.partial(module.search, self.index, embeds, words, hybrid, where=where)
        depth = max(top_k, DEPTH if joins else rerank_top_k if reranker else 0)
        with self.index.guard:
            found = [search(depth, kind, **({"with_vectors": True} if joins else {})) for kind in kinds]
        if reranker:  # others may search meanwhile
            found = [reranker.rerank(rows, words, rerank_top_k) for rows in found]
        if kinds == (None,):
            return [[_shown(hit, "kind") for hit in hits[:top_k]] for hits in found[0]]
        threshold = self.model.config.image_threshold if image_threshold is None else image_threshold
        results = []
        for rows in zip(*found, strict=True):
            hits = dict(zip(kinds, rows, strict=True))
            best = max((h.score if h.cosine is None else h.cosine for h in hits.get("image", ())), default=None)
            if coherent and joins:
                hits = dict(zip(KINDS, coherence.rescore(hits["text"], hits["image"]), strict=True))
            if modality == "pair":
                pairs = coherence.pairs(hits["text"], hits["image"], top_k)
                results.append([{"score": s, "text": _shown(t), "image": _shown(i)} for s, t, i in pairs])
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


def _is_stream(inputs) -> bool:
    """Whether the value is a generator, a dataset or a column of one: dialogues that are read one after the other."""
    if isinstance(inputs, (str, bytes, list, tuple, Mapping, os.PathLike, torch.Tensor)) or is_image(inputs):
        return False
    return hasattr(inputs, "__iter__") or (hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__"))


def _each(items) -> Iterator:
    """The items of a list, a generator or a dataset, one after the other."""
    return iter(items) if hasattr(items, "__iter__") else (items[number] for number in range(len(items)))


def _require_columns(kind: str, items, columns: dict) -> None:
    for what, values in ((f"{kind}s", items), *columns.items()):
        if values is not None and not (isinstance(values, (list, tuple)) or _is_stream(values)):
            raise ValueError(f"{what} is a list, not {values!r:.80}; for one candidate pass [{values!r:.80}].")
        if isinstance(values, Sized) and isinstance(items, Sized) and len(values) != len(items):
            raise ValueError(f"{len(items)} {kind}s and {len(values)} {what} do not agree: pass one for each.")


def _rows(kind: str, items, columns: dict) -> Iterator[tuple[int, Any, dict]]:
    """Number, item and values of the columns of each candidate."""
    given = {what: _each(values) for what, values in columns.items() if values is not None}
    rows = itertools.zip_longest(_each(items), *given.values(), fillvalue=_END)
    for number, row in enumerate(rows):
        short = [what for what, value in zip((f"{kind}s", *given), row, strict=True) if value is _END]
        if short:
            raise ValueError(
                f"There are only {number} {' and '.join(short)}, and more of {kind}s, {', '.join(given)}."
            )
        yield number, row[0], dict(zip(given, row[1:], strict=True))


def _words(dialogue) -> str:
    """The text of a dialogue's turns; its images are not decoded."""
    return words_of_dialogue(read_conversation(dialogue, load=lambda image, allow_urls: None)[0])


def _row_name(kind: str, number: int, item: Any, columns: dict) -> str:
    """What the report calls a candidate that cannot be read."""
    return item if isinstance(item, str) else str(columns.get("ids") or f"{kind} {number}")


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _with_errors(rows: Any, errors: dict) -> list:
    """Rows of the good ones of a batch, with what stands for the others in their places."""
    rows = list(rows)
    for place, error in sorted(errors.items()):
        rows.insert(place, error)
    return rows


def _shown(hit: Hit, *more: str) -> dict:
    """A hit as the pipeline returns it."""
    known = {"id": hit.id, "score": hit.score, **{name: getattr(hit, name) for name in more}}
    known |= {name: value for name in ("cosine", "bm25", "first_score") if (value := getattr(hit, name)) is not None}
    return {**known, hit.kind: None, **hit.payload, **known}
