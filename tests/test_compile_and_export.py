"""torch.compile and torch.export of a model's parts, and attention chosen by part."""

import pytest
import torch

from modeling_unimur import UniMuRModel

METHODS = {
    "queries": "get_multimodal_features",
    "texts": "get_text_features",
    "images": "get_image_features",
}


def batches(processor, pictures, kind: str) -> list:
    """Inputs of several sizes."""
    shown = [{"role": "user", "content": [{"type": "text", "text": "look "}, {"type": "image", "image": pictures[0]}]}]
    make = {
        "queries": lambda: [
            processor.process_queries(given) for given in (["hi", "she plays guitar"], ["no"], [shown])
        ],
        "texts": lambda: [processor.process_texts(given) for given in (["hi", "she plays guitar"], ["no"])],
        "images": lambda: [processor.process_images(given) for given in (pictures[:2], pictures)],
    }
    return make[kind]()


class Exported(torch.nn.Module):
    """One method of a model, from tensors to a tensor."""

    def __init__(self, model, method: str):
        super().__init__()
        self.model, self.method = model, method

    def forward(self, *inputs):
        return getattr(self.model, self.method)(*inputs).pooler_output


class Readout(torch.nn.Module):
    """Hidden states at [RET] `(layers, batch, ret tokens, width)` to unified embeddings."""

    def __init__(self, heads):
        super().__init__()
        self.heads = heads

    def forward(self, states):
        return self.heads.unify(list(states.unbind(0)))


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("kind", "fullgraph"), [("queries", False), ("anchored queries", False), ("texts", True), ("images", True)]
)
def test_compiled_methods_compute_the_same(pair, make_model, pictures, backend, kind, fullgraph):
    torch.compiler.reset()
    if kind.startswith("anchored"):
        pair, kind = make_model(query_anchor="encoder", query_correction="mlp", query_gate=True), "queries"
    method = getattr(pair[0].eval(), METHODS[kind])
    compiled = torch.compile(method, backend=backend, dynamic=True, fullgraph=fullgraph)
    with torch.no_grad():
        for batch in batches(pair[1], pictures, kind):
            found, expected = compiled(**batch).pooler_output, method(**batch).pooler_output
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    torch.compiler.reset()


@pytest.mark.parametrize("kind", ["texts", "images"])
def test_the_exported_dual_encoder_computes_the_same_at_other_sizes(pair, pictures, kind):
    some, other = (tuple(batch.values()) for batch in batches(pair[1], pictures, kind)[:2])
    batch = torch.export.Dim("batch", min=1, max=64)
    longest = pair[0].clip.config.text_config.max_position_embeddings
    tokens = torch.export.Dim("tokens", min=2, max=longest)
    shape = {0: batch, 1: tokens} if kind == "texts" else {0: batch}
    module = Exported(pair[0].eval(), METHODS[kind])
    with torch.no_grad():
        program = torch.export.export(module, some, dynamic_shapes=((shape,) * len(some),))
        for inputs in (some, other):
            torch.testing.assert_close(program.module()(*inputs), module(*inputs), atol=1e-5, rtol=0)


def test_the_exported_readout_computes_the_same(make_model):
    model, _ = make_model(processor={"num_ret_tokens": 2}, ret_layers=[1, -1])
    readout, width = Readout(model.heads), model.config.language_width
    batch = torch.export.Dim("batch", min=1, max=64)
    with torch.no_grad():
        program = torch.export.export(readout, (torch.randn(2, 3, 2, width),), dynamic_shapes=({1: batch},))
        states = torch.randn(2, 5, 2, width)
        torch.testing.assert_close(program.module()(states), readout(states), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ("eager", ("eager", "eager")),
        ({"text_config": "eager", "clip_config": "sdpa"}, ("eager", "sdpa")),
        ({"clip_config": "eager"}, ("sdpa", "eager")),
    ],
)
@pytest.mark.parametrize("when", ["loading", "later"])
def test_attention_is_chosen_by_part(pair, pictures, tmp_path, asked, wanted, when):
    pair[0].save_pretrained(tmp_path)
    if when == "loading":
        model = UniMuRModel.from_pretrained(tmp_path, attn_implementation=asked)
    else:
        model = UniMuRModel.from_pretrained(tmp_path)
        model.set_attn_implementation(asked)
    parts = (model.language_model.config, model.clip.config)
    assert tuple(part._attn_implementation for part in parts) == wanted
    batch = batches(pair[1], pictures, "queries")[2]
    with torch.no_grad():
        found, expected = (one.get_multimodal_features(**batch).pooler_output for one in (model, pair[0]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
