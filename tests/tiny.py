"""Small random backbones of real architectures, in folders as the Hub has them."""

import copy
from pathlib import Path

import open_clip
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from modeling_unimur import OpenCLIPModel

_TEXT = [
    "a cat slept on my keyboard", "the red balloon over the town", "what a beautiful morning it is",
    "she plays guitar", "do you have a picture of the lighthouse",
    "no, but the birthday cake was good", "0123456789 !?.,:;'\"",
]  # fmt: skip


def tokenizer(bos: bool = False, eos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, with or without a start token and an end token around a text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>", "<pad>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(_TEXT, trainer)
    if bos or eos:
        template = f"{'<s> ' if bos else ''}$A{' </s>' if eos else ''}"
        backend.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=2048
    )


_SIZES = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "opt": {"hidden_size": 32, "ffn_dim": 64, "word_embed_proj_dim": 32},
    "mistral": {"sliding_window": 8},
}


def language_model(folder: Path, family: str = "llama", bos: bool = False, seed: int = 0, **overrides) -> Path:
    """A causal language model of a family with two layers, and its tokenizer."""
    torch.manual_seed(seed)
    tok = tokenizer(bos)
    common = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256,
    }  # fmt: skip
    if family in ("gpt2", "bloom", "opt"):
        common = {"num_hidden_layers": 2, "num_attention_heads": 4} if family == "opt" else {}
    config = CONFIG_MAPPING[family](
        **{**common, **_SIZES.get(family, {}), **overrides},
        vocab_size=len(tok), bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():  # at their usual start, small models say nearly the same whatever they read
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
    model.save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder


def clip(folder: Path, seed: int = 1) -> Path:
    """A CLIP of 32 dimensions, its tokenizer and image processor."""
    torch.manual_seed(seed)
    tok = tokenizer(eos=True)  # whose place CLIP reads
    text = {
        "vocab_size": len(tok), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 32, "bos_token_id": 0, "eos_token_id": 1,
        "pad_token_id": 2,
    }  # fmt: skip
    vision = {
        "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32,
        "patch_size": 8,
    }  # fmt: skip
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).eval()
    model.save_pretrained(folder)
    tok.model_max_length = 32
    tok.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    return folder


_SIGLIP = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def siglip(folder: Path, version: int = 1) -> Path:
    """A small SigLIP of either version, with its tokenizer and image processor."""
    torch.manual_seed(0)
    tok = tokenizer()
    tok.model_max_length = 16
    tok.add_special_tokens({"unk_token": "<s>"})  # transformers' class for SigLIP 2 wants one
    text = {**_SIGLIP, "vocab_size": len(tok), "max_position_embeddings": 16, "projection_size": 32}
    if version == 1:
        vision = {**_SIGLIP, "image_size": 32, "patch_size": 8}
        SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
        SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    else:
        vision = {**_SIGLIP, "num_patches": 16, "patch_size": 8}
        Siglip2Model(Siglip2Config(text_config=text, vision_config=vision)).save_pretrained(folder)
        Siglip2ImageProcessor(patch_size=8, max_num_patches=16).save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder


_OPEN_CLIP_VISION = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
_OPEN_CLIP_TEXT = {"context_length": 16, "vocab_size": 400, "width": 32, "heads": 2, "layers": 2}
# open_clip's three ways to build a dual encoder.
OPEN_CLIP_CONFIGS = {
    "clip": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": _OPEN_CLIP_VISION, "text_cfg": _OPEN_CLIP_TEXT},
    "custom": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear", "image_size": 32},
        "text_cfg": {**_OPEN_CLIP_TEXT, "pool_type": "last"},
    },
    "timm_hf": {
        "embed_dim": 32,
        "vision_cfg": {
            "timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": "mlp", "image_size": 32,
        },
        "text_cfg": {"hf_model_name": "acme/bert", "hf_proj_type": None, "hf_pooler_type": "mean_pooler"},
    },
}  # fmt: skip


def plain_open_clip(kind: str, folder: Path, seed: int = 2) -> torch.nn.Module:
    """One of open_clip's own models, random; the folder takes the configuration of a Hugging Face text tower."""
    torch.manual_seed(seed)
    config = copy.deepcopy(OPEN_CLIP_CONFIGS[kind])
    if kind == "timm_hf":
        BertConfig(
            vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=48, pad_token_id=2,
        ).save_pretrained(folder)  # fmt: skip
        config["text_cfg"].update(hf_model_name=str(folder), hf_model_pretrained=False)
    cls = open_clip.CLIP if kind == "clip" else open_clip.CustomTextCLIP
    config.pop("custom_text", None)
    model = cls(**config).eval()
    for parameter in model.parameters():  # open_clip leaves some at zero, where a lost weight would not show
        if parameter.ndim == 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def open_clip_folder(folder: Path, kind: str = "timm_hf") -> Path:
    """An open_clip model behind our wrapper, its tokenizer and image processor."""
    model = plain_open_clip(kind, folder.with_name(f"{folder.name}-tower"))
    OpenCLIPModel.from_open_clip(model, OPEN_CLIP_CONFIGS[kind]).save_pretrained(folder)
    tok = tokenizer(eos=True)
    tok.model_max_length = 16
    tok.save_pretrained(folder)
    side = {"height": 32, "width": 32}
    CLIPImageProcessor(size=side, do_center_crop=False, crop_size=side).save_pretrained(folder)
    return folder


def sentence_encoder(folder: Path, seed: int = 2) -> Path:
    """A model of sentence-transformers of 32 dimensions that reads 32 tokens."""
    from sentence_transformers import SentenceTransformer

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(seed)
    bert = BertConfig(vocab_size=400, max_position_embeddings=64, pad_token_id=2, **sizes)
    BertModel(bert).save_pretrained(folder)
    tokenizer(eos=True).save_pretrained(folder)
    encoder = SentenceTransformer(str(folder), device="cpu")
    encoder.max_seq_length = 32
    encoder.save_pretrained(str(folder))
    return folder


def cross_encoder(folder: Path, labels: int = 1, seed: int = 2) -> Path:
    """A BERT that reads two texts, with random weights that tell texts apart."""
    torch.manual_seed(seed)
    tok = tokenizer()
    config = BertConfig(
        vocab_size=len(tok), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, pad_token_id=2, num_labels=labels,
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
    model.save_pretrained(folder)
    tok.model_max_length = 128
    tok.save_pretrained(folder)
    return folder
