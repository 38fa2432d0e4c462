"""The frozen backbones: built inside, attached from where they live, saved or left out."""

import os
from collections import OrderedDict
from copy import deepcopy
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HFValidationError
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM

from .configuration_open_clip import OpenCLIPConfig
from .configuration_unimur import UniMuRConfig
from .loading import readable_weights, require_complete, require_finite, require_intact
from .modeling_open_clip import OpenCLIPModel

# Arguments that say where files come from, as opposed to what is built from them.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token")
# Arguments that place or pack the frozen weights; the trained heads stay whole on one device.
_PLACEMENT_ARGUMENTS = ("device_map", "max_memory", "offload_folder", "quantization_config")
_PARTS = {"text": "language_model", "clip": "clip"}
_WORDS = {"text": "language model", "clip": "dual encoder"}


def _part_dtypes(dtype) -> "dict[str, torch.dtype | str]":
    """The dtype to load `heads`, `language_model` and `clip` in; "auto" is that of a part's own checkpoint."""
    parts = ("heads", *_PARTS.values())
    if isinstance(dtype, dict):
        unknown = sorted(map(str, dtype.keys() - set(parts)))
        if unknown:
            raise ValueError(f"dtype names {unknown[0]!r}, and the parts of this model are {', '.join(parts)}.")
        dtypes = {**dict.fromkeys(parts, "auto"), "heads": torch.float32, **dtype}
    else:
        dtypes = dict.fromkeys(parts, "auto" if dtype is None else dtype)
    for part, value in dtypes.items():
        named = getattr(torch, value, None) if isinstance(value, str) and value != "auto" else value
        if named != "auto" and not isinstance(named, torch.dtype):
            raise ValueError(f"dtype of {part} must be a torch.dtype, its name, or 'auto', got {value!r}.")
        dtypes[part] = named
    return dtypes


def _own_dtypes(config: UniMuRConfig, dtypes: dict) -> "dict[str, torch.dtype]":
    """The dtypes of the backbones in a full release; those that its configuration does not know are left out."""
    own = {}
    for part, name in _PARTS.items():
        sub = getattr(config, f"{part}_config")
        dtype = getattr(sub, "dtype", None) if dtypes[name] == "auto" else dtypes[name]
        if sub is not None and dtype is not None:
            own[part] = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    return own


def _without_recorders(module: nn.Module, seen: "dict[int, nn.Module]") -> nn.Module:
    """The same weights in a tree of modules without the hooks by which transformers records hidden states. They cannot
    be pickled; transformers sets them again as soon as it needs them."""
    if id(module) not in seen:
        twin = seen[id(module)] = type(module).__new__(type(module))
        twin.__dict__.update(module.__dict__)
        twin.__dict__.pop("_output_capturing_hooks_installed", None)
        twin.__dict__["_forward_hooks"] = OrderedDict(
            (key, hook)
            for key, hook in module._forward_hooks.items()
            if not getattr(hook, "__module__", "").endswith(".output_capturing")
        )
        children = module._modules.items()
        twin.__dict__["_modules"] = {name: child and _without_recorders(child, seen) for name, child in children}
    return seen[id(module)]


def _is_commit(revision) -> bool:
    return isinstance(revision, str) and len(revision) == 40 and all(c in "0123456789abcdef" for c in revision)


def pooled_output(features) -> torch.Tensor:
    return features if isinstance(features, torch.Tensor) else features.pooler_output


def _commit(source: str, revision: "str | None", hub: dict) -> "str | None":
    """The commit on the Hub that a branch or a tag stands for; None for a folder."""
    if os.path.isdir(source) or _is_commit(revision):
        return revision
    config = hf_hub_download(source, "config.json", revision=revision, **hub)
    return Path(config).parent.name  # <cache>/models--owner--name/snapshots/<commit>/config.json


