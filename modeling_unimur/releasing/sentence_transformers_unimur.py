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
_INPUTS = ("input_ids", "attention_mask", "pixel_values", "pixel_attention_mask", "spatial_shapes", "caption_mask")


class UniMuRTransformer(InputModule):
    """A model and its processor.

    UniMuR: `encode_query` reads texts, pictures, `{"text", "image"}` and chat messages as dialogues into the unified
    embedding; `encode_document` embeds candidates, texts or pictures, by the frozen dual encoder. `encode` reads a
    picture alone as a candidate and everything else as a dialogue, as the model's processor does.

    UniVL-DR: queries are texts; documents are texts, pictures, or `{"image", "text"}`, a picture with its caption.

    Args:
        model (`UniMuRModel` or `UniVLDRModel`): with its backbones.
        processor (`UniMuRProcessor` or `UniVLDRProcessor`): its processor.
    """

    def __init__(self, model, processor):
        super().__init__()
        self.model, self.processor = model, processor
        self._fuses = hasattr(processor, "process_documents")  # pictures with their captions: UniVL-DR
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
        """Inputs of one kind as features.

        Args:
            inputs (`list`): texts, pictures, `{"text", "image"}` in reading order, or lists of chat messages.
            prompt (`str`, *optional*): put before texts, and as a message of its own before messages.
            task (`str`, *optional*): `"query"` or `"document"`.
            max_length (`int`, *optional*): of dialogues, in tokens.

        Raises:
            ValueError: for another task or option, for inputs of several kinds together, or for a candidate that is
                neither a text nor a picture.
        """
        unknown = {key for key, value in kwargs.items() if value is not None} - {"max_length"}
        if unknown:
            raise ValueError(f"This model does not know {sorted(unknown)}; max_length is the one option of encoding.")
        kinds = [infer_modality(item, supported_modalities=self.modalities) for item in inputs]
        readings = {self._reading(kind, task) for kind in kinds}
        if len(readings) > 1:
            raise ValueError(
                "Candidates of different kinds, and candidates and dialogues, are encoded apart: call encode for each "
                "kind, or encode_query to read all of them as dialogues."
            )
        (reading,) = readings
        if reading == "image":
            items = [item["image"] if isinstance(item, dict) else item for item in inputs]
            features = self.processor.process_images(items)
        elif reading == "text":
            texts = [item["text"] if isinstance(item, dict) else item for item in inputs]
            features = self.processor.process_texts([f"{prompt or ''}{text}" for text in texts])
        elif reading == "document":
            captions = [f"{prompt or ''}{item['text']}" for item in inputs]
            features = self.processor.process_documents([item["image"] for item in inputs], captions)
        else:
            dialogues = [self._dialogue(item, kind, prompt) for item, kind in zip(inputs, kinds, strict=True)]
            features = self.processor.process_context(dialogues, max_length=kwargs.get("max_length"))
            if "pixel_values" in features:  # lets a cached loss cut a batch where contexts have several pictures
                places = (features["input_ids"] == self.processor.image_token_id).sum(dim=1)
                features["num_images_per_sample"] = places // self.processor.num_visual_tokens
        return {**features, "reading": reading}

    def _reading(self, kind, task: "str | None") -> str:
        if task not in (None, "query", "document"):
            raise ValueError(f"The task is 'query' or 'document', not {task!r}.")
        if self._fuses and kind == ("image", "text") and task != "query":
            return "document"
        if task == "document":
            if kind not in ("text", "image"):
                raise ValueError(f"A candidate is a text or a picture, not {kind!r}: encode_query reads dialogues.")
            return kind
        return "image" if kind == "image" and task is None else "context"

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

    def forward(self, features: dict) -> dict:
        """Adds `sentence_embedding`, unit vectors `(inputs, width)`."""
        method = getattr(self.model, _METHODS[features["reading"]])
        given = {key: features[key] for key in _INPUTS if isinstance(features.get(key), torch.Tensor)}
        features["sentence_embedding"] = method(**given).pooler_output
        return features

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


__all__ = ["UniMuRTransformer"]
