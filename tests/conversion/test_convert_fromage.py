"""FROMAGe's and UniMuR's checkpoints: the release computes the source's formulas, written out here."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    OPTConfig,
    OPTForCausalLM,
)

from conversion.convert_fromage_to_hf import convert, main, read_heads
from conversion.heads_release import Backbone
from conversion.state_dicts import KeyLedger
from modeling_unimur import UniMuRConfig
from modeling_unimur.modeling_unimur import UniMuRHeads
from tests import tiny
from tests.conversion import fromage_checkpoints as checkpoints
from tests.hub_cache import publish

COMMITS = {"lm": "c3" * 20, "clip": "d4" * 20}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A small OPT with its start token, and a small CLIP."""
    work = tmp_path_factory.mktemp("backbones")
    return tiny.language_model(work / "opt", "opt", bos=True), tiny.clip(work / "clip")


@pytest.fixture(scope="module")
def hub(folders, tmp_path_factory):
    """Arguments of a hub that has both."""
    cache = tmp_path_factory.mktemp("hub")
    for name, folder in zip(("lm", "clip"), folders, strict=True):
        publish(cache, f"acme/{name}", folder, COMMITS[name])
    return {"cache_dir": str(cache)}


RET = len(tiny.tokenizer()) + 1  # after <|image|>, as 50266 after OPT's 50265
VARIANTS = {
    "paper": {},
    "flat row": {"row": (32,)},
    "vis4": {"tokens": 4},
    "two layers": {"layers": 2},
    "unimur": {"dim": 24, "visual_fc": False},
}
LAYERS = {1: [-1], 2: [1, 2]}  # of two, the last by its number


def make(folder, dtype=torch.float32, table=False, drop=(), arguments=None, **shapes):
    """A checkpoint on the small backbones; its tensors and its folder."""
    shapes = {"width": 32, "pooled": 48, "dim": 16, "row": (1, 32), **shapes}
    tensors = checkpoints.random_tensors(checkpoints.fromage_shapes(**shapes), dtype=dtype)
    if table:
        rows = torch.randn(RET + 1, 32).to(dtype)
        rows[RET] = tensors["ret_input_embeddings.weight"].reshape(-1)
        tensors["model.input_embeddings.weight"] = rows
    tokens, layers = shapes.get("tokens", 1), LAYERS[shapes.get("layers", 1)]
    base = checkpoints.VIS4_ARGUMENTS if tokens == 4 else checkpoints.PAPER_ARGUMENTS
    own = {"n_visual_tokens": tokens, "shared_emb_dim": shapes["dim"], "text_emb_layers": layers}
    own["retrieval_token_idx"] = RET
    tensors = {key: value for key, value in tensors.items() if key not in drop}
    return tensors, checkpoints.write(folder, tensors, {**base, **own, **(arguments or {})})


def source_of(folders, tensors, shapes) -> checkpoints.Source:
    row = tensors["ret_input_embeddings.weight"].reshape(1, -1)
    layers = LAYERS[shapes.get("layers", 1)]
    return checkpoints.Source(*folders, tensors, shapes.get("tokens", 1), "model.text_hidden_fcs.{}.0", layers, row)


@torch.no_grad()
def query(model, processor, *parts) -> torch.Tensor:
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part} for part in parts
    ]
    batch = processor.process_context([[{"role": "user", "content": content}]])
    return model.get_multimodal_features(**batch).pooler_output


def backbones(folders) -> list[Backbone]:
    return [Backbone(str(folder)) for folder in folders]


