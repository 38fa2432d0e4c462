"""Several input vectors of an image from its patches (`max_image_tokens`): shapes, what each reads, every path."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from modeling_unimur import UniMuRModel, UniMuRProcessor
from modeling_unimur.modeling_unimur import pool_patches
from modeling_unimur.prefix_cache import ChatCache
from modeling_unimur.training.collators import caption_inputs
from modeling_unimur.training.recipes import load_recipe
from modeling_unimur.training.train_unimur import train
from tests import tiny
from tests.test_chat_cache import chat, plain
from tests.test_modeling_unimur import loss_and_gradients
from tests.training import folder_run

# Of towers with 16 patches each.
TOWERS = {
    "clip": tiny.clip,
    "siglip": lambda folder: tiny.siglip(folder, 1),
    "siglip2": lambda folder: tiny.siglip(folder, 2),
}


@pytest.fixture(scope="module", params=TOWERS)
def patched(request, make_model, tmp_path_factory):
    folder = TOWERS[request.param](tmp_path_factory.mktemp(request.param))
    torch.manual_seed(0)
    return make_model(clip=folder, processor={"max_image_tokens": 6})


@pytest.mark.parametrize(("most", "count"), [(1, 1), (3, 1), (4, 4), (15, 9), (16, 16), (500, 16)])
def test_the_processor_writes_as_many_places(clip_folder, language_folder, pictures, most, count):
    processor = UniMuRProcessor.from_backbones(str(language_folder), str(clip_folder), max_image_tokens=most)
    model = UniMuRModel.from_backbones(str(language_folder), str(clip_folder), processor=processor)
    assert model.config.num_visual_tokens == processor.num_visual_tokens == count
    batch = processor.process_queries([pictures[0], chat(3, pictures), "no"])
    places = (batch["input_ids"] == processor.image_token_id).sum(dim=1)
    assert places.tolist() == [count, count, 0]
    width = model.config.language_width
    assert model.heads.visual_map.weight.shape == (width, model.config.visual_width)  # one map, whatever the count
    features = model.get_visual_features(batch["pixel_values"])
    assert features.shape == (2, 1 + count, model.config.visual_width)
    assert model.heads.visual_inputs(features).shape == (2 * count, width)


def test_off_is_what_it_was(make_model, pictures):
    plain_model, processor = make_model()
    assert plain_model.config.max_image_tokens is None
    features = plain_model.get_visual_features(**processor.process_images(pictures))
    assert features.shape == (4, plain_model.config.visual_width)
    torch.testing.assert_close(features, plain_model.encode_images(**processor.process_images(pictures))[0])


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_each_vector_is_the_mean_of_its_square(kind, tmp_path, make_model, pictures):
    model, processor = make_model(clip=TOWERS[kind](tmp_path), processor={"max_image_tokens": 4})
    pixels = processor.process_images(pictures)["pixel_values"]
    with torch.no_grad():
        found = model.get_visual_features(pixels)
        out = model.clip.vision_model(pixels)
    patches = out.last_hidden_state[:, -16:].unflatten(1, (4, 4))
    torch.testing.assert_close(found[:, 0], out.pooler_output)
    for number, (row, column) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)]):
        expected = patches[:, row : row + 2, column : column + 2].mean(dim=(1, 2))
        torch.testing.assert_close(found[:, 1 + number], expected, atol=1e-5, rtol=1e-5)


def test_images_of_any_shape(tmp_path, make_model):
    """SigLIP 2 keeps the shape: a wide image has fewer rows of patches, and none of its padding counts."""
    model, processor = make_model(clip=tiny.siglip(tmp_path, 2), processor={"max_image_tokens": 4})
    wide, square = Image.new("RGB", (96, 24), "red"), Image.effect_noise((32, 32), 90).convert("RGB")
    inputs = processor.process_images([wide, square])
    assert inputs["spatial_shapes"].tolist()[0] != inputs["spatial_shapes"].tolist()[1]
    with torch.no_grad():
        together = model.get_visual_features(**inputs)
        for number, image in enumerate((wide, square)):
            alone = model.get_visual_features(**processor.process_images([image]))
            torch.testing.assert_close(together[number], alone[0], atol=1e-5, rtol=0)
            height, width = inputs["spatial_shapes"][number].tolist()
            out = model.clip.vision_model(
                inputs["pixel_values"], inputs["pixel_attention_mask"], inputs["spatial_shapes"]
            )
            whole = out.last_hidden_state[number, : height * width].mean(dim=0)
            one = pool_patches(model.clip, 1, **inputs)
            torch.testing.assert_close(one[number, 1], whole, atol=1e-5, rtol=0)


def test_training_batches_chats_and_words_give_the_same(patched, pictures):
    model, processor = patched
    conversations = [chat(2, pictures), pictures[1], "she plays guitar", chat(5, pictures)]
    batch = processor.process_queries(conversations)
    generator = torch.Generator().manual_seed(0)
    inputs = {**batch, "target_text_features": torch.randn(4, model.config.joint_width, generator=generator)}
    inputs |= caption_inputs(processor, ["a cat", "the lighthouse"])
    own = {name: value[:2] for name, value in processor.process_images(pictures[:2]).items()}
    inputs["caption_visual_features"] = model.get_visual_features(**own)
    with torch.no_grad():
        together, expected = model(**inputs), plain(patched, conversations)
    torch.testing.assert_close(together.multimodal_embeds, expected)
    for row, conversation in enumerate(conversations):
        torch.testing.assert_close(plain(patched, conversation)[0], expected[row], atol=1e-5, rtol=0)
    loss, gradients = loss_and_gradients(model.train(), inputs)
    model.eval()
    assert loss == pytest.approx(together.loss.item(), rel=1e-5)
    assert all(name.startswith("heads.") for name in gradients)
    assert gradients["heads.visual_map.weight"].norm() > 0
    cache = ChatCache(model, processor)
    for turns in range(2, 6):
        found = cache.embed(chat(turns, pictures))
        torch.testing.assert_close(found, plain(patched, chat(turns, pictures)), atol=1e-5, rtol=0)
    assert model.generate(**processor.process_prompt(pictures[0]), max_new_tokens=2).shape[1] <= 2


def test_where_things_are_in_an_image_is_read(make_model):
    model, processor = make_model(processor={"max_image_tokens": 4})
    with torch.no_grad():
        model.heads.visual_map.weight.mul_(30)
    left = Image.new("RGB", (32, 32), "red")
    left.paste("blue", (16, 0, 32, 32))
    inputs = processor.process_images([left, left.transpose(Image.Transpose.FLIP_LEFT_RIGHT)])
    with torch.no_grad():
        features = model.get_visual_features(**inputs)
        vectors = model.heads.visual_inputs(features).unflatten(0, (2, 4))
    assert (vectors[0] - vectors[1]).norm() > 0.05 * vectors[0].norm()
    whole = features[:, 1:].mean(dim=1)
    assert (features[0, 1] - features[0, 2]).norm() > (whole[0] - whole[1]).norm()  # halves differ more than images


@pytest.mark.parametrize("heads_only", [True, False])
def test_it_comes_back_from_a_file(patched, pictures, tmp_path, heads_only):
    model, processor = patched
    conversations = [chat(3, pictures), "no"]
    model.save_pretrained(tmp_path, heads_only=heads_only)
    processor.save_pretrained(tmp_path)
    parts = {"language_model": model.language_model, "clip": model.clip} if heads_only else {}
    pair = UniMuRModel.from_pretrained(tmp_path, **parts), UniMuRProcessor.from_pretrained(tmp_path)
    assert (pair[0].config.max_image_tokens, pair[1].max_image_tokens, pair[1].num_visual_tokens) == (6, 6, 4)
    torch.testing.assert_close(plain(pair, conversations), plain(patched, conversations), atol=1e-6, rtol=0)


def test_the_anchor_reads_the_pooled_image(make_model, pictures):
    model, processor = make_model(processor={"max_image_tokens": 4, "query_anchor": "encoder"})
    with torch.no_grad():
        model.heads.query_anchor.readout_weight.zero_()
        query = model.get_multimodal_features(**processor.process_queries(pictures[0])).pooler_output
        image = model.get_image_features(**processor.process_images(pictures[:1])).pooler_output
    torch.testing.assert_close(query, image, atol=1e-5, rtol=0)


def test_what_cannot_be_is_refused(make_model, tmp_path, language_folder, clip_folder, pictures):
    with pytest.raises(ValueError, match="open_clip"):
        make_model(clip=tiny.open_clip_folder(tmp_path / "open"), processor={"max_image_tokens": 4})
    for wrong in ({"processor": {"max_image_tokens": 0}}, {"clip": None, "processor": {"max_image_tokens": 4}}):
        with pytest.raises(ValueError, match="max_image_tokens"):
            make_model(**wrong)
    with pytest.raises(ValueError, match="num_visual_tokens"):
        make_model(visual_feature="projected", processor={"max_image_tokens": 4})
    model, processor = make_model(processor={"max_image_tokens": 4})
    batch = processor.process_rendered([processor.image_token])
    with pytest.raises(ValueError, match="visual_features"):
        model.get_multimodal_features(**batch, visual_features=torch.randn(1, model.config.visual_width))
    images = folder_run.write_pictures(tmp_path / "images")
    path = folder_run.write_recipe(tmp_path / "recipe.yaml", images, language_folder, clip_folder)
    recipe = load_recipe(path, ["model.processor={max_image_tokens: 4}", f"training.output_dir={tmp_path / 'run'}"])
    with pytest.raises(ValueError, match="max_image_tokens"):
        train(recipe)
