"""Full and heads-only releases: what is in the files, what comes back, and what fails loudly."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, Trainer, TrainingArguments

from modeling_unimur import UniMuRModel, UniMuRProcessor
from tests import tiny
from tests.hub_cache import publish
from tests.rounding import assert_same_outputs, assert_same_weights

COMMITS = {"lm": "a1" * 20, "clip": "b2" * 20}


@pytest.fixture(scope="module")
def cache(tmp_path_factory, language_folder, clip_folder):
    """A hub's cache that holds acme/lm and acme/clip."""
    folder = tmp_path_factory.mktemp("cache")
    publish(folder, "acme/lm", language_folder, COMMITS["lm"])
    publish(folder, "acme/clip", clip_folder, COMMITS["clip"])
    return folder


@pytest.fixture(scope="module")
def from_hub(cache):
    """A model and a processor on backbones of the hub."""
    torch.manual_seed(5)
    hub = {"cache_dir": str(cache)}
    processor = UniMuRProcessor.from_backbones("acme/lm", "acme/clip", **hub)
    return UniMuRModel.from_backbones("acme/lm", "acme/clip", processor=processor, hub_arguments=hub), processor


@pytest.fixture(scope="module")
def heads(tmp_path_factory, from_hub):
    """A heads-only release."""
    folder = tmp_path_factory.mktemp("release") / "heads"
    for part in from_hub:
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def full(tmp_path_factory, pair):
    """A full release."""
    folder = tmp_path_factory.mktemp("release") / "full"
    for part in pair:
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def batch(pair, pictures):
    """Contexts with and without a picture."""
    _, processor = pair
    content = [{"type": "text", "text": "look "}, {"type": "image", "image": pictures[0]}]
    return processor.process_context(["a cat slept", [{"role": "user", "content": content}]])


def embed(model, batch) -> torch.Tensor:
    with torch.no_grad():
        return model.get_multimodal_features(**batch).pooler_output


