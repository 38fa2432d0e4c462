"""What no release may hold: one clear error for each, with the remedy."""

import json
import pickle
import shutil
import struct

import pytest

from modeling_unimur.releasing.bases import Base
from modeling_unimur.releasing.refusals import check_release


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
        ({"text_base_model": "/data/models/lm"}, r"text_base_model is a local path.*--full"),
        ({"text_base_model": "~/models/lm"}, r"text_base_model is a local path.*--full"),
        ({"text_base_model": "C:\\models\\lm"}, r"text_base_model is a local path.*--full"),
        ({"text_base_model": "../lm"}, "is a local path.*--full"),
        ({"text_config": {"_name_or_path": "/data/models/lm"}}, r"text_config\._name_or_path is a local path"),
        ({"text_base_model": None}, "name no language model.*--language-model-base ID@COMMIT.*--full"),
        ({"text_base_revision": "main"}, "'main' is no commit: 40 hexadecimal digits"),
        ({"text_config": {"quantization_config": {"bits": 4}}}, r"text_config\.quantization_config.*--heads-only"),
        ({"quantization_config": {"load_in_8bit": True}}, "quantization_config.*--heads-only"),
        ({"token": "secret"}, "token holds a secret.*revoke"),
        ({"note": "hf_" + "a1B2" * 9}, "config.json holds a Hugging Face token.*revoke"),
    ],
)
def test_a_configuration_is_refused(folder, keys, told):
    change(folder, **keys)
    with pytest.raises(ValueError, match=told):
        check_release(folder)


def test_a_folder_beside_it_is_no_hub_id(folder, tmp_path, monkeypatch):
    (tmp_path / "acme" / "lm").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"'acme/lm' is a local path.*--full"):
        check_release(folder)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("training_args.bin", b"PK\x03\x04", "training_args.bin is a pickle.*safetensors"),
        ("rows.txt", pickle.dumps([1]), "rows.txt is a pickle.*safetensors"),
        ("notes.sh", b"echo", "notes.sh is no part of a release.*leave it out"),
        (
            "c.py",
            b"from modeling_unimur.data import x\n",
            "c.py, line 1: an absolute import.*`from",
        ),
        ("c.py", b"def f():\n    import modeling_unimur\n", "c.py, line 2: an absolute import of modeling_unimur"),
        ("c.py", b"from . import b\n", "c.py, line 1: a relative import.*flat"),
        ("c.py", b"from .missing import b\n", "c.py, line 1: a relative import.*flat"),
        ("c.py", b"from ..b import x\n", "c.py, line 1: a relative import.*flat"),
        ("c.py", b"import pandas\n", "c.py, line 1: imports pandas.*`try:`"),
        ("c.py", b"x = (\n", "c.py is no Python"),
        ("README.md", b"see /home/anna/model", "README.md names a folder of this machine.*take it out"),
        ("README.md", b"hf_" + b"a1B2" * 9, "README.md holds a Hugging Face token"),
        ("processor_config.json", b"{", "processor_config.json is no JSON"),
        ("model.safetensors", b"1234", "no safetensors file"),
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
