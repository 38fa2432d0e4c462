"""GILL's retrieval part: the release computes what GILL computes from eight tokens, by the first one alone."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, AutoProcessor, CLIPConfig, OPTConfig

from conversion.convert_gill_to_hf import convert, read_heads
from conversion.heads_release import Backbone
from conversion.state_dicts import KeyLedger
from tests import tiny
from tests.conversion import fromage_checkpoints as checkpoints

IMG0 = len(tiny.tokenizer()) + 1  # after <|image|>, as 50266 after OPT's 50265


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    work = tmp_path_factory.mktemp("backbones")
    return tiny.language_model(work / "opt", "opt", bos=True), tiny.clip(work / "clip")


def gill_shapes(width=4096, pooled=1024, dim=256, tokens=4, images=8, mapper=512, out=768, layers=4) -> dict:
    """Keys and shapes of a pruned checkpoint; at the paper's size by default."""
    with torch.device("meta"):  # GILL's TextFcLayer in the mode gill_mapper
        transformer = nn.Transformer(mapper, 4, layers, layers, mapper * 4, batch_first=True, norm_first=True)
    prefix = "model.gen_text_hidden_fcs.0."
    shapes = {f"{prefix}tfm.{key}": tuple(value.shape) for key, value in transformer.state_dict().items()}
    shapes |= {f"{prefix}fc.weight": (mapper, width), f"{prefix}fc.bias": (mapper,)}
    shapes |= {f"{prefix}model.weight": (out, mapper), f"{prefix}model.bias": (out,)}
    return {
        **shapes,
        f"{prefix}query_embs": (1, 77, mapper),
        "model.logit_scale": (),
        "model.input_embeddings.weight": (images, width),
        "model.ret_text_hidden_fcs.0.model.weight": (dim, width),
        "model.ret_text_hidden_fcs.0.model.bias": (dim,),
        "model.visual_embeddings.weight": (width * tokens, pooled),
        "model.visual_embeddings.bias": (width * tokens,),
        "model.visual_fc.weight": (dim, pooled),
        "model.visual_fc.bias": (dim,),
    }


def make(folder, arguments=None, **shapes):
    """A checkpoint on the small backbones; its tensors and its folder."""
    small = {"width": 32, "pooled": 48, "dim": 16, "mapper": 16, "out": 24, "layers": 1, **shapes}
    tensors = checkpoints.random_tensors(gill_shapes(**small))
    own = {"ret_emb_dim": 16, "retrieval_token_idx": list(range(IMG0, IMG0 + 8))}
    return tensors, checkpoints.write(folder, tensors, {**checkpoints.GILL_ARGUMENTS, **own, **(arguments or {})})


def backbones(folders) -> list[Backbone]:
    return [Backbone(str(folder)) for folder in folders]


@pytest.mark.parametrize("rows", ["eight", "all"])
def test_release_computes_what_gill_computes(rows, folders, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    tensors, folder = make(tmp_path / "checkpoint", **({} if rows == "eight" else {"images": IMG0 + 8}))
    images = tensors["model.input_embeddings.weight"][-8:]
    release = convert(folder, tmp_path / "release", *backbones(folders))
    assert "gen_text_hidden_fcs.0.query_embs" in caplog.text
    assert "left out: maps to Stable Diffusion" in caplog.text
    written = load_file(release / "model.safetensors")
    assert torch.equal(written["heads.ret_embedding"], images[:1])
    assert not any("gen_" in key for key in written)
    assert "Left out: the vectors of [IMG1] to [IMG7]" in (release / "README.md").read_text()

    given = {"language_model": str(folders[0]), "clip": str(folders[1])}
    model = AutoModel.from_pretrained(release, trust_remote_code=True, **given)
    processor = AutoProcessor.from_pretrained(release, trust_remote_code=True)
    assert processor.ret_tokens == ["[IMG0]"]
    # All eight tokens stand at the end of the source's context.
    source = checkpoints.Source(*folders, tensors, 4, "model.ret_text_hidden_fcs.{}.model", [-1], images)
    shown = checkpoints.picture(5)
    pixels = processor.process_images([shown])["pixel_values"]
    texts = ("she plays guitar", " over the town")
    content = [
        {"type": "text", "text": texts[0]},
        {"type": "image", "image": shown},
        {"type": "text", "text": texts[1]},
    ]
    with torch.no_grad():
        found = model.get_multimodal_features(**processor.process_context([texts[0]])).pooler_output
        torch.testing.assert_close(found, source.query(texts[0]), atol=1e-5, rtol=0)
        batch = processor.process_context([[{"role": "user", "content": content}]])
        found = model.get_multimodal_features(**batch).pooler_output
        torch.testing.assert_close(found, source.query(texts[0], pixels, texts[1]), atol=1e-5, rtol=0)
        found = model.get_image_features(pixels).pooler_output
        torch.testing.assert_close(found, source.candidate(pixels), atol=1e-5, rtol=0)


def test_the_papers_size_by_names_and_shapes():
    text = OPTConfig(
        hidden_size=4096, word_embed_proj_dim=4096, ffn_dim=16384, num_hidden_layers=32, num_attention_heads=32
    )
    clip = CLIPConfig(projection_dim=768, vision_config={"hidden_size": 1024, "num_attention_heads": 16})
    shapes = gill_shapes()
    ledger = KeyLedger({key: torch.empty(shape, device="meta") for key, shape in shapes.items()}, "published")
    plan = read_heads(ledger, checkpoints.GILL_ARGUMENTS, text, clip)
    assert ledger.report().startswith(f"published: {len(shapes)} tensors")
    # [IMG0], the text map, the map of candidates, four vectors a picture, the temperature.
    expected = 4096 + (4096 + 1) * 256 + (1024 + 1) * 256 + (1024 + 1) * 4 * 4096 + 1
    assert sum(value.numel() for value in plan.heads.values()) == expected
    assert plan.ret_token_id == 50266


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ret_text_fc_mode": "gill_mapper"}, "linear"),
        ({"norm_image_embed": "both"}, "norm_image_embed='both'"),
        ({"num_tokens": 4}, "agree"),
        ({"ret_emb_dim": 8}, r"\(16, 32\).*\(8, 32\)"),
    ],
)
def test_what_does_not_fit_is_named(arguments, message, folders, tmp_path):
    _, folder = make(tmp_path / "checkpoint", arguments)
    with pytest.raises(ValueError, match=message):
        convert(folder, tmp_path / "release", *backbones(folders))
    assert not (tmp_path / "release").exists()


def test_a_missing_argument_is_named(folders, tmp_path):
    _, folder = make(tmp_path / "checkpoint")
    arguments = json.loads((folder / "model_args.json").read_text())
    del arguments["num_tokens"]
    (folder / "model_args.json").write_text(json.dumps(arguments))
    with pytest.raises(ValueError, match="needs num_tokens"):
        convert(folder, tmp_path / "release", *backbones(folders))
