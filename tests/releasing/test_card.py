"""Cards: rendered from the template, valid for the Hub without asking it, and refused where they say too little."""

import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, SpaceCard, parse_eval_result_entries

from modeling_unimur import UniMuRConfig, UniVLDRConfig
from modeling_unimur.releasing.card import Card, check_card, read_card, render_card, write_benchmark_results

CARDS = Path(__file__).parents[2] / "hub_cards"
SECTIONS = ["How to use it", "Parts", "Intended use", "Training data and licences", "Results", "Limits"]


def config(**keys) -> UniMuRConfig:
    clip = {"model_type": "clip", "projection_dim": 24}
    return UniMuRConfig(text_config={"model_type": "llama", "num_hidden_layers": 2}, clip_config=clip, **keys)


NAMED = {
    "heads_only": True,
    "text_base_model": "acme/lm",
    "text_base_revision": "a1" * 20,
    "clip_base_model": "acme/clip",
    "clip_base_revision": "b2" * 20,
}


def filled(tmp_path) -> Path:
    """The template, filled in by its shape."""
    content = yaml.safe_load((CARDS / "template" / "card.yaml").read_text(encoding="utf-8"))
    content["results"][0]["value"] = 12.5
    text = yaml.safe_dump(content).replace("FILL IN", "filled in")
    path = tmp_path / "card.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_template_is_refused_until_it_is_filled(tmp_path):
    with pytest.raises(ValueError, match="title is"):
        read_card(CARDS / "template" / "card.yaml")
    assert read_card(filled(tmp_path)).results[0]["value"] == 12.5


def test_a_rendered_card_says_everything(tmp_path):
    text = render_card(read_card(filled(tmp_path)), config(**NAMED), 887_000, "acme/unimur")
    assert re.findall(r"^## (.*)$", text, flags=re.MULTILINE) == SECTIONS
    card = ModelCard(text, ignore_metadata_errors=False)
    assert card.data.base_model == ["acme/lm", "acme/clip"]
    metadata = card.data.to_dict()
    assert (metadata["library_name"], metadata["license"]) == ("transformers", "filled in")
    (result,) = card.data.eval_results
    assert (result.metric_name, result.metric_value) == ("recall@1", 12.5)
    for use in ('pipeline("multimodal-retrieval", model="acme/unimur"', 'AutoModel.from_pretrained("acme/unimur"',
                'SentenceTransformer("acme/unimur", trust_remote_code=True)'):  # fmt: skip
        assert use in text
    assert "887,000 parameters" in text
    assert f"[acme/lm](https://huggingface.co/acme/lm) at `{'a1' * 20}`" in text
    assert "\n\n\n" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)
    assert "| language model |" in text
    for program in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        compile(program, "card", "exec")


def test_heads_that_name_no_backbone_are_loaded_with_them():
    text = render_card(Card(title="t", licence="mit", notes=["Left out: x"]), config(heads_only=True), 10)
    assert 'trust_remote_code=True, language_model="<folder>", clip="<folder>")' in text
    assert 'model_kwargs={"language_model": "<folder>", "clip": "<folder>"}' in text
    assert "base_model" not in text
    assert "- Left out: x" in text
    assert "Nothing was measured" in text


def test_the_encoder_of_ready_embeddings_is_named():
    text = {"text_config": {"model_type": "llama", "num_hidden_layers": 2}, "projection_dim": 24}
    named = {**NAMED, "clip_base_model": None, "query_anchor": "encoder", "anchor_base_model": "acme/encoder"}
    card = render_card(Card(title="t", licence="mit"), UniMuRConfig(**text, **named), 10)
    assert ModelCard(card).data.base_model == ["acme/lm", "acme/encoder"]
    assert "candidates are ready embeddings of [acme/encoder]" in card
    assert "sentence-transformers" in card
    assert "anchor of the query" in card


def test_a_full_release_is_no_adapter():
    text = render_card(Card(title="t", licence="mit"), config(), 10)
    assert "base_model_relation" not in text
    assert "Everything that it needs is in this folder" in text


