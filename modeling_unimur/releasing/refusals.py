"""Refuses releases with local paths, packed weights, secrets, pickles, or code that others cannot run."""

from __future__ import annotations

import ast
import json
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from .bases import FLAGS, PARTS, Base

# What a stranger has: torch and transformers, what they bring, and Pillow.
_LIBRARIES = {"torch", "transformers", "huggingface_hub", "safetensors", "numpy", "PIL", "tqdm", "tokenizers"}
_OWN_PACKAGE = __name__.split(".")[0]
_ENDINGS = {".json", ".safetensors", ".py", ".md", ".jinja", ".txt", ".model"}
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"}
_PATH = re.compile(r"(?:file:/*|~|\.{1,2})?/[^/\s]+/|[A-Za-z]:[\\/]|\\\\\w|file:")
_PATH_IN_TEXT = re.compile(r"(?<![\w.:/<])/(?:home|root|Users|tmp|mnt)/\w+|\b[A-Z]:\\Users\\\w+")
# Formats as their issuers document them, after the rules of detect-secrets and gitleaks.
_SECRETS = {
    "a Hugging Face token": r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}\b",
    "a GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bgithub_pat_[A-Za-z0-9_]{22,}\b",
    "a GitLab token": r"\bgl(?:pat|dt|rt|cbt|ptt|ft|soat|agent)-[A-Za-z0-9_-]{20,}",
    "a Slack token": r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}|\bxapp-\d-[A-Za-z0-9-]{10,}",
    "a Slack webhook": r"hooks\.slack\.com/services/T\w+/B\w+/\w+",
    "a Google key": r"\bAIza[A-Za-z0-9_-]{35}|\bGOCSPX-[A-Za-z0-9_-]{20,}|\bya29\.[A-Za-z0-9_-]{20,}",
    "an AWS key": r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b",
    "an AWS secret": r"(?i:aws_?secret_?(?:access_?)?key)\W{1,6}[A-Za-z0-9/+=]{40}\b",
    "an Azure key": r"(?i:AccountKey|SharedAccessKey)=[A-Za-z0-9+/]{40,}={0,2}",
    "an API key": r"\bsk-[A-Za-z0-9_-]{20,}|\b[sr]k_(?:live|test)_[A-Za-z0-9]{16,}|\bgsk_\w{40,}",
    "a mail service's key": r"\bSG\.[\w-]{16,}\.[\w-]{16,}",
    "a package registry's token": r"\bnpm_[A-Za-z0-9]{36}\b|\bpypi-[A-Za-z0-9_-]{40,}",
    "a bot's token": r"\b\d{8,10}:AA[A-Za-z0-9_-]{33}\b|\bSK[0-9a-f]{32}\b|\bdop_v1_[0-9a-f]{64}\b",
    "a signed web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "a password in an address": r"\b[a-z][a-z0-9+.-]*://[^\s/:@'\"<>{}]{1,64}:[^\s/:@'\"<>{}]{1,128}@[\w.-]+",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----",
}
_SECRETS = {what: re.compile(pattern) for what, pattern in _SECRETS.items()}
# Keys of a configuration that hold one, by their ends; a tokenizer's `bos_token` and such are none.
_SECRET_KEY = re.compile(
    r"(?:^|_)(?:password|passwd|secret|api_?key|apikey|access_key|private_key|credentials?)$"
    r"|^(?:token|hf_token|hub_token|push_to_hub_token)$|(?:auth|access|refresh|bearer|api|hub|hf|github|gitlab|slack)_token$",
    re.IGNORECASE,
)
# A class of this release, and not of another repository, whose code would run wherever the release is loaded.
_CODE_REFERENCE = re.compile(r"[A-Za-z_]\w*\.[A-Za-z_]\w*")


def check_release(folder: Path) -> dict[str, int]:
    """Checks a release folder before its upload, and returns its files with their sizes in bytes.

    Raises:
        FileNotFoundError: the configuration, the weights or the card is missing.
        ValueError: naming the first file with something that does not belong into a release, and the remedy.
    """
    for name, what in (("config.json", "configuration"), ("README.md", "card")):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {what} ({name}), which every release has.")
    if not list(folder.glob("*.safetensors")):
        raise FileNotFoundError(f"{folder} has no weights in safetensors: `save_pretrained` writes them.")
    sizes = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        name = path.relative_to(folder).as_posix()
        _check_kind(path, name)
        if path.suffix == ".safetensors":
            _check_text(_safetensors_header(path, name), name)
        else:
            text = path.read_text(encoding="utf-8")
            _check_text(text, name)
            if path.suffix == ".py":
                check_code(text, name, folder)
            elif path.suffix == ".json" and path.name != "tokenizer.json":
                check_config(_json(text, name), name)
        sizes[name] = path.stat().st_size
    return sizes


def _json(text: str, name: str):
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{name} is not valid JSON ({error}).") from error


def _check_kind(path: Path, name: str) -> None:
    if path.is_symlink():
        raise ValueError(f"{name} is a link, which leads nowhere on another machine: put the file itself there.")
    with path.open("rb") as file:
        start = file.read(4)
    is_pickle = re.match(rb"\x80[\x02-\x05]", start) is not None or start == b"PK\x03\x04"
    if path.suffix in _PICKLES or is_pickle:
        raise ValueError(
            f"{name} is a pickle or an archive of them, which runs code when it is opened: leave it out, and save "
            "weights with `save_pretrained`, which writes safetensors."
        )
    is_result = path.parent.name == ".eval_results" and path.suffix == ".yaml"
    if path.suffix not in _ENDINGS and not is_result:
        raise ValueError(f"{name} is not part of a release (only {', '.join(sorted(_ENDINGS))} are): leave it out.")


