"""`unimur release` to a hub on this machine, and what others get: everything, or one clear error."""

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi, constants
from packaging.version import Version
from safetensors.torch import load_file

from modeling_unimur import UniMuRModel, UniMuRProcessor
from modeling_unimur.releasing.upload import require_free_tag, upload
from tests.environments import closure
from tests.environments.load_release import TEXTS, conversation
from tests.hub_cache import publish
from tests.hub_server import TOKEN, Fault, File, HubServer, Repository

ROOT = Path(__file__).parents[2]
WEIGHTS = r"GET /acme/{}/resolve/[^/]+/model\.safetensors"


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(autouse=True)
def faultless(hub):
    """No test leaves a fault behind, or a Xet store."""
    yield
    hub.faults.clear()
    hub.xet = False


@pytest.fixture(scope="module")
def source(hub, language_folder, clip_folder, tmp_path_factory):
    """A training's folder, on backbones that the hub has; its model and its processor."""
    work = tmp_path_factory.mktemp("author")
    for repo_id, folder in (("acme/lm", language_folder), ("acme/clip", clip_folder)):
        publish(work / "cache", repo_id, folder, hub.put(repo_id, folder))
    torch.manual_seed(8)
    arguments = {"cache_dir": str(work / "cache")}
    processor = UniMuRProcessor.from_backbones("acme/lm", "acme/clip", max_context_tokens=128, **arguments)
    model = UniMuRModel.from_backbones("acme/lm", "acme/clip", processor=processor, hub_arguments=arguments)
    for part in (model, processor):
        part.save_pretrained(work / "run")
    (work / "run" / "optimizer.pt").write_bytes(b"PK\x03\x04")
    return work / "run", model, processor


@pytest.fixture(scope="module")
def released(hub, source, card, tmp_path_factory):
    """What `unimur release` printed; the hub was busy once at each step."""
    hub.faults += [
        Fault("POST /api/repos/create", 503, times=1),
        Fault(r"POST /acme/unimur\.git/info/lfs/objects/batch", 429, {"Retry-After": "1"}, times=1),
        Fault("POST /api/models/acme/unimur/commit/main", 500, times=1),
        Fault("POST /api/models/acme/unimur/tag/.*", 502, times=1),
    ]
    work = tmp_path_factory.mktemp("release")
    command = [sys.executable, "-m", "modeling_unimur.cli.main", "release", str(source[0]), "--repo-id", "acme/unimur"]
    environment = {**os.environ, **hub.environment(write=True), "HF_HOME": str(work), "PYTHONPATH": str(ROOT)}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [*command, "--card", str(card), "--tag", "v1"],
        env=environment, cwd=work, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(fault.times == 0 for fault in hub.faults)
    hub.faults.clear()
    return done.stdout


@pytest.fixture(scope="module")
def expected(source, pictures):
    """What the author's model computes."""
    _, model, processor = source
    batch = ["a cat slept on my keyboard", conversation(pictures[0]), pictures[0]]
    with torch.no_grad():
        return {
            "context": model.get_multimodal_features(**processor.process_context(batch)).pooler_output,
            "text": model.get_text_features(**processor.process_texts(TEXTS)).pooler_output,
            "image": model.get_image_features(**processor.process_images([pictures[0]])).pooler_output,
        }


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """An environment without this package."""
    packages = ("torch", "torchvision", "transformers", "sentence-transformers")
    return closure.link(tmp_path_factory.mktemp("stranger"), *packages)


# -- what goes up ---------------------------------------------------------------------------------------------------
def test_the_release_is_one_tagged_commit_with_a_card(hub, released):
    repository = hub.repositories["acme/unimur"]
    assert repository.tags == {"v1": repository.branches["main"]}
    files = repository.commits[repository.branches["main"]]
    assert files["model.safetensors"].lfs
    assert {"modules.json", "sentence_transformers_unimur.py", "README.md", "config.json"} <= files.keys()
    assert "optimizer.pt" not in files
    assert "Left out: optimizer.pt" in released
    assert f"/acme/unimur/commit/{repository.branches['main']}" in released
    config = json.loads(files["config.json"].data)
    assert config["text_base_revision"] == hub.repositories["acme/lm"].branches["main"]
    assert b'pipeline("multimodal-retrieval", model="acme/unimur"' in files["README.md"].data