@pytest.mark.parametrize("variant", VARIANTS)
def test_release_computes_the_sources_formulas(variant, folders, hub, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    shapes = VARIANTS[variant]
    tensors, folder = make(tmp_path / "checkpoint", **shapes)
    release = convert(folder, tmp_path / "release", Backbone("acme/lm"), Backbone("acme/clip"), hub_arguments=hub)
    for key, value in tensors.items():  # the report has every key with its shape
        assert f"{key} " in caplog.text
        assert str(tuple(value.shape)) in caplog.text

    config = json.loads((release / "config.json").read_text())
    assert (config["text_base_model"], config["text_base_revision"]) == ("acme/lm", COMMITS["lm"])
    assert (config["clip_base_model"], config["clip_base_revision"]) == ("acme/clip", COMMITS["clip"])
    assert config["heads_only"] is True
    assert (config["ret_in_caption_loss"], config["loss_vocab_size"]) == (True, RET - 1)  # all rows of the small table
    assert str(tmp_path) not in (release / "config.json").read_text()
    written = load_file(release / "model.safetensors")
    assert all(key.startswith("heads.") for key in written)
    assert sum(value.numel() for value in written.values()) == sum(value.numel() for value in tensors.values())

    model = AutoModel.from_pretrained(release, trust_remote_code=True, **hub)
    processor = AutoProcessor.from_pretrained(release, trust_remote_code=True)
    source, shown = source_of(folders, tensors, shapes), checkpoints.picture(3)
    pixels = processor.process_images([shown, checkpoints.picture(4)])["pixel_values"]
    expected = source.candidate(pixels)
    assert (expected[0] @ expected[1]).abs() < 0.999
    with torch.no_grad():
        torch.testing.assert_close(model.get_image_features(pixels).pooler_output, expected, atol=1e-5, rtol=0)
    text = "a cat slept on my keyboard"
    plain = source.query(text)
    seen = source.query(text, pixels[:1], " over the town")
    assert (plain @ seen.T).item() < 0.999
    torch.testing.assert_close(query(model, processor, text), plain, atol=1e-5, rtol=0)
    torch.testing.assert_close(query(model, processor, text, shown, " over the town"), seen, atol=1e-5, rtol=0)


@torch.no_grad()
def test_picture_first_in_the_sources_order(folders, tmp_path):
    tensors, folder = make(tmp_path / "checkpoint")
    release = convert(folder, tmp_path / "release", *backbones(folders))
    model = AutoModel.from_pretrained(
        release, trust_remote_code=True, language_model=str(folders[0]), clip=str(folders[1])
    )
    processor = AutoProcessor.from_pretrained(release, trust_remote_code=True)
    batch = processor.process_context([checkpoints.picture()])
    start = processor.tokenizer.bos_token_id  # before the first words, as the source has it
    assert batch["input_ids"][0].tolist() == [model.config.image_token_id, start, RET]
    expected = source_of(folders, tensors, {}).query(batch["pixel_values"], "")
    torch.testing.assert_close(model.get_multimodal_features(**batch).pooler_output, expected, atol=1e-5, rtol=0)


def test_bf16_and_a_table_of_all_rows(folders, tmp_path):
    tensors, folder = make(tmp_path / "checkpoint", dtype=torch.bfloat16, table=True)
    release = convert(folder, tmp_path / "release", *backbones(folders))
    written = load_file(release / "model.safetensors")
    assert {value.dtype for value in written.values()} == {torch.bfloat16}
    assert json.loads((release / "config.json").read_text())["dtype"] == "bfloat16"
    assert torch.equal(written["heads.ret_embedding"], tensors["ret_input_embeddings.weight"])
    assert torch.equal(written["heads.image_target_map.weight"], tensors["model.visual_fc.weight"])
    # Only the table, as a checkpoint has it before it is pruned.
    _, folder = make(tmp_path / "unpruned", dtype=torch.bfloat16, table=True, drop=("ret_input_embeddings.weight",))
    again = load_file(convert(folder, tmp_path / "again", *backbones(folders)) / "model.safetensors")
    assert torch.equal(again["heads.ret_embedding"], written["heads.ret_embedding"])


def test_the_papers_size_by_names_and_shapes():
    text = OPTConfig(
        hidden_size=4096, word_embed_proj_dim=4096, ffn_dim=16384, num_hidden_layers=32, num_attention_heads=32
    )
    clip = CLIPConfig(
        projection_dim=768,
        vision_config={"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    )
    for tokens, arguments, total in (
        (1, checkpoints.PAPER_ARGUMENTS, 5_513_729),
        (4, checkpoints.VIS4_ARGUMENTS, 5_513_729 + 3 * 4096 * 1025),
    ):
        shapes = checkpoints.fromage_shapes(tokens=tokens)
        ledger = KeyLedger({key: torch.empty(shape, device="meta") for key, shape in shapes.items()}, "published")
        plan = read_heads(ledger, arguments, text, clip)
        assert ledger.report().startswith("published: 8 tensors")
        config = UniMuRConfig(
            text_config=text, clip_config=clip, ret_token_ids=[50266], image_token_id=50265, **plan.config
        )
        with torch.device("meta"):
            heads = UniMuRHeads(config).state_dict()
        assert {key: value.shape for key, value in heads.items()} == {k: v.shape for k, v in plan.heads.items()}
        assert sum(value.numel() for value in heads.values()) == total
        assert plan.processor["num_visual_tokens"] == tokens


def test_the_papers_size_without_the_backbones_weights(tmp_path):
    sizes = {"hidden_size": 4096, "word_embed_proj_dim": 4096, "ffn_dim": 16384}
    OPTConfig(**sizes, num_hidden_layers=32, num_attention_heads=32).save_pretrained(tmp_path / "opt")
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    CLIPConfig(projection_dim=768, vision_config=vision).save_pretrained(tmp_path / "clip")
    tiny.tokenizer(bos=True).save_pretrained(tmp_path / "opt")
    tiny.tokenizer(eos=True).save_pretrained(tmp_path / "clip")
    CLIPImageProcessor().save_pretrained(tmp_path / "clip")
    tensors = checkpoints.random_tensors(checkpoints.fromage_shapes(), dtype=torch.bfloat16)
    arguments = {**checkpoints.PAPER_ARGUMENTS, "retrieval_token_idx": RET}
    folder = checkpoints.write(tmp_path / "checkpoint", tensors, arguments)
    bases = [Backbone(str(tmp_path / name), None, f"acme/{name}", "f6" * 20) for name in ("opt", "clip")]
    release = convert(folder, tmp_path / "release", *bases)
    written = load_file(release / "model.safetensors")
    assert sum(value.numel() for value in written.values()) == 5_513_729
    assert (release / "model.safetensors").stat().st_size < 2 * 5_513_729 + 2000
    assert torch.equal(written["heads.visual_map.weight"], tensors["model.visual_embeddings.weight"])


@pytest.mark.slow
def test_at_the_size_of_opt_125m(tmp_path):
    torch.manual_seed(0)
    # [RET] lies within OPT's table, which has more rows than its tokenizer has tokens.
    OPTForCausalLM(OPTConfig(vocab_size=50272, bos_token_id=0)).save_pretrained(tmp_path / "opt")
    tiny.tokenizer(bos=True).save_pretrained(tmp_path / "opt")
    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "patch_size": 32}
    CLIPModel(CLIPConfig(projection_dim=512, vision_config=vision)).save_pretrained(tmp_path / "clip")
    tiny.tokenizer(eos=True).save_pretrained(tmp_path / "clip")
    CLIPImageProcessor().save_pretrained(tmp_path / "clip")
    folders, shapes = (tmp_path / "opt", tmp_path / "clip"), {"width": 768, "pooled": 768, "dim": 256, "row": (1, 768)}
    tensors, folder = make(tmp_path / "checkpoint", **shapes)
    release = convert(folder, tmp_path / "release", *backbones(folders))
    given = {"language_model": str(folders[0]), "clip": str(folders[1])}
    model = AutoModel.from_pretrained(release, trust_remote_code=True, **given)
    processor = AutoProcessor.from_pretrained(release, trust_remote_code=True)
    source, shown = source_of(folders, tensors, {}), checkpoints.picture()
    pixels, text = processor.process_images([shown])["pixel_values"], "do you have a picture of the lighthouse"
    torch.testing.assert_close(query(model, processor, text), source.query(text), atol=1e-5, rtol=0)
    found = query(model, processor, text, shown, " what a beautiful morning")
    expected = source.query(text, pixels, " what a beautiful morning")
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    with torch.no_grad():
        found = model.get_image_features(pixels).pooler_output
    torch.testing.assert_close(found, source.candidate(pixels), atol=1e-5, rtol=0)


def test_command_line_names_bases_of_folders(folders, tmp_path, monkeypatch, capsys):
    _, folder = make(tmp_path / "checkpoint")
    arguments = [str(folder), str(tmp_path / "release"), "--licence", "mit"]
    for name, path in zip(("language-model", "clip"), folders, strict=True):
        arguments += [f"--{name}", str(path), f"--{name}-base", f"acme/{name}", f"--{name}-base-revision", "e5" * 20]
    monkeypatch.setattr("sys.argv", ["convert", *arguments])
    main()
    assert capsys.readouterr().out.strip() == str(tmp_path / "release")
    config = json.loads((tmp_path / "release" / "config.json").read_text())
    assert (config["text_base_model"], config["clip_base_revision"]) == ("acme/language-model", "e5" * 20)
    card = (tmp_path / "release" / "README.md").read_text()
    assert "license: mit" in card
    assert "- acme/clip" in card
    assert "'A picture of'" in card


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": ("model.visual_embeddings.bias",)}, r"visual_embeddings\.bias"),
        ({"drop": ("ret_input_embeddings.weight",)}, r"lacks .*input_embeddings\.weight"),
        ({"drop": ("model.visual_fc.weight", "model.visual_fc.bias")}, "16 dimensions"),
        ({"pooled": 40}, r"\(32, 40\).*\(32, 48\)"),
        ({"row": (2, 32)}, "has 2 rows"),
        ({"arguments": {"use_pooler": False}}, "use_pooler=False"),
        ({"arguments": {"shared_emb_dim": None}}, "shared_emb_dim"),
        ({"arguments": {"retrieval_token_idx": 7}}, "token 7"),
    ],
)
def test_what_does_not_fit_is_named(change, message, folders, tmp_path):
    _, folder = make(tmp_path / "checkpoint", **change)
    with pytest.raises(ValueError, match=message):
        convert(folder, tmp_path / "release", *backbones(folders))
    assert not (tmp_path / "release").exists()