def test_a_card_of_univl_dr_names_its_one_part():
    text = render_card(Card(title="t", licence="mit"), UniVLDRConfig(clip_config={"model_type": "clip"}), 1_500)
    assert "| dual encoder | clip, in this folder | yes, 1,500 parameters |" in text
    assert "language model" not in text.split("## Parts")[1]
    assert '{"image": Image.open("cat.png"), "text": "Tom, our cat"}' in text
    assert "univl-dr" in ModelCard(text).data.tags


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("licence: filled in", "", "lacks licence"),
        ("title:", "titel:", "titel"),
        ("value: 12.5", "value: high", "value of"),
        ("value: 12.5", "value: .nan", "finite number"),
        ("metric: recall@1", "", "task, dataset"),
        ("language: en", "language: [en", "YAML"),
    ],
)
def test_a_card_that_says_too_little(tmp_path, old, new, told):
    path = filled(tmp_path)
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=told):
        read_card(path)


def test_a_missing_card_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        read_card(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("# no metadata", "lacks license"),
        ("---\nlicense: mit\n---\n# x", "lacks library_name"),
        ("---\nlicense: [mit\n---\n# x", "cannot be read"),
        (
            "---\nlicense: mit\nlibrary_name: t\npipeline_tag: other\nmodel-index:\n- results: []\n---\n",
            "cannot be read",
        ),
    ],
)
def test_metadata_that_the_hub_refuses(text, told):
    with pytest.raises(ValueError, match=told):
        check_card(text)


MODELS = sorted(path.parent.name for path in CARDS.glob("*/results.json"))


def test_the_spaces_card_is_valid():
    data = SpaceCard((CARDS / "space" / "README.md").read_text(encoding="utf-8")).data
    assert (data.sdk, data.license) == ("gradio", "apache-2.0")
    assert (CARDS / "space" / data.app_file).is_file()
    assert len(data.short_description) <= 60  # the Hub's limit


@pytest.mark.parametrize("name", MODELS)
def test_committed_cards_are_valid(name):
    text = (CARDS / name / "README.md").read_text(encoding="utf-8")
    check_card(text)
    assert len(ModelCard(text, ignore_metadata_errors=False).data.eval_results) >= 3


def test_what_a_person_writes_cannot_break_the_page(tmp_path):
    content = yaml.safe_load(filled(tmp_path).read_text(encoding="utf-8"))
    row = content["training_data"][0]
    row["notes"] = "drawn | by\n\n## Results\nhand <script>alert(1)</script>"
    content |= {"limits": ["knows\n---\nnothing", "see <https://example.com>"], "notes": ["<img src=x onerror=y>"]}
    content |= {"citation": "@a{b}\n```\n<script>", "summary": "Reads <b>all</b>.", "title": "A\nB"}
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    text = render_card(read_card(tmp_path / "card.yaml"), config(**NAMED), 887_000, "acme/unimur")
    page = text.split("\n---\n", 1)[1]
    shown, citation = page.split("## Citation")
    assert not re.search(r"<(?!https?://)", re.sub(r"```.*?```", "", shown, flags=re.DOTALL))
    assert r"drawn \| by ## Results hand &lt;script>" in shown
    assert "- knows --- nothing\n" in shown
    assert "see <https://example.com>" in shown
    assert citation.count("```") == 2
    assert re.findall(r"^## Results$", shown, flags=re.MULTILINE) == ["## Results"]


def test_results_on_benchmarks_of_the_hub_are_written_for_their_leaderboards(tmp_path):
    row = {"task": "dialogue -> image", "dataset": "a set", "metric": "recall@1", "value": 12.5}
    benchmark = {**row, "dataset_id": "acme/bench", "task_id": "default", "notes": "zero-shot"}
    card = Card("A model", "mit", results=[row, benchmark, {**benchmark, "task_id": "other", "value": 3}])
    (path,) = write_benchmark_results(card, tmp_path)
    assert path.relative_to(tmp_path).as_posix() == ".eval_results/acme-bench.yaml"
    found = parse_eval_result_entries(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert [(one.dataset_id, one.task_id, one.value, one.notes) for one in found] == [
        ("acme/bench", "default", 12.5, "zero-shot"), ("acme/bench", "other", 3, "zero-shot"),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="task_id"):
        Card("A model", "mit", results=[{**row, "dataset_id": "acme/bench"}])