def _safetensors_header(path: Path, name: str) -> str:
    with path.open("rb") as file:
        size = file.read(8)
        length = struct.unpack("<Q", size)[0] if len(size) == 8 else 0
        if not 0 < length < 2**27:
            raise ValueError(f"{name} is not a safetensors file: write it again with `save_pretrained`.")
        return file.read(length).decode("utf-8", errors="replace")


def _check_text(text: str, name: str) -> None:
    for what, pattern in _SECRETS.items():
        if pattern.search(text):
            raise ValueError(f"{name} holds {what}: take it out, and revoke it if the file was ever shared.")
    found = _PATH_IN_TEXT.search(text)
    if found and name.rsplit("/", 1)[-1] != "tokenizer.json":  # whose vocabulary holds pieces of paths
        raise ValueError(f"{name} names a folder of this machine ({found[0]}): take it out.")


# -- configurations ---------------------------------------------------------------------------------------------------
def json_values(config, key: str = "") -> Iterator[tuple[str, object]]:
    """Every value in a JSON document with its dotted key."""
    if isinstance(config, dict):
        for name, value in config.items():
            yield f"{key}.{name}".lstrip("."), value
            yield from json_values(value, f"{key}.{name}")
    elif isinstance(config, list):
        for value in config:
            yield key.lstrip("."), value
            yield from json_values(value, key)


def check_config(config, name: str) -> None:
    """Raises ValueError, with the key and the remedy, for the content of a JSON file that holds a local path, a
    quantization config or a token."""
    for key, value in json_values(config):
        last = key.rsplit(".", 1)[-1]
        if last == "quantization_config" and value:
            raise ValueError(
                f"{name}: {key} says how this machine packs the weights: load the model without quantization_config "
                "and save it again, or release its heads alone (--heads-only)."
            )
        if not isinstance(value, str):
            continue
        if _SECRET_KEY.search(last) and value:
            raise ValueError(f"{name}: {key} holds a secret: take it out, and revoke it if the file was ever shared.")
        if last != "chat_template" and _PATH.match(value):
            raise ValueError(
                f"{name}: {key} is a local path ({value}), which nobody else has: give a Hub id, or release the "
                "backbones inside (--full)."
            )
    check_code_references(config, name)
    if isinstance(config, dict) and config.get("heads_only"):
        check_bases(config)


def check_code_references(config, name: str) -> None:
    """Raises ValueError, with the key and the remedy, for a JSON document that names code of another repository,
    wherever in it: loading would run that code."""
    for key, value in json_values(config):
        parts = key.split(".")
        if not isinstance(value, str) or not (
            "auto_map" in parts or (parts[-1] == "impl" and "custom_pipelines" in parts)
        ):
            continue
        if not _CODE_REFERENCE.fullmatch(value):
            raise ValueError(
                f"{name}: {key} runs {value!r}, which is not a class of this release: take it out. Only file.Class "
                "of a file in the same folder is allowed."
            )


def check_source(folder: Path) -> None:
    """Raises ValueError, with file, key and remedy, for a model's folder whose files name code of another repository,
    before anything is loaded from it."""
    for path in sorted(folder.rglob("*.json")):
        name = path.relative_to(folder).as_posix()
        if path.name != "tokenizer.json" and "checkpoint-" not in name:
            check_code_references(_json(path.read_text(encoding="utf-8", errors="replace"), name), name)


def check_bases(config: dict) -> None:
    """Raises ValueError, with the backbone and the remedy, for a heads-only configuration that does not name its
    backbones by id and commit."""
    for part, words in PARTS.items():
        if config.get(f"{part}_config") is None:
            continue
        model, revision = config.get(f"{part}_base_model"), config.get(f"{part}_base_revision")
        if model is None:
            raise ValueError(
                f"These heads name no {words}, so nobody could load them: say which one they were trained on "
                f"({FLAGS[part]} ID@COMMIT), or release it inside (--full)."
            )
        Base(model, revision)
    if config.get("anchor_base_model") is not None:  # the encoder of ready embeddings
        Base(config["anchor_base_model"], config.get("anchor_base_revision"))


# -- code -------------------------------------------------------------------------------------------------------------
def check_code(text: str, name: str, folder: Path) -> None:
    """Raises ValueError, with the import and the remedy, for code that needs more than torch, transformers and its
    siblings in `folder`."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ValueError(f"{name} is not valid Python ({error}).") from error
    optional = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.Try) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            if node.level > 1 or not node.module or not (folder / f"{node.module}.py").is_file():
                raise ValueError(
                    f"{name}, line {node.lineno}: a relative import of what is not beside it; a release's code lies "
                    "flat in one folder, imported as `from .file import name`."
                )
            continue
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        modules = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        for module in modules:
            top = module.split(".")[0]
            if top == _OWN_PACKAGE:
                raise ValueError(
                    f"{name}, line {node.lineno}: an absolute import of {_OWN_PACKAGE}, which others have not "
                    "installed: write `from .file import name`."
                )
            if top not in _LIBRARIES and top not in sys.stdlib_module_names and id(node) not in optional:
                raise ValueError(
                    f"{name}, line {node.lineno}: imports {top}, which comes with neither torch nor transformers: "
                    "import it in a `try:` that says how to install it."
                )
