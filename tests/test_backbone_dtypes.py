"""The dtypes of backbones and heads: what a release is loaded in, and that every path works with half of the bits."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, pipeline

from modeling_unimur import UniMuRModel, UniMuRProcessor
from modeling_unimur.prefix_cache import ChatCache
from modeling_unimur.training.collators import caption_inputs
from modeling_unimur.training.prefix_store import prefix_states
from tests import tiny
from tests.hub_cache import publish

FLOAT32, BFLOAT16, FLOAT16 = torch.float32, torch.bfloat16, torch.float16
# What is asked for, and the dtypes of the language model, the dual encoder and the heads. The checkpoints of the
# backbones are in bfloat16 and in float16.
ASKED = {
    "nothing": (None, (BFLOAT16, FLOAT16, FLOAT32)),
    "auto": ("auto", (BFLOAT16, FLOAT16, FLOAT32)),
    "float32": (FLOAT32, (FLOAT32, FLOAT32, FLOAT32)),
    "bfloat16 by name": ("bfloat16", (BFLOAT16, BFLOAT16, BFLOAT16)),
    "float16": (FLOAT16, (FLOAT16, FLOAT16, FLOAT16)),
    "a part": ({"clip": FLOAT32}, (BFLOAT16, FLOAT32, FLOAT32)),
    "two parts": ({"language_model": FLOAT16, "clip": "auto"}, (FLOAT16, FLOAT16, FLOAT32)),
    "every part": ({"language_model": FLOAT32, "clip": "bfloat16", "heads": FLOAT16}, (FLOAT32, BFLOAT16, FLOAT16)),
}


def dtypes(model) -> tuple:
    """Those of the language model, the dual encoder and the heads, each of which has one."""
    parts = (model.language_model, model.clip, model.heads)
    found = [{parameter.dtype for parameter in part.parameters()} for part in parts]
    assert all(len(kinds) == 1 for kinds in found)
    return tuple(kinds.pop() for kinds in found)


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A language model in bfloat16 and a dual encoder in float16."""
    work = tmp_path_factory.mktemp("half")
    for name, make, dtype in (("lm", tiny.language_model, BFLOAT16), ("clip", tiny.clip, FLOAT16)):
        make(work / name)
        cls = AutoModelForCausalLM if name == "lm" else AutoModel
        cls.from_pretrained(work / name, dtype=dtype).save_pretrained(work / name)
    return work / "lm", work / "clip"


@pytest.fixture(scope="module")
def releases(tmp_path_factory, half):
    """A heads-only release on them and a full one, and a cache with the backbones."""
    work = tmp_path_factory.mktemp("releases")
    for name, folder, commit in zip(("lm", "clip"), half, ("a1" * 20, "b2" * 20), strict=True):
        publish(work / "cache", f"acme/{name}", folder, commit)
    hub = {"cache_dir": str(work / "cache")}
    torch.manual_seed(7)
    processor = UniMuRProcessor.from_backbones("acme/lm", "acme/clip", max_context_tokens=128, **hub)
    model = UniMuRModel.from_backbones("acme/lm", "acme/clip", processor=processor, hub_arguments=hub)
    for name, heads_only in (("heads", True), ("full", False)):
        model.save_pretrained(work / name, heads_only=heads_only)
        processor.save_pretrained(work / name)
    return work


@pytest.fixture(scope="module", params=["heads", "full"])
def release(request, releases):
    """A folder, and the arguments to load it with."""
    return str(releases / request.param), {"cache_dir": str(releases / "cache")}


# -- what a release is loaded in --------------------------------------------------------------------------------------
@pytest.mark.parametrize("road", ["UniMuRModel", "AutoModel", "pipeline"])
@pytest.mark.parametrize("asked", ASKED)
def test_each_part_is_loaded_in_its_own_dtype_or_the_one_asked_for(release, asked, road):
    (folder, hub), (dtype, expected) = release, ASKED[asked]
    arguments = {} if dtype is None else {"dtype": dtype}
    if road == "pipeline":
        made = pipeline(
            "multimodal-retrieval", model=folder, trust_remote_code=True, model_kwargs=dict(hub), **arguments
        )
        model = made.model
    else:
        cls = {"UniMuRModel": UniMuRModel, "AutoModel": AutoModel}[road]
        model = cls.from_pretrained(folder, **hub, **arguments)
    assert dtypes(model) == expected
    assert model.dtype == expected[2]
    configs = (model.config.text_config, model.config.clip_config, model.config)
    assert tuple(config.dtype for config in configs) == expected


