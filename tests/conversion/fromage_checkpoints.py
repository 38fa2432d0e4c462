"""Checkpoints in FROMAGe's and GILL's published layouts, and the sources' formulas on their raw tensors."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

# model_args.json of the paper's model and of fromage_vis4, as published.
PAPER_ARGUMENTS = {
    "opt_version": "facebook/opt-6.7b", "task": "multitask", "freeze_lm": True,
    "visual_encoder": "openai/clip-vit-large-patch14", "freeze_vm": True, "pretrained_visual": True,
    "use_pooler": True, "n_visual_tokens": 1, "image_embed_dropout_prob": 0.0, "text_embed_dropout_prob": 0.0,
    "shared_emb_dim": 256, "text_emb_layers": [-1], "append_retrieval_token": True,
    "num_appended_retrieval_tokens": 1, "input_prompt": "A picture of", "add_input_to_ret": True,
    "tunable_prompt_length": 0, "retrieval_token_idx": 50266,
}  # fmt: skip
VIS4_ARGUMENTS = {
    "opt_version": "facebook/opt-6.7b", "freeze_lm": True, "visual_encoder": "openai/clip-vit-large-patch14",
    "freeze_vm": True, "n_visual_tokens": 4, "use_image_embed_norm": False, "image_embed_dropout_prob": 0.0,
    "use_text_embed_layernorm": False, "text_embed_dropout_prob": 0.0, "shared_emb_dim": 256,
    "text_emb_layers": [-1], "retrieval_token_idx": 50266,
}  # fmt: skip
GILL_ARGUMENTS = {
    "opt_version": "facebook/opt-6.7b", "freeze_lm": True, "visual_encoder": "openai/clip-vit-large-patch14",
    "freeze_vm": True, "n_visual_tokens": 4, "ret_emb_dim": 256, "gen_emb_dim": 768, "text_emb_layers": [-1],
    "text_fc_mode": "gill_mapper", "ret_text_fc_mode": "linear", "num_tokens": 8, "num_clip_tokens": 77,
    "share_ret_gen": True, "norm_image_embed": "none", "retrieval_token_idx": list(range(50266, 50274)),
    "gen_token_idx": list(range(50266, 50274)),
}  # fmt: skip


def random_tensors(shapes: dict, seed: int = 0, dtype=torch.float32) -> dict:
    """A state dict of random tensors."""
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=generator).mul(0.3).to(dtype) for key, shape in shapes.items()}


def fromage_shapes(width=4096, pooled=1024, dim=256, tokens=1, layers=1, row=(1, 4096), visual_fc=True) -> dict:
    """Keys and shapes of a pruned checkpoint; at the paper's size by default."""
    shapes = {"model.logit_scale": ()}
    for number in range(layers):
        shapes[f"model.text_hidden_fcs.{number}.0.weight"] = (dim, width)
        shapes[f"model.text_hidden_fcs.{number}.0.bias"] = (dim,)
    shapes["model.visual_embeddings.weight"] = (width * tokens, pooled)
    shapes["model.visual_embeddings.bias"] = (width * tokens,)
    if visual_fc:
        shapes |= {"model.visual_fc.weight": (dim, pooled), "model.visual_fc.bias": (dim,)}
    return {**shapes, "ret_input_embeddings.weight": row}


def write(folder: Path, tensors: dict, arguments: dict) -> Path:
    """A checkpoint folder as `load_fromage` and `load_gill` read it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": tensors}, folder / "pretrained_ckpt.pth.tar")
    (folder / "model_args.json").write_text(json.dumps(arguments))
    return folder


def picture(seed: int = 0) -> Image.Image:
    """Noise, wider than high."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 56, 3), dtype=np.uint8))


class Source:
    """The source's computation on raw tensors and on backbones of its own.

    Args:
        language, clip: folders of the backbones.
        tensors: the checkpoint's state dict.
        visual_tokens: input vectors that one picture becomes.
        text_fc: keys of the text maps with `{}` for their number; `layers` the hidden states that they read.
        ret_rows: input vectors of the tokens at the end `(tokens, width)`; the first one is read.
    """

    def __init__(self, language, clip, tensors, visual_tokens, text_fc, layers, ret_rows):
        self.lm = AutoModelForCausalLM.from_pretrained(language).eval()
        self.clip = AutoModel.from_pretrained(clip).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(language)
        self.tensors = {key: value.float() for key, value in tensors.items()}
        self.visual_tokens, self.text_fc, self.layers = visual_tokens, text_fc, layers
        self.ret_rows = ret_rows.float()

    def _linear(self, key, x):
        return x @ self.tensors[f"{key}.weight"].T + self.tensors[f"{key}.bias"]

    @torch.no_grad()
    def query(self, *parts) -> torch.Tensor:
        """Texts and pixel values `(1, 3, height, width)` in order, then the tokens at the end: a unit vector."""
        embeds, start = [], True
        for part in parts:
            if isinstance(part, str):
                ids = self.tokenizer(part, add_special_tokens=True, return_tensors="pt").input_ids
                ids = ids if start else ids[:, 1:]  # only the first text has the start token
                start = False
                embeds.append(self.lm.get_input_embeddings()(ids))
            else:
                visual = self._linear("model.visual_embeddings", self.clip.vision_model(part).pooler_output)
                embeds.append(visual.reshape(1, self.visual_tokens, -1))
        before = sum(e.shape[1] for e in embeds)
        embeds.append(self.ret_rows[None])
        out = self.lm(inputs_embeds=torch.cat(embeds, dim=1), use_cache=False, output_hidden_states=True)
        mapped = [self._linear(self.text_fc.format(n), out.hidden_states[at]) for n, at in enumerate(self.layers)]
        embedding = torch.stack(mapped, dim=-1).sum(dim=-1)[:, before]
        return embedding / embedding.norm(dim=-1, keepdim=True)

    @torch.no_grad()
    def candidate(self, pixel_values) -> torch.Tensor:
        """Pictures to unit vectors."""
        pooled = self.clip.vision_model(pixel_values).pooler_output
        if "model.visual_fc.weight" in self.tensors:
            mapped = self._linear("model.visual_fc", pooled)
        else:
            mapped = pooled @ self.clip.visual_projection.weight.T
        return mapped / mapped.norm(dim=-1, keepdim=True)