def test_unknown_tensors_and_another_width_are_refused(folders, tmp_path):
    tensors, folder = make(tmp_path / "checkpoint", table=True)
    for key, value, message in (
        ("model.text_layernorm.weight", torch.ones(16), r"1 tensors .*model\.text_layernorm\.weight \(16,\)"),
        ("ret_input_embeddings.weight", torch.ones(1, 33), r"\(1, 33\).*\(1, 32\)"),
    ):
        torch.save({"state_dict": {**tensors, key: value}}, folder / "pretrained_ckpt.pth.tar")
        with pytest.raises(ValueError, match=message):
            convert(folder, tmp_path / "release", *backbones(folders))


def test_files_that_cannot_be_read(folders, tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "was_run"), "w"))

    _, folder = make(tmp_path / "checkpoint")
    file = folder / "pretrained_ckpt.pth.tar"
    whole = file.read_bytes()

    def attempt(error, message):
        with pytest.raises(error, match=message):
            convert(folder, tmp_path / "release", *backbones(folders))

    torch.save({"state_dict": {"model.logit_scale": Payload()}}, file)
    attempt(ValueError, "weights_only")
    assert not (tmp_path / "was_run").exists()
    file.write_bytes(whole[: len(whole) // 2])
    attempt(ValueError, "damaged")
    torch.save({"state_dict": {"epoch": 3}}, file)
    attempt(ValueError, "'epoch', which is no named tensor")
    file.unlink()
    attempt(FileNotFoundError, "pretrained_ckpt")
    (folder / "model_args.json").unlink()
    attempt(FileNotFoundError, "model_args")
    (tmp_path / "release").mkdir()
    attempt(FileExistsError, "exists")


def test_bases_are_named_whole(folders):
    with pytest.raises(ValueError, match="given together"):
        Backbone(str(folders[0]), base_model="acme/lm")
    with pytest.raises(ValueError, match="40 hexadecimal"):
        Backbone(str(folders[0]), base_model="acme/lm", base_revision="main")
    with pytest.raises(ValueError, match="Hub id"):
        Backbone("acme/lm", base_model="acme/lm", base_revision="a" * 40)
    with pytest.raises(ValueError, match="revision"):
        Backbone(str(folders[0]), revision="main")
