"""A processor whose files do not belong together is not loaded."""

import json
import shutil

import pytest
import torch

from modeling_unimur import UniMuRModel, UniMuRProcessor, UniVLDRModel, UniVLDRProcessor

TOKENIZER, TARGET = "tokenizer.json", "target_tokenizer/tokenizer.json"
CONFIG, TEMPLATE = "processor_config.json", "chat_template.jinja"


@pytest.fixture(scope="module")
def saved(make_model, tmp_path_factory):
    """A release with a readout prompt, its model's configuration beside it."""
    folder = tmp_path_factory.mktemp("saved")
    model, processor = make_model(processor={"readout_prompt": " means in one word: "})
    model.config.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def release(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "release")


def edit(path, **changes) -> None:
    """Changes a JSON file; a value of None removes a key."""
    record = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    kept = {key: value for key, value in record.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")


def forget(folder) -> None:
    """Makes it an older release."""
    edit(folder / CONFIG, fingerprint=None)


@pytest.mark.parametrize("older", [False, True])
def test_a_whole_release_loads(release, older):
    if older:
        forget(release)
    processor = UniMuRProcessor.from_pretrained(release)
    assert bool(processor.fingerprint) is not older
    processor.save_pretrained(release)
    again = json.loads((release / CONFIG).read_text())["fingerprint"]
    assert set(again) == {"tokenizer", "target_tokenizer", "context", "vocabulary"}


def without(name):
    return lambda folder: (folder / name).unlink()


def emptied_prompt(folder):
    edit(folder / CONFIG, readout_prompt="")


def missing_prompt(folder):
    edit(folder / CONFIG, readout_prompt=None)


def other_prompt(folder):
    edit(folder / CONFIG, readout_prompt=" in other words: ")


def other_picture_prompt(folder):
    edit(folder / CONFIG, picture_prompt="Here: <image>")


def two_placeholders(folder):
    edit(folder / CONFIG, num_visual_tokens=2)


def silent_template(folder):
    (folder / TEMPLATE).write_text("{{ messages[0]['role'] }}<image>")


def other_template(folder):
    (folder / TEMPLATE).write_text("Chat: " + (folder / TEMPLATE).read_text())


def template_without_images(folder):
    (folder / TEMPLATE).write_text((folder / TEMPLATE).read_text().replace("<image>", "an image"))


def other_words(name):
    def change(folder):
        record = json.loads((folder / name).read_text())
        record["model"]["merges"] = record["model"]["merges"][10:]
        (folder / name).write_text(json.dumps(record))

    return change


def fewer_words(name):
    def change(folder):
        record = json.loads((folder / name).read_text())
        record["model"]["merges"] = []
        words = record["model"]["vocab"]
        record["model"]["vocab"] = {word: number for word, number in words.items() if len(word) == 1 or number < 3}
        (folder / name).write_text(json.dumps(record))

    return change


@pytest.mark.parametrize(
    ("change", "named", "older"),
    [
        (without(TARGET), "target_tokenizer", True),
        (without(TOKENIZER), "tokenizer.json", True),
        (emptied_prompt, "readout_prompt", True),
        (missing_prompt, "readout_prompt", True),
        (other_prompt, "readout_prompt", False),
        (other_picture_prompt, CONFIG, False),
        (two_placeholders, CONFIG, False),
        (silent_template, TEMPLATE, True),
        (other_template, TEMPLATE, False),
        (template_without_images, TEMPLATE, True),
        (other_words(TOKENIZER), TOKENIZER, False),
        (other_words(TARGET), TARGET, False),
        (fewer_words(TARGET), TARGET, False),
    ],
)
def test_what_would_change_vectors_is_refused(release, change, named, older):
    change(release)
    for _ in range(1 + older):  # the second time without a fingerprint
        with pytest.raises((ValueError, OSError), match=named):
            UniMuRProcessor.from_pretrained(release)
        forget(release)


def test_another_model_s_tokenizer_is_refused_without_a_fingerprint(release):
    forget(release)
    config = json.loads((release / "config.json").read_text())
    edit(release / "config.json", text_config={**config["text_config"], "vocab_size": 300})
    with pytest.raises(ValueError, match=TOKENIZER):
        UniMuRProcessor.from_pretrained(release)
    edit(release / "config.json", **config | {"image_token_id": 7})
    with pytest.raises(ValueError, match="image_token_id"):
        UniMuRProcessor.from_pretrained(release)
    dual = config["clip_config"]
    edit(release / "config.json", **config | {"clip_config": {**dual, "text_config": {"vocab_size": 9}}})
    with pytest.raises(ValueError, match=TARGET):
        UniMuRProcessor.from_pretrained(release)


def test_what_a_caller_chooses_is_no_damage(release):
    processor = UniMuRProcessor.from_pretrained(release, picture_prompt="Here: <image>", max_context_tokens=50)
    assert processor.picture_prompt == "Here: <image>"


JSON = ["", "{", "[]", "null", '{"a": ', "\x00\x01", '{"processor_class": 3}']


@pytest.mark.parametrize("name", [CONFIG, TOKENIZER, TARGET, "tokenizer_config.json", "config.json"])
@pytest.mark.parametrize("text", JSON)
def test_damaged_files_are_one_clear_error(release, name, text):
    (release / name).write_text(text)
    if text == JSON[-1] and name in ("config.json", "tokenizer_config.json"):  # nothing that a processor needs
        UniMuRProcessor.from_pretrained(release)
        return
    with pytest.raises((ValueError, OSError), match=name.rpartition("/")[2]) as caught:
        UniMuRProcessor.from_pretrained(release)
    assert type(caught.value) in (ValueError, OSError)


@pytest.mark.parametrize("name", [TOKENIZER, TARGET])
@pytest.mark.parametrize(
    "change",
    [
        {"model": {"type": "BPE", "vocab": {"a": 0, "a b": 5}, "merges": [["x", "y"]]}},
        {"model": {"type": "WordPiece", "vocab": {}, "unk_token": "[UNK]", "max_input_chars_per_word": 1}},
        {"post_processor": {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": 3}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}},
        {"added_tokens": [{"id": -1}]},
    ],
)
def test_damaged_tokenizers_are_one_clear_error(release, name, change):
    edit(release / name, **change)
    with pytest.raises((ValueError, OSError), match=r"tokenizer"):
        UniMuRProcessor.from_pretrained(release)


def test_a_panic_of_rust_is_an_error(release, monkeypatch):
    class PanicException(BaseException):
        pass

    def panic(*args, **kwargs):
        raise PanicException("index out of bounds")

    monkeypatch.setattr(UniMuRProcessor, "_append_readout", panic)
    with pytest.raises(ValueError, match="index out of bounds"):
        UniMuRProcessor.from_pretrained(release)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}", "template"),
        ("{{ raise_exception('no') }}", "no"),
        ("{% for m in messages %}", "template"),
        ("{{ messages[9]['content'] }}", "template"),
        ("{{ messages.__class__.__mro__ }}", "template"),
        ("{{ 1 / 0 }}", "template"),
    ],
)
def test_a_template_that_fails_is_one_clear_error(release, template, told):
    (release / TEMPLATE).write_text(template)
    with pytest.raises(ValueError, match=told):
        UniMuRProcessor.from_pretrained(release)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("heads_only", [True, False])
