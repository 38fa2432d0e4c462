"""What no release may hold: one clear error for each, with the remedy."""

import json
import pickle
import shutil
import struct

import pytest

from modeling_unimur.releasing.bases import Base
from modeling_unimur.releasing.refusals import check_bases, check_release, check_source


@pytest.fixture
def folder(tmp_path):
    """The outline of a heads-only release."""
    config = {
        "model_type": "unimur",
        "heads_only": True,
        "text_config": {"model_type": "llama"},
        "clip_config": None,
        "text_base_model": "acme/lm",
        "text_base_revision": "a1" * 20,
    }
    path = tmp_path / "release"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    (path / "README.md").write_text("# a card\n[paper](https://aclanthology.org/home/x)")
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    (path / "a.py").write_text(
        "import torch\nfrom .b import x\ntry:\n    import open_clip\nexcept ImportError:\n    pass\n"
    )
    (path / "b.py").write_text("import math\nfrom transformers import AutoModel\nx = math.pi\n")
    return path


def change(folder, **keys):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **keys}))


def test_a_clean_release_passes(folder):
    assert set(check_release(folder)) == {"README.md", "a.py", "b.py", "config.json", "model.safetensors"}


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"text_base_model": "/data/models/lm"}, "text_base_model.*--full"),
        ({"text_base_model": "~/models/lm"}, "text_base_model.*--full"),
        ({"text_base_model": "C:\\models\\lm"}, "text_base_model.*--full"),
        ({"text_base_model": "../lm"}, "local path.*--full"),
        ({"text_config": {"_name_or_path": "/data/models/lm"}}, r"text_config\._name_or_path"),
        ({"text_base_model": None}, "--language-model-base.*--full"),
        ({"text_base_revision": "main"}, "'main'.*40"),
        ({"text_config": {"quantization_config": {"bits": 4}}}, r"text_config\.quantization_config.*--heads-only"),
        ({"quantization_config": {"load_in_8bit": True}}, "quantization_config.*--heads-only"),
        ({"token": "secret"}, "token .*revoke"),
        ({"note": "hf_" + "a1B2" * 9}, "config.json.*revoke"),
    ],
)
def test_a_configuration_is_refused(folder, keys, told):
    change(folder, **keys)
    with pytest.raises(ValueError, match=told):
        check_release(folder)


def test_a_folder_beside_it_is_no_hub_id(folder, tmp_path, monkeypatch):
    (tmp_path / "acme" / "lm").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"'acme/lm'.*--full"):
        check_release(folder)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("training_args.bin", b"PK\x03\x04", "training_args.bin.*pickle"),
        ("rows.txt", pickle.dumps([1]), "rows.txt.*pickle"),
        ("notes.sh", b"echo", "notes.sh"),
        (
            "c.py",
            b"from modeling_unimur.data import x\n",
            "c.py, line 1.*absolute",
        ),
        ("c.py", b"def f():\n    import modeling_unimur\n", "c.py, line 2.*modeling_unimur"),
        ("c.py", b"from . import b\n", "c.py, line 1.*relative"),
        ("c.py", b"from .missing import b\n", "c.py, line 1.*relative"),
        ("c.py", b"from ..b import x\n", "c.py, line 1.*relative"),
        ("c.py", b"import pandas\n", "c.py, line 1.*pandas"),
        ("c.py", b"x = (\n", "c.py.*Python"),
        ("README.md", b"see /home/anna/model", "README.md.*folder"),
        ("README.md", b"hf_" + b"a1B2" * 9, "README.md.*token"),
        ("processor_config.json", b"{", "processor_config.json"),
        ("model.safetensors", b"1234", "safetensors file"),
    ],
)
def test_a_file_is_refused(folder, name, content, told):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=told):
        check_release(folder)


def test_a_link_is_refused(folder, tmp_path):
    shutil.move(folder / "b.py", tmp_path / "b.py")
    (folder / "b.py").symlink_to(tmp_path / "b.py")
    with pytest.raises(ValueError, match=r"b\.py is a link"):
        check_release(folder)


@pytest.mark.parametrize("name", ["config.json", "README.md", "model.safetensors"])
def test_a_missing_part_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"card|configuration|weights"):
        check_release(folder)


@pytest.mark.parametrize("text", ["acme/lm", "acme/lm@main", "/data/lm@" + "a1" * 20, "a b@" + "a1" * 20])
def test_a_base_is_an_id_and_a_commit(text):
    with pytest.raises(ValueError, match=r"ID@COMMIT|no commit"):
        Base.parse(text)
    assert Base.parse("acme/lm@" + "a1" * 20) == Base("acme/lm", "a1" * 20)


@pytest.mark.parametrize(
    ("model", "revision", "told"),
    [
        ("acme/encoder", None, "no commit"),
        ("acme/encoder", "main", "no commit"),
        ("/data/encoder", "a1" * 20, "local"),
    ],
)
def test_the_encoder_of_an_anchor_is_an_id_and_a_commit(model, revision, told):
    heads = {"text_config": {}, "text_base_model": "acme/lm", "text_base_revision": "a1" * 20}
    check_bases(heads)
    check_bases({**heads, "anchor_base_model": "acme/encoder", "anchor_base_revision": "b2" * 20})
    with pytest.raises(ValueError, match=told):
        check_bases({**heads, "anchor_base_model": model, "anchor_base_revision": revision})