@pytest.mark.parametrize("cls", [UniMuRModel, AutoModel])
def test_the_older_name_of_the_argument(release, cls):
    folder, hub = release
    assert dtypes(cls.from_pretrained(folder, torch_dtype=BFLOAT16, **hub)) == (BFLOAT16, BFLOAT16, BFLOAT16)


@pytest.mark.parametrize(
    ("dtype", "told"),
    [
        ({"text_config": BFLOAT16}, "'text_config'.*language_model, clip"),
        ({"clip": "half-precision"}, "clip.*'half-precision'"),
        ({"clip": 16}, "clip.*16"),
        ("bf16", "'bf16'"),
    ],
)
def test_what_is_no_part_or_no_dtype_is_refused(release, dtype, told):
    folder, hub = release
    with pytest.raises(ValueError, match=told):
        UniMuRModel.from_pretrained(folder, dtype=dtype, **hub)


def test_backbones_are_joined_in_their_own_dtypes(half):
    language, clip = map(str, half)
    processor = UniMuRProcessor.from_backbones(language, clip)
    for asked in ("auto", "float32", "a part", "every part"):
        dtype, expected = ASKED[asked]
        model = UniMuRModel.from_backbones(language, clip, processor=processor, dtype=dtype)
        assert dtypes(model) == expected


def test_what_was_loaded_otherwise_is_saved_so(release, releases, tmp_path):
    folder, hub = release
    model = UniMuRModel.from_pretrained(folder, dtype={"language_model": FLOAT32, "clip": BFLOAT16}, **hub)
    model.clip.to(FLOAT16)  # after loading, so that no configuration knows
    model.save_pretrained(tmp_path / "full", heads_only=False)
    assert dtypes(UniMuRModel.from_pretrained(tmp_path / "full")) == (FLOAT32, FLOAT16, FLOAT32)
    model.save_pretrained(tmp_path / "heads", heads_only=True)
    saved, before = (load_file(at / "model.safetensors") for at in (tmp_path / "heads", releases / "heads"))
    assert all(torch.equal(saved[key], before[key]) for key in before)
    assert json.loads((tmp_path / "heads" / "config.json").read_text(encoding="utf-8"))["dtype"] == "float32"


@pytest.mark.parametrize("sharded", ["model.safetensors", "model.safetensors.index.json"])
def test_sharded_files_and_a_map_of_devices(half, releases, batch, tmp_path, sharded):
    """Of the backbones of a heads-only release, and of a full one."""
    size = "8KB" if "index" in sharded else "5GB"
    whole = UniMuRModel.from_pretrained(releases / "full")
    for part, folder in zip((whole.language_model, whole.clip), half, strict=True):
        shutil.copytree(folder, tmp_path / folder.name, ignore=shutil.ignore_patterns("*.safetensors"))
        part.save_pretrained(tmp_path / folder.name, max_shard_size=size)
        assert (tmp_path / folder.name / sharded).is_file()
    whole.save_pretrained(tmp_path / "full", heads_only=False, max_shard_size=size)
    assert (tmp_path / "full" / sharded).is_file()
    given = {"language_model": str(tmp_path / "lm"), "clip": str(tmp_path / "clip")}
    for source, backbones in ((releases / "heads", given), (tmp_path / "full", {})):
        for placement in ({}, {"device_map": "auto"}, {"device_map": {"": "cpu"}}):
            again = UniMuRModel.from_pretrained(source, **backbones, **placement)
            assert dtypes(again) == ASKED["auto"][1]
            for key, value in whole.state_dict().items():
                assert torch.equal(again.state_dict()[key], value), key
            torch.testing.assert_close(embed(again, batch), embed(whole, batch), atol=1e-6, rtol=0)


# -- what is computed in half of the bits -----------------------------------------------------------------------------
@pytest.fixture(scope="module")
def processor(releases):
    return UniMuRProcessor.from_pretrained(releases / "full")