def test_weights_that_are_not_finite_are_refused(
    make_model, language_folder, clip_folder, tmp_path, value, heads_only
):
    model, _ = make_model()
    with torch.no_grad():
        model.heads.readout_maps[0].weight[1, 2] = value
    model.save_pretrained(tmp_path, heads_only=heads_only)
    backbones = {"language_model": str(language_folder), "clip": str(clip_folder)} if heads_only else {}
    with pytest.raises(ValueError, match="readout_maps"):
        UniMuRModel.from_pretrained(tmp_path, **backbones)


def test_weights_of_univl_dr_that_are_not_finite_are_refused(clip_folder, tmp_path):
    model = UniVLDRModel.from_backbones(str(clip_folder))
    with torch.no_grad():
        next(parameter for name, parameter in model.named_parameters() if "layer_norm" in name)[0] = float("nan")
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="layer_norm"):
        UniVLDRModel.from_pretrained(tmp_path)


def test_univl_dr_is_checked_alike(clip_folder, tmp_path):
    UniVLDRProcessor.from_backbones(str(clip_folder)).save_pretrained(tmp_path / "dr")
    assert UniVLDRProcessor.from_pretrained(tmp_path / "dr").fingerprint["vocabulary"]
    other_words(TOKENIZER)(tmp_path / "dr")
    with pytest.raises(ValueError, match=TOKENIZER):
        UniVLDRProcessor.from_pretrained(tmp_path / "dr")
    (tmp_path / "dr" / TOKENIZER).unlink()
    with pytest.raises((ValueError, OSError), match="tokenizer"):
        UniVLDRProcessor.from_pretrained(tmp_path / "dr")