@pytest.fixture
def in_process(hub, monkeypatch):
    """This process talks to the hub, as its author."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr("modeling_unimur.releasing.upload.HfApi", lambda: HfApi(endpoint=hub.endpoint, token=TOKEN))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_a_tag_never_moves(released, in_process):
    with pytest.raises(ValueError, match=r"v1 .*--tag"):
        require_free_tag("acme/unimur", "v1")
    require_free_tag("acme/unimur", "v2")
    require_free_tag("acme/nothing-yet", "v1")


def test_what_is_no_longer_there_goes(hub, in_process, tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    upload(tmp_path, "acme/two", private=True, tag="v1")
    (tmp_path / "a.txt").unlink()
    upload(tmp_path, "acme/two")
    repository = hub.repositories["acme/two"]
    assert repository.private
    assert set(repository.commits[repository.branches["main"]]) == {"b.txt"}
    assert set(repository.commits[repository.tags["v1"]]) == {"a.txt", "b.txt"}


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (401, r"acme/two \(401\)"),
        (403, r"\(403\)"),
        (404, r"\(404\)"),
        (503, r"\(503\).*5 attempts"),
        (429, r"\(429\)"),
    ],
)
def test_a_refused_upload_is_one_error_and_changes_nothing(hub, in_process, tmp_path, status, told):
    (tmp_path / "c.txt").write_text("c")
    hub.repositories["acme/two"] = Repository()
    before = hub.repositories["acme/two"].commit({"old.txt": File(b"old", lfs=False)})
    hub.faults.append(Fault("POST /api/models/acme/two/commit/main", status))
    with pytest.raises(OSError, match=told):
        upload(tmp_path, "acme/two", tag="v9")
    assert hub.repositories["acme/two"].branches["main"] == before
    assert hub.repositories["acme/two"].tags == {}


# -- what others get ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "script",
    # What the first does, test_push_to_hub.py does quickly for what is pushed without `unimur release`.
    [pytest.param("load_release.py", marks=pytest.mark.slow), "encode_release.py"],
)
def test_a_stranger_with_an_empty_cache_gets_the_same_embeddings(
    hub, released, expected, stranger, pictures, tmp_path, script
):
    environment = hub.environment()
    done = closure.run(script, pictures[0], tmp_path, "acme/unimur", path=[stranger], work=tmp_path, **environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found = load_file(tmp_path / "unimur.safetensors")
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def stranger_process(hub, released, tmp_path_factory):
    """One process of a stranger that loads what it is asked for, and one that downloads by Xet."""
    packages = Path(sysconfig.get_paths()["purelib"])
    processes = {}

    def get(xet: bool):
        if xet not in processes:
            work = tmp_path_factory.mktemp("process")
            processes[xet] = closure.start("load_on_demand.py", path=[packages], work=work, **hub.environment())
        return processes[xet]

    yield get
    for process in processes.values():
        process.stdin.close()
        process.wait(timeout=60)


@pytest.fixture
def load(hub, stranger_process, tmp_path):
    """Asks the stranger to load a release, into one cache for the test."""

    def ask(repo: str = "acme/unimur", xet: bool = False, **more) -> dict:
        hub.xet = xet
        process = stranger_process(xet)
        process.stdin.write(json.dumps({"repo": repo, "cache": str(tmp_path / "cache"), **more}) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    return ask


def assert_loads(answer: dict, expected: dict) -> None:
    assert "error" not in answer, answer
    torch.testing.assert_close(torch.tensor(answer["embedding"]), expected["context"][0], atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "faults",
    [
        [Fault(WEIGHTS.format("unimur"), 429, {"Retry-After": "1"}, times=1)],
        [Fault(WEIGHTS.format("unimur").replace("GET", "HEAD"), 503, times=1)],
        [Fault(WEIGHTS.format("lm").replace("GET", "HEAD"), 500, times=1)],
    ],
    ids=["429", "503", "500 of a base"],
)
def test_a_busy_hub_is_asked_again(hub, load, expected, faults):
    hub.faults += faults
    assert_loads(load(), expected)
    assert all(fault.times == 0 for fault in faults)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Fault(WEIGHTS.format("unimur"), 503), r"OSError: .*acme/unimur"),
        (Fault(WEIGHTS.format("unimur"), content=lambda data: data[:-100]), r"OSError: .*Consistency"),
        (
            Fault(WEIGHTS.format("lm"), content=lambda data: data[:-100]),
            r"OSError: .*'acme/lm' .*[0-9a-f]{40}",
        ),
        (
            Fault(WEIGHTS.format("lm"), content=lambda data: b"\xff" * len(data)),
            r"OSError: .*'acme/lm' .*cannot be read",
        ),
        (Fault(WEIGHTS.format("clip"), 503), r"OSError: .*'acme/clip'"),
    ],
    ids=["503", "cut short", "base cut short", "base damaged", "base 503"],
)
def test_one_error_and_never_half_a_model(hub, load, expected, fault, told):
    hub.faults.append(fault)
    answer = load()
    assert "embedding" not in answer
    assert re.match(told, answer["error"], flags=re.DOTALL), answer["error"]
    hub.faults.clear()
    again = load(force_download=True) if "cannot be read" in told else load()
    assert_loads(again, expected)


# From 1.32 on, huggingface_hub keeps what it downloads by Xet in one store for all repositories.
HAS_SHARED_BLOBS = Version(huggingface_hub.__version__) >= Version("1.32")


@pytest.mark.parametrize("xet", [False, True], ids=["blobs of a repository", "blobs of a cache"])
def test_either_layout_of_the_cache_and_a_damaged_file(hub, load, expected, tmp_path, xet):
    assert_loads(load(xet=xet), expected)
    commit = hub.repositories["acme/unimur"].branches["main"]
    files = hub.repositories["acme/unimur"].commits[commit]
    for path, file in files.items():
        (tmp_path / "release" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "release" / path).write_bytes(file.data)
    publish(tmp_path / "made", "acme/unimur", tmp_path / "release", commit, shared=xet and HAS_SHARED_BLOBS)
    real = links(tmp_path / "cache" / "models--acme--unimur")
    assert real.items() <= links(tmp_path / "made" / "models--acme--unimur").items()  # which other tests make
    assert (f"blobs/{files['model.safetensors'].sha256}" in real) == (xet and HAS_SHARED_BLOBS)

    hub.faults.append(Fault("GET /xet/xorbs/.*" if xet else WEIGHTS.format("unimur"), content=damaged, times=1))
    another = {"xet": xet, "cache": str(tmp_path / "another")}
    told = r"OSError: The weights of acme/unimur are not those that the Hub announced .*force_download=True"
    for again in ({}, {"local_files_only": True}):
        assert re.match(told, load(**another, **again)["error"])
    assert_loads(load(**another, force_download=True), expected)
    assert_loads(load(**another), expected)


def links(cache: Path) -> dict[str, str]:
    """The links of a cache, and what they name."""
    return {str(path.relative_to(cache)): os.readlink(path) for path in cache.rglob("*") if path.is_symlink()}


def damaged(data: bytes) -> bytes:
    return data[:-4] + b"\x00\x01\x02\x03"


def test_what_is_not_there(hub, load, expected):
    assert re.match(r"OSError: acme/nothing is not a local folder", load("acme/nothing")["error"])
    assert re.match(r"OSError: v7 is not a valid git identifier", load(revision="v7")["error"])
    assert_loads(load(revision="v1"), expected)


def test_what_is_private(hub, load, expected):
    hub.repositories["acme/unimur"].private = True
    try:
        assert re.match(r"OSError: acme/unimur is not .*hf auth login", load()["error"], flags=re.DOTALL)
        assert_loads(load(token=TOKEN), expected)
    finally:
        hub.repositories["acme/unimur"].private = False


def test_a_base_that_went_away(hub, load, expected):
    repository = hub.repositories.pop("acme/lm")
    try:
        error = load()["error"]
        assert re.match(r"OSError: The frozen language model 'acme/lm' at revision [0-9a-f]{40} could not be", error)
        assert "pass language_model=<folder or Hub id>" in error
    finally:
        hub.repositories["acme/lm"] = repository
    assert_loads(load(), expected)


def test_offline_from_the_cache(hub, load, expected):
    assert re.match(r"OSError: ", load(local_files_only=True)["error"])
    assert_loads(load(), expected)
    before = len(hub.requests)
    assert_loads(load(local_files_only=True), expected)
    assert len(hub.requests) == before
    hub.faults.append(Fault("(GET|HEAD) /acme/.*", 503))
    assert_loads(load(), expected)  # the hub is there, and gives no file


def test_weights_that_were_released_broken(hub, load):
    repository = hub.repositories["acme/unimur"]
    files = dict(repository.commits[repository.branches["main"]])
    files["model.safetensors"] = File(b"\xff" * 64, lfs=True)
    repository.commit(files, "broken")
    error = load(revision="broken")["error"]
    assert re.match(r"OSError: The weights of acme/unimur cannot be read \(.*force_download=True", error), error