@pytest.fixture(scope="module")
def batch(processor, pictures):
    """Contexts with and without a picture."""
    content = [{"type": "text", "text": "look "}, {"type": "image", "image": pictures[0]}]
    return processor.process_context(["a cat slept", [{"role": "user", "content": content}]])


def embed(model, batch) -> torch.Tensor:
    with torch.no_grad():
        return model.get_multimodal_features(**batch).pooler_output


@pytest.fixture(scope="module")
def exact(releases):
    """All of it in float32, with values that half of the bits hold."""
    return UniMuRModel.from_pretrained(releases / "full", dtype=FLOAT32)


@pytest.fixture(params=["auto", "two parts", "a part", "bfloat16 by name", "float16"])
def model(request, releases):
    return UniMuRModel.from_pretrained(releases / "full", dtype=ASKED[request.param][0])


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return float((found.float() * expected.float()).sum(dim=-1).min()) > 0.995


def test_embeddings(model, exact, processor, batch, pictures):
    assert close(embed(model, batch), embed(exact, batch))
    images, texts = processor.process_images(pictures), processor.process_texts(["she plays guitar", "no"])
    for name, inputs in (("image", images), ("text", texts)):
        found, expected = (getattr(m, f"get_{name}_features")(**inputs).pooler_output for m in (model, exact))
        assert found.dtype == model.dtype
        assert close(found, expected)


def test_a_chat_that_is_kept(model, exact, processor, pictures):
    turns = [{"role": "user", "content": [{"type": "text", "text": "look "}, {"type": "image", "image": pictures[0]}]}]
    cache = ChatCache(model, processor)
    for reply in ("she plays guitar", "what a beautiful morning it is"):
        turns = [*turns, {"role": "assistant", "content": reply}]
        assert cache.takes(turns)
        assert close(cache.embed(turns), embed(exact, processor.process_context([turns])))
    assert len(cache) == 1


def test_a_pipeline(model, exact, processor, pictures):
    hits = {}
    for name, made in (("model", model), ("exact", exact)):
        retriever = pipeline("multimodal-retrieval", model=made, processor=processor)
        retriever.add(images=pictures, texts=["she plays guitar", "no, but the birthday cake was good"])
        found = retriever("a cat slept on my keyboard", top_k=4)
        hits[name] = {(kind, hit["id"]): hit["score"] for kind in found for hit in found[kind]}
    assert hits["model"].keys() == hits["exact"].keys()
    assert all(abs(hits["model"][key] - score) < 0.03 for key, score in hits["exact"].items())


def test_captions(model, processor, pictures):
    said = model.generate(**processor.process_caption_prompt(pictures), max_new_tokens=3, do_sample=False)
    assert said.shape == (4, 3)


@pytest.mark.parametrize("kept", [False, True], ids=["whole contexts", "kept prefixes"])
def test_training(model, exact, processor, batch, pictures, kept):
    """Losses and their gradients are those of float32 to a few percent."""
    texts, captions = processor.process_texts(["she plays guitar", "no"]), caption_inputs(processor, ["a cat", "no"])
    inputs = {
        **(processor.process_context(["a cat slept", "she plays guitar and sings"]) if kept else batch),
        "target_pixel_values": processor.process_images(pictures[:2])["pixel_values"],
        "target_input_ids": texts["input_ids"],
        "target_attention_mask": texts["attention_mask"],
        "caption_pixel_values": processor.process_images(pictures[:2])["pixel_values"],
        **captions,
    }
    outputs, gradients = {}, {}
    for name, made in (("model", model), ("exact", exact)):
        made.config.ret_token_loss_weight = 0.0 if kept else 1.0
        states = {}
        if kept:
            context = {key: inputs[key] for key in ("input_ids", "attention_mask")}
            states = {"prefix_states": prefix_states(made, **context)}
        made.zero_grad()
        outputs[name] = made(**inputs, **states)
        outputs[name].loss.backward()
        gradients[name] = {key: p.grad.float() for key, p in made.heads.named_parameters()}
    torch.testing.assert_close(outputs["model"].loss.float(), outputs["exact"].loss, atol=0, rtol=0.03)
    for key, expected in gradients["exact"].items():
        error = (gradients["model"][key] - expected).norm() / expected.norm().clamp(min=1e-3)
        assert error < 0.2, (key, error)
    assert all(p.grad is None for p in model.language_model.parameters())