A40 = "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dF3gH5jK7m"
# In pieces, so that this file itself holds no token.
TOKENS = {
    "Hugging Face": "hf" + "_" + A40[:34],
    "GitHub": "ghp" + "_" + A40[:36],
    "GitHub, fine-grained": "github" + "_pat_" + A40[:22] + "_" + A40,
    "GitLab": "glpat" + "-" + A40[:20],
    "Slack": "xoxb" + "-123456789012-" + A40[:24],
    "Slack, app": "xapp" + "-1-A0123456789-" + A40[:24],
    "Slack, webhook": "https://hooks.slack" + ".com/services/T0000/B0000/" + A40[:24],
    "Google": "AIza" + A40[:35],
    "Google, OAuth": "ya29" + "." + A40,
    "AWS": "AKIA" + "ABCDEFGHIJKLMNOP",
    "AWS, secret": "aws_secret_access_key = " + A40,
    "Azure": "AccountKey=" + A40 * 2 + "==",
    "OpenAI": "sk" + "-proj-" + A40,
    "Anthropic": "sk" + "-ant-api03-" + A40,
    "Stripe": "sk" + "_live_" + A40[:24],
    "SendGrid": "SG" + "." + A40[:22] + "." + A40,
    "npm": "npm" + "_" + A40[:36],
    "PyPI": "pypi" + "-AgEIcHlwaS5vcmc" + A40,
    "Telegram": "1234567890" + ":AA" + A40[:33],
    "JWT": "eyJ" + A40[:20] + ".eyJ" + A40[:20] + "." + A40[:20],
    "address": "https://me:" + "s3cr3tpass@example.com/repo.git",
    "database": "postgresql://user:" + "hunter2@db.example.com:5432/x",
    "private key": "-----BEGIN OPENSSH " + "PRIVATE KEY-----",
}
KEYS = ("token", "hf_token", "wandb_api_key", "api_key", "password", "db_password", "client_secret", "access_token",
        "auth_token", "aws_secret_access_key", "apiKey", "private_key", "hub_token")  # fmt: skip
HARMLESS = {
    "commit": "a1" * 20,
    "sha256": "3f" * 32,
    "base64": "iVBORw0KGgo" + "AAAANSUhEUgAA" * 5,
    "address": "https://example.com:8080/a@b",
    "citation": "https://aclanthology.org/2024.findings-eacl.105/",
    "time": "12:30@noon",
    "skill": "sk-learn is a library",
    "task": "ask_live_questions",
    "mail": "mailto:someone@example.com",
    "emoji": ":smile:@:cat:",
}


@pytest.mark.parametrize("name", TOKENS)
def test_every_kind_of_token_is_refused(folder, name):
    for change_it in (
        lambda: change(folder, note=f"see {TOKENS[name]} here"),
        lambda: (folder / "README.md").write_text(f"# a card\n{TOKENS[name]}\n"),
        lambda: (folder / "b.py").write_text(f"x = 1  # {TOKENS[name]}\n"),
    ):
        before = {path: path.read_bytes() for path in folder.iterdir()}
        change_it()
        with pytest.raises(ValueError, match="take it out"):
            check_release(folder)
        for path, content in before.items():
            path.write_bytes(content)
    check_release(folder)


@pytest.mark.parametrize("key", KEYS)
def test_keys_that_hold_a_secret(folder, key):
    change(folder, nested={key: "abc"})
    with pytest.raises(ValueError, match=key):
        check_release(folder)


def test_what_looks_alike_passes(folder):
    change(folder, **HARMLESS, bos_token="<s>", image_token="<image>", pad_token="x", ret_token="[RET]", secretary="y")
    (folder / "README.md").write_text("# a card\n" + "\n".join(HARMLESS.values()))
    check_release(folder)


FOREIGN = "someone/else--modeling_x.Model"


@pytest.mark.parametrize("file", ["config.json", "processor_config.json", "tokenizer_config.json", "deep/a.json"])
@pytest.mark.parametrize(
    "content",
    [
        {"auto_map": {"AutoModel": FOREIGN}},
        {"auto_map": {"AutoTokenizer": [None, FOREIGN]}},
        {"image_processor": {"auto_map": {"AutoImageProcessor": FOREIGN}}},
        {"custom_pipelines": {"x": {"impl": FOREIGN, "pt": ["AutoModel"]}}},
        {"auto_map": {"AutoModel": "../modeling_x.Model"}},
    ],
)
def test_code_of_another_repository_is_refused(folder, file, content):
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**kept, **content}))
    for check in (check_source, check_release):
        with pytest.raises(ValueError, match="a class"):
            check(folder)


def test_code_of_this_release_passes(folder):
    change(folder, auto_map={"AutoModel": "a.Model"}, custom_pipelines={"x": {"impl": "b.Pipe", "pt": ["AutoModel"]}})
    check_source(folder)
    check_release(folder)