def rewrite(folder, change) -> None:
    """Applies a change to the tensors of a model file."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def assert_same_model(found, expected, batch):
    """The same weights, and outputs that are equal up to rounding."""
    assert_same_weights(found.state_dict(), expected.state_dict())
    assert_same_outputs(embed(found, batch), embed(expected, batch))


def rename(old: str, new: str):
    """A change that renames one tensor, which must be there."""
    return lambda tensors: tensors.update({new: tensors.pop(old)})


# -- round trips ----------------------------------------------------------------------------------------------------
def test_full_release_comes_back(pair, full, batch):
    model, _ = pair
    again, report = UniMuRModel.from_pretrained(full, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_same_model(again, model, batch)
    processor = UniMuRProcessor.from_pretrained(full)
    alone = processor.process_context(["a cat slept"])["input_ids"][0]
    assert alone.tolist() == batch["input_ids"][0][batch["attention_mask"][0].bool()].tolist()


def test_heads_only_release_comes_back(from_hub, heads, cache, batch):
    model, _ = from_hub
    again, report = UniMuRModel.from_pretrained(heads, cache_dir=str(cache), output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_same_model(again, model, batch)
    assert {n for n, p in again.named_parameters() if p.requires_grad} == set(load_file(heads / "model.safetensors"))
    assert not again.language_model.training


def test_heads_only_file_holds_exactly_the_trained_tensors(from_hub, heads):
    model, _ = from_hub
    tensors = load_file(heads / "model.safetensors")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert tensors.keys() == trained.keys()
    assert all(torch.equal(tensors[name], trained[name]) for name in trained)
    assert all(name.startswith("heads.") for name in tensors)


def test_heads_only_and_full_release_agree(from_hub, heads, cache, batch, tmp_path):
    model, _ = from_hub
    model = UniMuRModel.from_pretrained(heads, cache_dir=str(cache))
    model.save_pretrained(tmp_path, heads_only=False)
    assert len(load_file(tmp_path / "model.safetensors")) > len(list(model.heads.parameters()))
    shutil.copytree(tmp_path, tmp_path / "alone")
    assert_same_model(UniMuRModel.from_pretrained(tmp_path / "alone"), model, batch)


def test_heads_with_folders_in_place_of_the_hub(from_hub, heads, language_folder, clip_folder, batch):
    model, _ = from_hub
    again = UniMuRModel.from_pretrained(heads, language_model=str(language_folder), clip=str(clip_folder))
    assert_same_model(again, model, batch)


def test_saving_heads_once_does_not_change_later_saves(make_model, tmp_path):
    model, _ = make_model()
    model.save_pretrained(tmp_path / "heads", heads_only=True)
    model.save_pretrained(tmp_path / "whole")
    assert len(load_file(tmp_path / "heads" / "model.safetensors")) == 6
    assert len(load_file(tmp_path / "whole" / "model.safetensors")) == len(model.state_dict())


@pytest.mark.parametrize("family", ["gpt2", "opt", "gemma2"])
def test_tied_language_models_come_back(make_model, tmp_path, batch, family):
    folder = tiny.language_model(tmp_path / "lm", family)
    model, _ = make_model(folder)
    model.save_pretrained(tmp_path / "full")
    model.save_pretrained(tmp_path / "heads", heads_only=True)
    from_full = UniMuRModel.from_pretrained(tmp_path / "full")
    from_heads = UniMuRModel.from_pretrained(tmp_path / "heads", language_model=str(folder), clip=model.clip)
    for again in (from_full, from_heads):
        assert_same_model(again, model, batch)
        weights = again.get_input_embeddings().weight, again.get_output_embeddings().weight
        assert torch.equal(*weights) == torch.equal(
            model.get_input_embeddings().weight, model.get_output_embeddings().weight
        )


def test_half_precision_backbones(heads, cache, batch):
    model = UniMuRModel.from_pretrained(heads, cache_dir=str(cache), dtype=torch.bfloat16)
    assert model.language_model.dtype == model.clip.dtype == torch.bfloat16
    exact = UniMuRModel.from_pretrained(heads, cache_dir=str(cache))
    cosines = (embed(model, batch).float() * embed(exact, batch)).sum(dim=-1)
    assert cosines.min() > 0.99


# -- what is written ------------------------------------------------------------------------------------------------
def test_config_names_commits_and_no_folder(heads, full, language_folder, clip_folder, cache):
    config = json.loads((heads / "config.json").read_text(encoding="utf-8"))
    assert (config["text_base_model"], config["clip_base_model"]) == ("acme/lm", "acme/clip")
    assert config["text_base_revision"] == COMMITS["lm"]
    assert config["clip_base_revision"] == COMMITS["clip"]
    assert config["heads_only"] is True
    for folder in (heads, full):
        for file in folder.rglob("*.json"):
            text = file.read_text(encoding="utf-8")
            for path in (language_folder, clip_folder, cache, cache.parent):
                assert str(path) not in text, file
            assert not re.search(r'"_name_or_path": "[^"]', text), file
    assert json.loads((full / "config.json").read_text(encoding="utf-8"))["heads_only"] is False


@pytest.mark.parametrize("call", ["context", "texts", "tokenizer"])
def test_tokenizer_files_hold_no_truncation_and_no_padding(make_model, tmp_path, call):
    _, processor = make_model()
    if call == "context":
        processor.process_context(["a cat slept on my keyboard"], max_length=4)
    elif call == "texts":
        processor.process_texts(["a cat slept on my keyboard", "hi"])
    else:
        processor.tokenizer(["a cat slept", "hi"], truncation=True, max_length=3, padding=True)
    processor.save_pretrained(tmp_path)
    files = sorted(tmp_path.rglob("tokenizer.json"))
    assert len(files) == 2
    for file in files:
        content = json.loads(file.read_text(encoding="utf-8"))
        assert content["truncation"] is None
        assert content["padding"] is None
    ids = UniMuRProcessor.from_pretrained(tmp_path).tokenizer("she plays guitar and sings")["input_ids"]
    assert len(ids) > 4
    assert ids[-1] == processor.ret_token_ids[-1]


def test_processor_comes_back_as_it_was(make_model, tmp_path, pictures):
    _, processor = make_model(
        processor={"num_ret_tokens": 2, "num_visual_tokens": 3, "readout_prompt": " so:", "max_target_tokens": 9}
    )
    processor.save_pretrained(tmp_path)
    again = UniMuRProcessor.from_pretrained(tmp_path)
    for conversation in ("hi there", pictures[0]):
        before, after = (p.process_context(conversation) for p in (processor, again))
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
    texts = "the red balloon over the town " * 3
    assert again.process_texts(texts)["input_ids"].tolist() == processor.process_texts(texts)["input_ids"].tolist()
    assert again.process_texts(texts)["input_ids"].shape == (1, 9)


# -- what must fail -------------------------------------------------------------------------------------------------
def test_the_pin_wins_over_a_moved_branch(from_hub, heads, cache, batch, tmp_path, clip_folder):
    model, _ = from_hub
    moved = tmp_path / "cache"
    shutil.copytree(cache, moved, symlinks=True)
    other = tiny.language_model(tmp_path / "other", seed=77)
    publish(moved, "acme/lm", other, "c3" * 20)
    again = UniMuRModel.from_pretrained(heads, cache_dir=str(moved))
    assert_same_model(again, model, batch)
    processor = UniMuRProcessor.from_backbones("acme/lm", "acme/clip", cache_dir=str(moved))
    newest = UniMuRModel.from_backbones(
        "acme/lm", "acme/clip", processor=processor, hub_arguments={"cache_dir": str(moved)}
    )
    assert newest.config.text_base_revision == "c3" * 20
    pinned = UniMuRModel.from_backbones(
        "acme/lm",
        "acme/clip",
        processor=processor,
        language_model_revision=COMMITS["lm"],
        hub_arguments={"cache_dir": str(moved)},
    )
    assert pinned.config.text_base_revision == COMMITS["lm"]
    assert torch.equal(pinned.get_input_embeddings().weight, model.get_input_embeddings().weight)


@pytest.mark.parametrize(("repo", "what"), [("lm", "language model"), ("clip", "dual encoder")])
def test_a_missing_backbone_is_named_with_its_revision(heads, cache, tmp_path, repo, what):
    shutil.copytree(cache, tmp_path / "cache", symlinks=True)
    shutil.rmtree(tmp_path / "cache" / f"models--acme--{repo}")
    with pytest.raises(OSError, match=rf"'acme/{repo}' .*{COMMITS[repo]}"):
        UniMuRModel.from_pretrained(heads, cache_dir=str(tmp_path / "cache"))


def test_a_missing_revision_is_named(heads, cache, tmp_path, language_folder):
    publish(tmp_path, "acme/lm", language_folder, "d4" * 20)
    with pytest.raises(OSError, match=rf"'acme/lm' .*{COMMITS['lm']}"):
        UniMuRModel.from_pretrained(heads, cache_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("repo", "old", "new"),
    [
        ("lm", "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up.weight"),
        ("clip", "visual_projection.weight", "image_projection.weight"),
    ],
)
def test_a_renamed_tensor_of_a_backbone_is_never_random(heads, cache, tmp_path, repo, old, new, request):
    changed = tmp_path / "changed"
    shutil.copytree(request.getfixturevalue({"lm": "language_folder", "clip": "clip_folder"}[repo]), changed)
    rewrite(changed, rename(old, new))
    shutil.copytree(cache, tmp_path / "cache", symlinks=True)
    shutil.rmtree(tmp_path / "cache" / f"models--acme--{repo}")
    publish(tmp_path / "cache", f"acme/{repo}", changed, COMMITS[repo])
    with pytest.raises(ValueError, match=rf"acme/{repo}.*{re.escape(old)}.*{re.escape(new)}"):
        UniMuRModel.from_pretrained(heads, cache_dir=str(tmp_path / "cache"))
    processor = UniMuRProcessor.from_pretrained(heads)
    with pytest.raises(ValueError, match="1 weights"):
        UniMuRModel.from_backbones(
            "acme/lm", "acme/clip", processor=processor, hub_arguments={"cache_dir": str(tmp_path / "cache")}
        )


@pytest.mark.parametrize(
    "name", ["language_model.model.layers.1.self_attn.q_proj.weight", "clip.logit_scale", "heads.visual_map.bias"]
)
def test_a_renamed_tensor_of_a_full_release_is_never_random(full, tmp_path, name):
    shutil.copytree(full, tmp_path / "broken")
    rewrite(tmp_path / "broken", rename(name, f"{name}_old"))
    with pytest.raises(ValueError, match=re.escape(name)):
        UniMuRModel.from_pretrained(tmp_path / "broken")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("heads.ret_embedding"), "heads.ret_embedding"),
        (lambda t: t.pop("heads.readout_maps.0.weight"), "heads.readout_maps.0.weight"),
        (lambda t: t.update({"heads.visual_map.bias": torch.zeros(7)}), "heads.visual_map.bias"),
    ],
    ids=["no [RET]", "no map", "another shape"],
)
def test_broken_heads_are_refused(heads, cache, tmp_path, change, words):
    shutil.copytree(heads, tmp_path / "broken")
    rewrite(tmp_path / "broken", change)
    with pytest.raises(ValueError, match=re.escape(words)):
        UniMuRModel.from_pretrained(tmp_path / "broken", cache_dir=str(cache))


def test_heads_on_another_backbone_are_refused(heads, cache, tmp_path, language_folder):
    wide = tiny.language_model(tmp_path / "wide", hidden_size=48, num_attention_heads=6)
    with pytest.raises(ValueError, match=r"hidden_size=32.*has 48"):
        UniMuRModel.from_pretrained(heads, language_model=str(wide), cache_dir=str(cache))
    other = tiny.language_model(tmp_path / "other", "qwen2")
    with pytest.raises(ValueError, match=r"model_type=llama.*qwen2"):
        UniMuRModel.from_pretrained(heads, language_model=str(other), cache_dir=str(cache))


def test_heads_that_name_no_backbone_ask_for_it(make_model, tmp_path):
    make_model()[0].save_pretrained(tmp_path, heads_only=True)
    with pytest.raises(ValueError, match="language_model="):
        UniMuRModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("shared", [False, True], ids=["blobs of a repository", "blobs of a cache"])
def test_a_cached_release_is_compared_with_what_the_hub_announced(
    from_hub, heads, batch, tmp_path, shared, language_folder, clip_folder
):
    commits = {"unimur": "e5" * 20, **COMMITS}
    for (name, commit), folder in zip(commits.items(), (heads, language_folder, clip_folder), strict=True):
        publish(tmp_path, f"acme/{name}", folder, commit, shared=shared)
    again = UniMuRModel.from_pretrained("acme/unimur", cache_dir=str(tmp_path))
    torch.testing.assert_close(embed(again, batch), embed(from_hub[0], batch), atol=1e-6, rtol=0)
    weights = tmp_path / "models--acme--unimur" / "snapshots" / commits["unimur"] / "model.safetensors"
    weights.resolve().write_bytes(weights.read_bytes()[:-4] + b"\x00\x01\x02\x03")
    with pytest.raises(OSError, match=r"acme/unimur.*force_download"):
        UniMuRModel.from_pretrained("acme/unimur", cache_dir=str(tmp_path))


# -- how text is generated ------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def talkative(tmp_path_factory):
    """A language model with settings of its own for generating text."""
    folder = tiny.language_model(tmp_path_factory.mktemp("talkative"))
    GenerationConfig(bos_token_id=0, eos_token_id=[1, 7], pad_token_id=2, max_new_tokens=5).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("heads_only", [True, False])
def test_text_is_generated_as_the_language_model_does(make_model, talkative, tmp_path, pictures, heads_only, caplog):
    model, processor = make_model(talkative)
    assert model.can_generate()
    assert model.generation_config is model.language_model.generation_config
    model.save_pretrained(tmp_path, heads_only=heads_only)
    assert (tmp_path / "generation_config.json").is_file() != heads_only
    given = {"language_model": str(talkative), "clip": model.clip} if heads_only else {}
    again = UniMuRModel.from_pretrained(tmp_path, **given)
    assert again.generation_config.to_dict() == model.generation_config.to_dict()
    assert again.generation_config is again.language_model.generation_config
    prompt = processor.process_caption_prompt(pictures[:2])
    said = again.generate(**prompt)
    assert said.shape[1] <= 5
    assert said.tolist() == model.generate(**prompt).tolist()
    other = UniMuRModel.from_pretrained(tmp_path, generation_config=GenerationConfig(max_new_tokens=2), **given)
    assert other.language_model.generation_config.max_new_tokens == 2
    model.save_pretrained(tmp_path, heads_only=heads_only)  # saving left nothing behind
    assert model.can_generate()
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def test_a_full_release_without_settings_generates_as_its_language_model_does(make_model, tmp_path, pictures):
    model, processor = make_model()
    model.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()  # as releases were saved before
    again = UniMuRModel.from_pretrained(tmp_path)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(again.generation_config, name) == getattr(model.generation_config, name)
    prompt = {**processor.process_caption_prompt(pictures[0]), "max_new_tokens": 3}
    assert again.generate(**prompt).tolist() == model.generate(**prompt).tolist()


# -- the Trainer's checkpoints --------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("error:There were missing keys")
def test_checkpoints_hold_the_heads_and_resume(heads, cache, batch, tmp_path, pictures):
    def trained(folder, **resume):
        torch.manual_seed(0)
        model = UniMuRModel.from_pretrained(heads, cache_dir=str(cache))
        processor = UniMuRProcessor.from_pretrained(heads)
        texts = processor.process_texts(["she plays guitar", "no"])
        inputs = {
            **batch,
            "target_input_ids": texts["input_ids"],
            "target_attention_mask": texts["attention_mask"],
            "target_pixel_values": processor.process_images(pictures[:2])["pixel_values"],
        }
        arguments = TrainingArguments(
            folder, max_steps=4, save_steps=2, learning_rate=0.01, per_device_train_batch_size=1, report_to=[],
            use_cpu=True, remove_unused_columns=False, disable_tqdm=True, logging_steps=1,
        )  # fmt: skip
        trainer = Trainer(
            model, arguments, train_dataset=[0] * 8, data_collator=lambda _: dict(inputs), processing_class=processor
        )
        trainer.train(**resume)
        return model

    model = trained(tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoint-2"
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert load_file(checkpoint / "model.safetensors").keys() == names
    final = UniMuRModel.from_pretrained(tmp_path / "run" / "checkpoint-4", cache_dir=str(cache))
    assert_same_model(final, model.eval(), batch)
    before = UniMuRModel.from_pretrained(heads, cache_dir=str(cache))
    assert (embed(before, batch) - embed(model, batch)).abs().max() > 1e-3
    assert torch.equal(before.language_model.lm_head.weight, model.language_model.lm_head.weight)
    resumed = trained(tmp_path / "resumed", resume_from_checkpoint=str(checkpoint))
    torch.testing.assert_close(embed(resumed.eval(), batch), embed(model, batch), atol=1e-5, rtol=0)
