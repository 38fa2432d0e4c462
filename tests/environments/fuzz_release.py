"""Run by tests: loads a release again and again, each time with something wrong in its config.json or its weights.

`python fuzz_release.py RELEASE MUTATIONS SEED` prints one line of JSON, how often it loaded, was refused and took too
long, and fails where a file of the release was run, a pickle was read or the network was asked. Memory is limited, as
a number in a file can ask for any amount.
"""

import json
import random
import resource
import shutil
import signal
import struct
import sys
import warnings
from collections import Counter
from pathlib import Path

import torch
import transformers

from modeling_unimur import UniMuRModel

SECONDS, MEMORY = 2, 4 * 2**30  # of one attempt; beyond what the process has at the start
ATTACK = "__import__('os').system('touch ran')"
VALUES = [
    None, True, -1, 0, 3, 2**31, 2**63, 1e308, float("nan"), "", "x", "../../../etc/passwd", ATTACK, "evil.Evil",
    "https://127.0.0.1:9/x", [], {}, [[]], {"model_type": "evil"}, ["evil.Evil"], {"quant_method": "evil"},
    "a" * 10_000,
]  # fmt: skip
KEYS = [
    "auto_map", "custom_pipelines", "quantization_config", "_attn_implementation", "attn_implementation", "dtype",
    "torch_dtype", "architectures", "model_type", "text_base_model", "clip_base_model", "base_model_tp_plan",
    "transformers_weights", "_name_or_path", "generation_config", "_commit_hash", "__class__", "rope_scaling",
]  # fmt: skip
ran = []


class TookTooLong(Exception):
    """A file asked for more time than it gets."""


def watch(folder: str) -> None:
    """Notes whatever a file of data must never lead to."""

    def hook(event: str, arguments: tuple) -> None:
        if event in ("os.system", "pickle.find_class", "socket.connect"):
            ran.append(f"{event} {arguments!r:.200}")
        elif event == "exec" and getattr(arguments[0], "co_filename", "").startswith(folder):
            ran.append(f"exec {arguments[0].co_filename}")
        elif event == "import" and arguments[0].split(".")[0] in ("evil", "transformers_modules"):
            ran.append(f"import {arguments[0]}")

    sys.addaudithook(hook)


def places(value, path=()):
    """Every place in a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def changed(document: dict, rng: random.Random) -> dict:
    """A JSON document with one to three places replaced, removed or added."""
    document = json.loads(json.dumps(document))
    for _ in range(rng.randint(1, 3)):
        at = rng.choice(list(places(document)) or [()])
        inner = document
        for key in at[:-1]:
            inner = inner[key]
        action = rng.random()
        if action < 0.6 and at:
            inner[at[-1]] = rng.choice(VALUES)
        elif action < 0.75 and at:
            del inner[at[-1]]
        elif isinstance(inner, dict):
            inner[rng.choice(KEYS)] = rng.choice(VALUES)
    return document


def bytes_changed(data: bytes, rng: random.Random) -> bytes:
    """Bytes with some flipped, or cut off."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        found[rng.randrange(len(found))] = rng.randrange(256)
    return bytes(found[: rng.randrange(len(found))]) if rng.random() < 0.3 else bytes(found)


def broken_config(original: bytes, rng: random.Random) -> bytes:
    """A config.json that is wrong by its content or by its bytes."""
    if rng.random() < 0.75:
        return json.dumps(changed(json.loads(original), rng)).encode()
    if rng.random() < 0.1:
        return b"[" * 100_000
    return bytes_changed(original, rng)


def broken_weights(original: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose header is wrong."""
    length = struct.unpack("<Q", original[:8])[0]
    header, data = original[8 : 8 + length], original[8 + length :]
    kind = rng.random()
    if kind < 0.5:
        header = json.dumps(changed(json.loads(header), rng)).encode()
    elif kind < 0.8:
        header = bytes_changed(header, rng)
    else:
        return struct.pack("<Q", rng.choice([0, 1, length + 1, 2**20, 2**40, 2**63, 2**64 - 1])) + header + data
    return struct.pack("<Q", len(header)) + header + data


def attempt(folder: Path) -> str:
    """Loads; how it ended."""
    signal.alarm(SECONDS)
    try:
        UniMuRModel.from_pretrained(folder)
        return "loaded"
    except TookTooLong:
        return "took too long"
    except Exception as error:
        return f"refused: {type(error).__name__}"
    finally:
        signal.alarm(0)


def main(release: str, mutations: str, seed: str) -> None:
    """Breaks and loads."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    folder = Path("fuzzed").resolve()
    shutil.copytree(release, folder)
    (folder / "evil.py").write_text("open('ran', 'w').close()\nclass Evil: pass\n", encoding="utf-8")
    originals = {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}
    UniMuRModel.from_pretrained(folder)  # imports whatever loading needs
    limit = MEMORY + int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    def interrupt(*_):
        raise TookTooLong

    signal.signal(signal.SIGALRM, interrupt)
    assert attempt(folder) == "loaded"
    watch(str(folder))
    rng, ends = random.Random(int(seed)), Counter()
    for number in range(int(mutations)):
        name, broken = (("config.json", broken_config), ("model.safetensors", broken_weights))[number % 2]
        (folder / name).write_bytes(broken(originals[name], rng))
        end = attempt(folder)
        if ran or Path("ran").exists():
            sys.exit(f"mutation {number} of {name} ran something: {ran}")
        ends[end] += 1
        (folder / name).write_bytes(originals[name])
    assert attempt(folder) == "loaded"
    print(json.dumps(ends))


if __name__ == "__main__":
    torch.manual_seed(0)
    main(*sys.argv[1:])