def load_backbone(part: str, source, revision: "str | None", **kwargs) -> "tuple[nn.Module, str | None]":
    """One backbone from a Hub id or a folder, whole, and its commit; with an error that names it."""
    if not isinstance(source, (str, os.PathLike)):
        return source, None
    where = f"{source!r}" + (f" at revision {revision}" if revision else "")
    hub = {key: kwargs[key] for key in HUB_ARGUMENTS if key in kwargs}
    try:
        commit = _commit(os.fspath(source), revision, hub)
        if commit:
            kwargs["revision"] = hub["revision"] = commit
        if part == "text":
            cls = AutoModelForCausalLM
        else:
            raw, _ = OpenCLIPConfig.get_config_dict(source, **hub)
            cls = OpenCLIPModel if raw.get("model_type") == OpenCLIPConfig.model_type else AutoModel
        with readable_weights(where):
            model, info = cls.from_pretrained(
                source, output_loading_info=True, **{**kwargs, "ignore_mismatched_sizes": True}
            )
    except (OSError, HFValidationError) as error:
        raise OSError(
            f"The frozen {_WORDS[part]} {where} could not be loaded: it is missing, was moved, or cannot be reached. "
            f"Check the id and the revision, or pass {_PARTS[part]}=<folder or Hub id>. ({str(error).splitlines()[0]})"
        ) from error
    require_complete(info, f"The frozen {_WORDS[part]} {where}")
    return model, commit


