"""Train, evaluate, release and load elsewhere without leaving the command line; the same for what converters write."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conversion import convert_clip_to_hf, convert_fromage_to_hf, convert_gill_to_hf, convert_open_clip_to_hf
from conversion.heads_release import Backbone
from modeling_unimur.cli.main import main
from tests import tiny
from tests.conversion import clip_checkpoints
from tests.conversion.test_convert_fromage import make as make_fromage
from tests.conversion.test_convert_gill import make as make_gill
from tests.conversion.test_convert_open_clip import source_folder
from tests.data import published_files
from tests.data.webqa_files import write_released
from tests.hub_cache import publish
from tests.releasing.conftest import CARD, COMMITS
from tests.training.folder_run import write_pictures, write_recipe

BASES = ["--language-model-base", f"acme/lm@{COMMITS['acme/lm']}", "--clip-base", f"acme/clip@{COMMITS['acme/clip']}"]
# Runs several commands in one process, which saves the imports, and stops at the first that fails.
SCRIPT = """
import json, sys
from modeling_unimur.cli.main import main
for argv in json.loads(sys.argv[1]):
    print("$ unimur", *argv, flush=True)
    if main(argv):
        sys.exit(1)
"""


def commands(*calls, **environment) -> str:
    """What `unimur` prints for each call, one after another."""
    calls = [[str(word) for word in call] for call in calls]
    command = [sys.executable, "-c", SCRIPT, json.dumps(calls)]
    environment = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


@pytest.fixture
def work(tmp_path):
    """A folder with a set to evaluate on and a filled card."""
    published_files.write_mmdialog(tmp_path / "mmdialog")
    (tmp_path / "card.yaml").write_text(CARD)
    return tmp_path


def evaluation(work: Path, model: Path, name: str, *further) -> list:
    asked = ["evaluate", "mmdialog", "--data", work / "mmdialog", "--model", model, "--systems", "unimur"]
    return [*asked, "--output", work / name, *further]


def figures(work: Path, name: str) -> dict:
    record = json.loads((work / name / "results.json").read_text())
    return {key: value for key, value in record["systems"][0].items() if key in ("values", "means")}


def converted_clip(work: Path) -> Path:
    """A checkpoint of UniVL-DR's training, converted."""
    tiny.tokenizer(eos=True).save_pretrained(work / "words")
    state = clip_checkpoints.plain(clip_checkpoints.model_cfg()).state_dict()
    torch.save({"model": state}, work / "model.best.pt")
    return convert_clip_to_hf.convert(work / "model.best.pt", work / "clip", tokenizer=work / "words")


def converted_open_clip(work: Path) -> Path:
    """A folder of open_clip, converted."""
    (work / "open_clip").mkdir()
    source_folder(work / "open_clip", clip_checkpoints.model_cfg(quick_gelu=False), {"resize_mode": "squash"})
    return convert_open_clip_to_hf.convert(work / "open_clip", work / "clip")


def test_backbones_of_the_hub(work, language_folder, clip_folder):
    cache, run = work / "hub", work / "run"
    for (name, commit), folder in zip(COMMITS.items(), (language_folder, clip_folder), strict=True):
        publish(cache, name, folder, commit)
    settings = {"output_dir": str(run), "max_steps": 2, "save_steps": 2, "eval_steps": 2}
    recipe = write_recipe(work / "recipe.yaml", write_pictures(work / "images"), "acme/lm", "acme/clip", **settings)
    kept = {kind: work / kind for kind in ("heads", "full")}
    release = ["release", run, "--repo-id", "acme/unimur", "--card", work / "card.yaml", "--dry-run", "--keep"]
    shown = commands(
        ["train", recipe],
        evaluation(work, run, "trained"),
        [*release, kept["heads"]],
        [*release, kept["full"], "--full"],
        evaluation(work, kept["heads"], "again"),
        evaluation(work, kept["full"], "whole"),
        HF_HUB_CACHE=cache,
        UNIMUR_CACHE=work / "cache",
    )
    assert shown.count("Loaded in a fresh process by AutoModel, AutoProcessor, pipeline, SentenceTransformer") == 2
    named = {"text_base_model": "acme/lm", "text_base_revision": COMMITS["acme/lm"]}
    named |= {"clip_base_model": "acme/clip", "clip_base_revision": COMMITS["acme/clip"]}
    assert config_of(run).items() >= {**named, "heads_only": True}.items()
    assert config_of(kept["heads"]).items() >= {**named, "heads_only": True}.items()
    assert config_of(kept["full"]).get("heads_only", False) is False
    assert (kept["full"] / "model.safetensors").stat().st_size > 5 * (
        kept["heads"] / "model.safetensors"
    ).stat().st_size
    assert figures(work, "again") == figures(work, "whole") == figures(work, "trained")


