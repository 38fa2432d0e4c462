"""UniMuR and UniVL-DR in sentence-transformers: the module that a release's `modules.json` names.

`SentenceTransformer(release, trust_remote_code=True)` loads this file, and nothing else does.
"""

import torch
from transformers import AutoModel, AutoProcessor

try:
    from sentence_transformers.base.modality import infer_modality
    from sentence_transformers.base.modules import InputModule
except ImportError as error:
    raise ImportError(
        "This release needs sentence-transformers 6.0 or newer: `pip install --upgrade sentence-transformers`."
    ) from error

# What each way of reading an input hands to the model.
_METHODS = {
    "context": "get_multimodal_features",
    "document": "get_multimodal_features",
    "text": "get_text_features",
    "image": "get_image_features",
}
_IMAGE_INPUTS = ("pixel_values", "pixel_attention_mask", "spatial_shapes")
_INPUTS = (
    "input_ids", "attention_mask", *_IMAGE_INPUTS, "caption_mask",
    "anchor_input_ids", "anchor_attention_mask", "anchor_text_mask", "anchor_features", "turn_statistics",
)  # fmt: skip


def _says_something(message: dict) -> bool:
    """Whether a message has a word or an image."""
    content = message["content"]
    if not isinstance(content, (list, tuple)):
        return not isinstance(content, str) or bool(content.strip())
    return any(
        part.get("type") != "text" or str(part.get("text")).strip() for part in content if isinstance(part, dict)
    )