class BackbonesMixin:
    """Gives a model its attributes `language_model` and `clip`, which are frozen, and ways to load and save without
    them."""

    # -- construction -----------------------------------------------------------------------------------------------
    def _build_backbones(self, config: UniMuRConfig, build: bool, dtypes: "dict | None") -> None:
        self.language_model = self.clip = None
        if not build:
            return
        # from_pretrained asks for one dtype, and loads a weight in the one that its parameter has already.
        for part, dtype in (dtypes or {}).items():
            getattr(config, f"{part}_config").dtype = dtype
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        if config.clip_config is not None:
            is_open_clip = config.clip_config.model_type == OpenCLIPConfig.model_type
            self.clip = (
                OpenCLIPModel(config.clip_config).to(config.clip_config.dtype)
                if is_open_clip
                else AutoModel.from_config(config.clip_config)
            )

    def _freeze(self) -> None:
        for name in _PARTS.values():
            if getattr(self, name) is not None:
                getattr(self, name).requires_grad_(False).eval()

    def train(self, mode: bool = True):
        """Switches the heads to training; the frozen backbones stay in evaluation mode."""
        super().train(mode)
        for name in _PARTS.values():
            if getattr(self, name, None) is not None:
                getattr(self, name).eval()
        return self

    @classmethod
    def from_backbones(
        cls,
        language_model,
        clip=None,
        *,
        processor,
        language_model_revision: "str | None" = None,
        clip_revision: "str | None" = None,
        dtype="auto",
        hub_arguments: "dict | None" = None,
        language_model_arguments: "dict | None" = None,
        **config_arguments,
    ):
        """Joins two pretrained models by untrained heads.

        Args:
            language_model (`str` or `PreTrainedModel`): Hub id, folder, or a causal language model.
            clip (`str` or `PreTrainedModel`, *optional*): the dual encoder likewise. Without one pass
                `projection_dim`, the width of the ready embeddings that are the candidates.
            processor (`UniMuRProcessor`): the processor for both; knows the ids of [RET] and of pictures. It learns
                what `query_anchor` the model has.
            language_model_revision, clip_revision (`str`, *optional*): branch, tag or commit on the Hub; the commit
                that it resolves to is recorded.
            dtype: of the backbones, "auto" for those of their checkpoints, or a dictionary as `from_pretrained` takes
                it; the heads are float32 unless that names them.
            hub_arguments (`dict`, *optional*): `token`, `cache_dir`, `local_files_only`.
            language_model_arguments (`dict`, *optional*): further arguments of the language model's
                `from_pretrained`, such as `quantization_config`.
            config_arguments: further arguments of [`UniMuRConfig`].

        Returns:
            `UniMuRModel`: it is saved without backbones that came from the Hub, and with those that did not.
        """
        hub, dtypes = hub_arguments or {}, _part_dtypes(dtype)
        text, text_commit = load_backbone(
            "text",
            language_model,
            language_model_revision,
            dtype=dtypes["language_model"],
            **(language_model_arguments or {}),
            **hub,
        )
        dual = clip_commit = None
        if clip is not None:
            dual, clip_commit = load_backbone("clip", clip, clip_revision, dtype=dtypes["clip"], **hub)
        for name in ("query_anchor", "anchor_base_model", "anchor_base_revision"):
            setattr(processor, name, config_arguments.setdefault(name, getattr(processor, name)))
        config = UniMuRConfig(
            text_config=text.config,
            clip_config=None if dual is None else dual.config,
            num_ret_tokens=processor.num_ret_tokens,
            num_visual_tokens=processor.num_visual_tokens,
            ret_token_ids=processor.ret_token_ids,
            image_token_id=processor.image_token_id,
            **config_arguments,
        )
        for part, source, commit in (("text", language_model, text_commit), ("clip", clip, clip_commit)):
            if commit:
                setattr(config, f"{part}_base_model", str(source))
                setattr(config, f"{part}_base_revision", commit)
        config.heads_only = bool(config.text_base_model and (dual is None or config.clip_base_model))
        model = cls(config, build_backbones=False)
        model.language_model, model.clip = text, dual
        model._adopt_declarations()
        with torch.no_grad():  # [RET] starts among the words, which is where the language model knows its way
            words = text.get_input_embeddings().weight
            noise = torch.randn_like(model.heads.ret_embedding) * words.float().std()
            model.heads.ret_embedding.copy_(words.float().mean(dim=0) + noise)
        if isinstance(dtype, dict):
            model.heads.to(dtypes["heads"])
        return model.eval()

    def _adopt_declarations(self) -> None:
        """Takes over what the backbones ask of loading and placement, and freezes them."""
        for name in _PARTS.values():
            backbone = getattr(self, name)
            for declared in ("_no_split_modules", "_skip_keys_device_placement", "_keep_in_fp32_modules"):
                own = set(getattr(self, declared, None) or ())
                setattr(self, declared, own | set(getattr(backbone, declared, None) or ()))
        self._freeze()
        self._ignore_backbones(self.config.heads_only)

    # -- loading ----------------------------------------------------------------------------------------------------
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *args,
        config=None,
        language_model=None,
        clip=None,
        output_loading_info: bool = False,
        **kwargs,
    ):
        """Loads a full release, or a heads-only one together with the backbones that it names.

        Args:
            pretrained_model_name_or_path (`str`): Hub id or folder.
            config (`UniMuRConfig`, *optional*): instead of the one beside the weights.
            language_model, clip (`str` or `PreTrainedModel`, *optional*): backbones in place of those that a
                heads-only release names.
            dtype (`torch.dtype`, `str` or `dict`, *optional*): of all parts; by default, or with "auto", each part is
                loaded in the dtype of its own checkpoint. A dictionary names parts apart, as in
                `{"language_model": torch.bfloat16, "clip": torch.float32}`; those that it leaves out keep their own,
                and the heads are float32.
            kwargs: those of `PreTrainedModel.from_pretrained`.

        Raises:
            ValueError: when a file lacks weights, a heads-only release comes without backbones, or `dtype` names
                something that is no part or no dtype.
            OSError: when a backbone cannot be had; it names the id and the revision.
        """
        source = {k: kwargs[k] for k in (*HUB_ARGUMENTS, "revision", "subfolder") if k in kwargs}
        kwargs["ignore_mismatched_sizes"] = True  # else the error would not say which
        dtype, torch_dtype = kwargs.pop("dtype", None), kwargs.pop("torch_dtype", None)
        dtypes = _part_dtypes(torch_dtype if dtype is None else dtype)
        kwargs["dtype"] = dtypes["heads"]
        if config is None:
            found = cls.config_class.get_config_dict(pretrained_model_name_or_path, **source)[0].get("model_type")
            if found not in (None, cls.config_class.model_type):
                raise ValueError(
                    f"{pretrained_model_name_or_path} is a {found} model and no release of UniMuR: join it to another "
                    "one with UniMuRModel.from_backbones."
                )
            config = cls.config_class.from_pretrained(pretrained_model_name_or_path, **source)
        if not config.heads_only:
            with readable_weights(str(pretrained_model_name_or_path)):
                model, info = super().from_pretrained(
                    pretrained_model_name_or_path,
                    *args,
                    config=config,
                    backbone_dtypes=_own_dtypes(config, dtypes),
                    output_loading_info=True,
                    **kwargs,
                )
            require_complete(info, str(pretrained_model_name_or_path))
            require_finite(model.heads, str(pretrained_model_name_or_path))
            model._freeze()
            return (model, info) if output_loading_info else model

        placement = {k: kwargs.pop(k) for k in _PLACEMENT_ARGUMENTS if k in kwargs}
        attention = kwargs.pop("attn_implementation", None)
        generation = kwargs.pop("generation_config", None)
        with readable_weights(str(pretrained_model_name_or_path)):
            model, info = super().from_pretrained(
                pretrained_model_name_or_path,
                *args,
                config=config,
                build_backbones=False,
                output_loading_info=True,
                **kwargs,
            )
        require_complete(info, str(pretrained_model_name_or_path))
        require_finite(model.heads, str(pretrained_model_name_or_path))
        revision = getattr(config, "_commit_hash", None) or kwargs.get("revision")
        require_intact(str(pretrained_model_name_or_path), revision, kwargs.get("cache_dir"))
        hub = {k: v for k, v in source.items() if k in HUB_ARGUMENTS}
        for part, given in (("text", language_model), ("clip", clip)):
            if getattr(config, f"{part}_config") is not None:
                dtype = dtypes[_PARTS[part]]
                model._attach(part, given, attention, str(pretrained_model_name_or_path), dtype, **hub, **placement)
        model._adopt_declarations()
        if generation is not None:
            model.generation_config = generation
        if placement.get("device_map") is not None and model.language_model is not None:
            model.heads.to(model.language_model.get_input_embeddings().weight.device)
        return (model, info) if output_loading_info else model

    def _attach(self, part: str, given, attention, origin: str, dtype, **kwargs) -> None:
        expected = getattr(self.config, f"{part}_config")
        base, revision = (getattr(self.config, f"{part}_base_{key}") for key in ("model", "revision"))
        if given is None and base is None:
            raise ValueError(
                f"{origin} holds trained heads only and names no {_WORDS[part]}: pass "
                f"{_PARTS[part]}=<folder or Hub id>."
            )
        if isinstance(attention, dict):
            attention = attention.get(f"{part}_config")
        attention = attention or getattr(expected, "_attn_implementation", None)
        if attention is not None and expected.model_type != OpenCLIPConfig.model_type:
            kwargs["attn_implementation"] = attention
        if part == "clip":
            kwargs.pop("quantization_config", None)
        source, revision = (base, revision) if given is None else (given, None)
        backbone, _ = load_backbone(part, source, revision, dtype=dtype, **kwargs)
        found = backbone.config
        for key in ("model_type", "hidden_size", "num_hidden_layers", "vocab_size", "projection_dim"):
            if getattr(found, key, None) != getattr(expected, key, None):
                raise ValueError(
                    f"The heads of {origin} were trained on a {_WORDS[part]} with "
                    f"{key}={getattr(expected, key, None)}, and {source!r} has {getattr(found, key, None)}."
                )
        setattr(self, _PARTS[part], backbone)
        setattr(self.config, f"{part}_config", found)

    # -- copying ----------------------------------------------------------------------------------------------------
    def __getstate__(self) -> dict:
        return _without_recorders(self, {}).__dict__

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        if self.language_model is not None and self.config.ret_layers != [-1]:
            # Which hidden states a class can give, transformers notes when one is made: none was in a fresh process.
            with torch.device("meta"):
                AutoModelForCausalLM.from_config(deepcopy(self.config.text_config))

    # -- saving -----------------------------------------------------------------------------------------------------
    def _ignore_backbones(self, heads_only: bool) -> None:
        prefixes = tuple(f"{name}." for name in _PARTS.values())
        # LoRA adapters on a backbone are trained, so they are kept.
        ignored = {key for key in self.state_dict() if key.startswith(prefixes) and "lora_" not in key}
        self._keys_to_ignore_on_save = ignored if heads_only else None

    def save_pretrained(self, save_directory, *args, heads_only: "bool | None" = None, **kwargs):
        """Saves the trained heads, with or without the frozen backbones, and the code that runs them.

        Args:
            save_directory (`str`): the folder.
            heads_only (`bool`, *optional*): by default True where both backbones came from the Hub. A folder that
                holds heads only and names no backbones is loaded with `language_model=` and `clip=`.
        """
        usual = self.config.heads_only
        self.config.heads_only = usual if heads_only is None else heads_only
        self._ignore_backbones(self.config.heads_only)
        for part in _PARTS:
            sub = getattr(self.config, f"{part}_config")
            if sub is None:
                continue
            sub._name_or_path = ""  # a nested path is written out, unlike the top one
            if self.config.heads_only:
                sub.__dict__.pop("quantization_config", None)
            else:
                sub.dtype = getattr(self, _PARTS[part]).dtype  # which the next load keeps
        if self.config.heads_only:
            self.can_generate = lambda: False  # how to generate is the language model's, and is not written
        try:
            return super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            self.__dict__.pop("can_generate", None)
            self.config.heads_only = usual
            self._ignore_backbones(usual)

    # -- the dual encoder -------------------------------------------------------------------------------------------
    def _require_clip(self) -> nn.Module:
        if self.clip is None:
            raise ValueError(
                "This model has no dual encoder: its candidates are ready embeddings, and its contexts hold text only."
            )
        return self.clip

    @torch.no_grad()
    def encode_images(
        self,
        pixel_values: torch.Tensor,
        pixel_attention_mask: "torch.Tensor | None" = None,
        spatial_shapes: "torch.Tensor | None" = None,
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        """Pictures through the frozen image tower: `(pictures, pooled_width)` before the joint space and
        `(pictures, joint_width)` in it, not normalised."""
        clip = self._require_clip()
        pixel_values = pixel_values.to(clip.dtype)
        if clip.config.model_type == OpenCLIPConfig.model_type:
            features = clip.get_image_features(pixel_values)
            return features.pooled_features, features.pooler_output
        # SigLIP 2 takes pictures of any shape; the name of its mask differs between versions of transformers.
        extra = () if spatial_shapes is None else (pixel_attention_mask, spatial_shapes)
        pooled = clip.vision_model(pixel_values, *extra).pooler_output
        return pooled, self.project_images(pooled)

    @torch.no_grad()
    def project_images(self, pooled: torch.Tensor) -> torch.Tensor:
        """Outputs of the frozen image tower `(images, pooled_width)` in the joint space `(images, joint_width)`."""
        clip = self._require_clip()
        pooled = pooled.to(clip.dtype)
        if clip.config.model_type == OpenCLIPConfig.model_type:
            return clip.project_image(pooled)
        return clip.visual_projection(pooled) if hasattr(clip, "visual_projection") else pooled

    @torch.no_grad()
    def encode_texts(self, input_ids: torch.Tensor, attention_mask: "torch.Tensor | None" = None) -> torch.Tensor:
        """Texts through the frozen text tower: `(texts, joint_width)`, not normalised."""
        return pooled_output(self._require_clip().get_text_features(input_ids, attention_mask=attention_mask))


__all__ = ["HUB_ARGUMENTS", "BackbonesMixin", "load_backbone", "pooled_output"]