def test_backbones_of_this_machine(work, language_folder, capsys):
    run, clip = work / "run", converted_open_clip(work)
    where = ["--language-model", language_folder, "--clip", clip]
    settings = {"output_dir": str(run), "max_steps": 2, "save_steps": 2, "eval_steps": 2}
    recipe = write_recipe(work / "recipe.yaml", write_pictures(work / "images"), language_folder, clip, **settings)
    release = ["release", run, "--repo-id", "acme/unimur", "--card", work / "card.yaml", "--dry-run"]
    commands(
        ["train", recipe],
        evaluation(work, run, "trained"),
        evaluation(work, run, "named", *where),
        [*release, "--keep", work / "heads", *BASES, *where],
        [*release, "--keep", work / "full", "--full"],
        evaluation(work, work / "heads", "again", *where),
        evaluation(work, work / "full", "whole"),
        UNIMUR_CACHE=work / "cache",
    )
    assert figures(work, "trained") == figures(work, "named") == figures(work, "again") == figures(work, "whole")
    assert config_of(work / "heads")["text_base_revision"] == COMMITS["acme/lm"]
    assert str(work) not in (work / "full" / "config.json").read_text()
    assert config_of(work / "full").get("text_base_model") is None
    # Nobody else has these folders: heads alone have to say what they are copies of.
    assert main([str(word) for word in release]) == 2
    assert "--full" in capsys.readouterr().err
    assert main([str(word) for word in evaluation(work, run, "typo", "--clip", "/no/such/clip")]) == 2
    assert "--clip /no/such/clip" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "convert"),
    [
        pytest.param(make_fromage, convert_fromage_to_hf.convert, id="fromage"),
        pytest.param(make_gill, convert_gill_to_hf.convert, id="gill", marks=pytest.mark.slow),
    ],
)
def test_converted_heads(make, convert, work):
    folders = tiny.language_model(work / "opt", "opt", bos=True), tiny.clip(work / "clip")
    _, checkpoint = make(work / "checkpoint")
    convert(checkpoint, work / "converted", *(Backbone(str(folder)) for folder in folders))
    where = ["--language-model", folders[0], "--clip", folders[1]]
    release = ["release", work / "converted", "--repo-id", "acme/converted", "--dry-run", "--keep"]
    asked = ["evaluate", "mmdialog-images", "--data", work / "mmdialog", "--systems", "unimur", "--model"]
    shown = commands(
        [*asked, work / "converted", "--output", work / "figures", *where],
        [*release, work / "heads", *BASES, *where],
        [*release, work / "full", "--full", *where],
        [*asked, work / "heads", "--output", work / "again", *where],
        [*asked, work / "full", "--output", work / "whole"],
    )
    assert shown.count("Loaded in a fresh process") == 2
    assert (
        config_of(work / "heads").items() >= {"heads_only": True, "clip_base_revision": COMMITS["acme/clip"]}.items()
    )
    assert str(work) not in (work / "full" / "config.json").read_text()
    assert figures(work, "figures") == figures(work, "again") == figures(work, "whole")


@pytest.mark.parametrize("make", [converted_clip, pytest.param(converted_open_clip, marks=pytest.mark.slow)])
def test_a_converted_dual_encoder(make, work):
    folder = make(work)
    (work / "webqa").mkdir()
    write_released(work / "webqa")
    asked = ["evaluate", "webqa", "--data", work / "webqa", "--setting", "released", "--output"]
    shown = commands(
        [*asked, work / "converted", "--model", folder],
        ["release", folder, "--repo-id", "acme/univl-dr", "--dry-run", "--keep", work / "release"],
        [*asked, work / "released", "--model", work / "release"],
        UNIMUR_CACHE=work / "cache",
    )
    assert "Loaded in a fresh process" in shown
    assert main([str(word) for word in [*asked, work / "x", "--model", folder, "--clip", folder]]) == 2
    assert config_of(work / "release")["model_type"] == "univl_dr"
    processor = json.loads((work / "release" / "processor_config.json").read_text())
    size = json.loads((folder / "preprocessor_config.json").read_text())["size"]
    assert processor["image_processor"]["size"] == size
    assert figures(work, "converted") == figures(work, "released")
