"""Flips and crops of pictures with cached features."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from transformers import CLIPImageProcessor

from modeling_unimur.data.row_store import key_of
from unimur_mini.dual_encoder.views import FrozenImageViews, ViewOptions, draw_view, is_flipped

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def paths(tmp_path):
    draw = np.random.default_rng(0)
    names = [tmp_path / f"{number}.png" for number in range(5)]
    for name in names:
        Image.fromarray(draw.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(name)
    return [str(name) for name in names]


class Tower(torch.nn.Module):
    """Pixels as they come, and how often it ran."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.pictures = 0

    def forward(self, pixels):
        self.pictures += len(pixels)
        return (pixels * self.weight).flatten(1)


PROCESSOR = CLIPImageProcessor(
    size={"height": 8, "width": 8},
    crop_size={"height": 8, "width": 8},
    do_center_crop=False,
    image_mean=[0.5] * 3,
    image_std=[0.5] * 3,
)


def views_of(paths, tower=None, **options):
    tower = tower or Tower()
    return FrozenImageViews(tower, tower, PROCESSOR, ViewOptions(workers=0, batch=2, **options)).features(paths)


def test_views_are_drawn_the_same_again_and_differ_from_one_another():
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 60, 3), dtype=np.uint8))
    key = key_of("a")
    assert draw_view(picture, 0, key) is picture
    assert np.array_equal(draw_view(picture, 1, key), ImageOps.mirror(picture))
    assert [is_flipped(view) for view in range(4)] == [False, True, False, True]
    for view in (2, 3):
        assert np.array_equal(draw_view(picture, view, key), draw_view(picture, view, key))
        assert draw_view(picture, view, key).size != draw_view(picture, view, key, seed=1).size
    sizes = {draw_view(picture, view, key_of(name)).size for view in (2, 3) for name in ("b", "c", "d")}
    assert len(sizes) == 6


def test_what_lies_outside_is_white():
    black = Image.new("RGB", (50, 50))
    larger = [draw_view(black, 2, key_of(str(n))) for n in range(40)]
    larger = [view for view in larger if view.width > 50 and view.height > 50]
    assert larger
    for view in larger:
        values = np.asarray(view)
        assert set(np.unique(values)) == {0, 255}
        assert (values == 0).sum() == 50 * 50 * 3  # the whole picture is in it


def test_features_are_those_of_the_views_and_are_kept(paths):
    tower = Tower()
    found = views_of(paths, tower, views=2)
    assert found.shape == (5, 2, 3 * 8 * 8)
    assert tower.pictures == 10
    picture = Image.open(paths[3])
    mirrored = PROCESSOR(ImageOps.mirror(picture), return_tensors="pt")["pixel_values"].flatten()
    torch.testing.assert_close(found[3, 0], mirrored)
    assert torch.equal(views_of(paths[::-1], tower, views=2), found.flip(0))
    assert tower.pictures == 10
    views_of(paths, tower, views=2, seed=1)
    assert tower.pictures == 20


def test_a_broken_picture_is_named(paths, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"broken\.png"):
        views_of([*paths, str(tmp_path / "broken.png")], views=1)
    assert views_of(paths, views=1).shape[0] == 5