class UniMuRTransformer(InputModule):
    """A model and its processor.

    UniMuR: `encode_query` reads texts, images, `{"text", "image"}` and chat messages as dialogues; `encode_document`
    embeds candidates, texts or images, by the frozen dual encoder. `encode` reads an image alone as a candidate and
    everything else as a dialogue. UniVL-DR: queries are texts; documents are texts, images, or `{"image", "text"}`, an
    image with its caption.

    A list of candidates may mix kinds. A string is an image where it names an existing image file or is a `data:image`
    URI, and, with `allow_urls=True`, where it is the URL of one; every other string is a text. All three `encode`
    methods take `allow_urls` and `max_length`.
    """

    # What `encode` passes on to `preprocess` and `forward`.
    forward_kwargs = {"allow_urls", "max_length"}

    def __init__(self, model, processor):
        super().__init__()
        self.model, self.processor = model, processor
        self._fuses = hasattr(processor, "process_documents")  # images with their captions: UniVL-DR
        self._limit = "max_target_tokens" if self._fuses else "max_context_tokens"

    # -- what sentence-transformers asks ----------------------------------------------------------------------------
    @property
    def tokenizer(self):
        """The language model's tokenizer."""
        return self.processor.tokenizer

    @property
    def max_seq_length(self) -> int:
        """Longest dialogue (UniVL-DR: longest text) in tokens."""
        return getattr(self.processor, self._limit)

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        setattr(self.processor, self._limit, value)

    @property
    def modalities(self) -> list:
        """What can be encoded; text and messages alone where candidates are ready embeddings."""
        return ["text", "message"] if self.model.clip is None else ["text", "image", ("image", "text"), "message"]

    def get_embedding_dimension(self) -> int:
        """Width of the embeddings."""
        return self.model.config.embedding_width

    # -- reading ----------------------------------------------------------------------------------------------------
    def preprocess(self, inputs, prompt: "str | None" = None, task: "str | None" = None, **kwargs) -> dict:
        """Features of texts, images, `{"text", "image"}` in reading order, or lists of chat messages.

        Args:
            prompt (`str`, *optional*): put before texts, and as a message of its own before messages.
            task (`str`, *optional*): `"query"` or `"document"`.
            max_length (`int`, *optional*): maximum length of dialogues and texts, in tokens.
            allow_urls (`bool`, *optional*): whether images may be fetched from URLs; no by default.

        Raises:
            ValueError: for another task or option, for dialogues and candidates together, or for a candidate that the
                model has no vector for.
        """
        options = {key: value for key, value in kwargs.items() if value is not None}
        if unknown := set(options) - self.forward_kwargs:
            raise ValueError(f"This model does not know {sorted(unknown)}, but {sorted(self.forward_kwargs)}.")
        kinds = [self._kind(item, options.get("allow_urls")) for item in inputs]
        rows: dict = {}
        for row, (item, kind) in enumerate(zip(inputs, kinds, strict=True)):
            rows.setdefault(self._reading(item, kind, task), []).append(row)
        if len(rows) > 1 and "context" in rows:
            raise ValueError(
                "Candidates and dialogues are encoded apart: call encode_document for candidates of any kinds, or "
                "encode_query to read all of them as dialogues."
            )
        parts = [
            self._features(reading, [inputs[row] for row in some], [kinds[row] for row in some], prompt, options)
            for reading, some in rows.items()
        ]
        if len(parts) == 1:
            return parts[0]
        # A cached loss cuts tensors into smaller batches: `rows` are those that it asks for.
        places = {row: place for place, row in enumerate(row for some in rows.values() for row in some)}
        return {"rows": torch.arange(len(inputs)), "places": places, "parts": parts}

    def _kind(self, item, allow_urls: "bool | None"):
        kind = infer_modality(item, supported_modalities=self.modalities)
        if isinstance(item, str):
            allow_urls = self.processor.allow_urls if allow_urls is None else allow_urls
            return "text" if item.startswith(("http://", "https://")) and not allow_urls else kind
        text = item.get("text") if isinstance(item, dict) and kind != "message" else ""
        if (kind == "text" and not isinstance(item, dict)) or not (text is None or isinstance(text, str)):
            raise ValueError(f"A text is a string, not {item!r:.80}: join pairs and lists first.")
        return kind

    def _reading(self, item, kind, task: "str | None") -> str:
        if task not in (None, "query", "document"):
            raise ValueError(f"The task is 'query' or 'document', not {task!r}.")
        if self._fuses and kind == "text":  # of queries and documents alike
            return "text"
        if self._fuses and kind == ("image", "text") and task != "query":
            return "document"
        if task == "document":
            if kind not in ("text", "image"):
                raise ValueError(
                    f"A candidate is a text or an image, and this model has no vector for {item!r:.120}: "
                    "encode_query reads it as a dialogue."
                )
            return kind
        return "image" if kind == "image" and task is None else "context"

    def _features(self, reading: str, items: list, kinds: list, prompt: "str | None", options: dict) -> dict:
        """Features of inputs of the same kind."""
        urls = {"allow_urls": options.get("allow_urls")}
        if reading == "image":
            images = [item["image"] if isinstance(item, dict) else item for item in items]
            features = self.processor.process_images(images, **urls)
        elif reading == "text":
            texts = [item["text"] if isinstance(item, dict) else item for item in items]
            length = min(options.get("max_length", self.processor.max_target_tokens), self.processor.max_target_tokens)
            features = self.processor.process_texts([f"{prompt or ''}{text}" for text in texts], max_length=length)
        elif reading == "document":
            captions = [f"{prompt or ''}{item['text']}" for item in items]
            features = self.processor.process_documents([item["image"] for item in items], captions, **urls)
        else:
            dialogues = [self._dialogue(item, kind, prompt) for item, kind in zip(items, kinds, strict=True)]
            features = self._contexts(dialogues, max_length=options.get("max_length"), **urls)
        return {**features, "reading": reading}

    def _contexts(self, dialogues: list, **options) -> dict:
        """Features of dialogues, which may be empty."""
        empty = [row for row, dialogue in enumerate(dialogues) if not any(map(_says_something, dialogue))]
        for row in empty:  # which the processor refuses
            dialogues[row] = "-"
        # Encoding sorts inputs by length: a number would not be the caller's.
        features = dict(self.processor.process_queries(dialogues, first=None, **options))
        if empty:
            bare = self.processor.process_rendered([""])["input_ids"][0]
            features["input_ids"][empty] = self.tokenizer.pad_token_id
            features["attention_mask"][empty] = 0
            features["input_ids"][empty, -len(bare) :] = bare
            features["attention_mask"][empty, -len(bare) :] = 1
            for name, nothing in (("anchor_text_mask", False), ("anchor_features", 0), ("turn_statistics", 0)):
                if name in features:
                    features[name][empty] = nothing
        if "pixel_values" in features:
            # A cached loss cuts every tensor by rows, and a row has any number of images: they go by the row that has
            # them, in no tensor of the batch.
            places = (features["input_ids"] == self.processor.image_token_id).sum(dim=1)
            counts = (places // self.processor.num_visual_tokens).tolist()
            features["row_images"] = {key: features.pop(key).split(counts) for key in _IMAGE_INPUTS if key in features}
            features["rows"] = torch.arange(len(dialogues))
        return features

    @staticmethod
    def _dialogue(item, kind, prompt: "str | None") -> list:
        """One input as chat messages."""
        if kind == "message":
            first = [{"role": "system", "content": prompt}] if prompt else []
            return [*first, *([item] if isinstance(item, dict) else item)]
        parts = item if isinstance(item, dict) else {kind: item}
        content = [{"type": "text", "text": prompt}] if prompt else []
        for name, values in parts.items():
            for value in values if isinstance(values, (list, tuple)) else [values]:
                content.append({"type": name, name: value})
        return [{"role": "user", "content": content}]

    def forward(self, features: dict, **kwargs) -> dict:
        """Adds `sentence_embedding`, unit vectors `(inputs, width)`."""
        if "parts" in features:
            every = torch.cat([self._embed(part) for part in features["parts"]])
            features["sentence_embedding"] = every[[features["places"][row] for row in features["rows"].tolist()]]
        else:
            features["sentence_embedding"] = self._embed(features)
        return features

    def _embed(self, features: dict) -> torch.Tensor:
        method = getattr(self.model, _METHODS[features["reading"]])
        given = {key: features[key] for key in _INPUTS if isinstance(features.get(key), torch.Tensor)}
        for key, images in features.get("row_images", {}).items():
            some = torch.cat([images[row] for row in features["rows"].tolist()])
            if len(some):
                given[key] = some
        return method(**{key: value.to(self.model.device) for key, value in given.items()}).pooler_output

    # -- files ------------------------------------------------------------------------------------------------------
    def save(self, output_path: str, *args, **kwargs) -> None:
        """Writes the model, its processor and its code."""
        self.model.save_pretrained(output_path)
        self.processor.save_pretrained(output_path)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token=None,
        cache_folder: "str | None" = None,
        revision: "str | None" = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        model_kwargs: "dict | None" = None,
        processor_kwargs: "dict | None" = None,
        **kwargs,
    ) -> "UniMuRTransformer":
        """Loads a release; `model_kwargs` may name the backbones, `{"language_model": ..., "clip": ...}`."""
        hub = {"token": token, "cache_dir": cache_folder, "revision": revision}
        hub = {key: value for key, value in hub.items() if value is not None}
        hub.update(local_files_only=local_files_only, trust_remote_code=trust_remote_code)
        model = AutoModel.from_pretrained(model_name_or_path, **hub, **(model_kwargs or {}))
        return cls(model, AutoProcessor.from_pretrained(model_name_or_path, **hub, **(processor_kwargs or {})))
