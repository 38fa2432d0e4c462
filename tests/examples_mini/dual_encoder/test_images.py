"""Which pictures a dual encoder is trained on, and which of them count as one."""

import pytest
import torch
from torch.nn import functional as F

from unimur_mini.dual_encoder.images import (
    collection_titles,
    file_name_words,
    joined,
    near_twins,
    plain_title,
    shared_groups,
    training_images,
)


@pytest.fixture
def row(tmp_path):
    def make(name: str, title: str, content: bytes = b"", **columns):
        path = tmp_path / f"{name.replace('/', '-')}.png"
        path.write_bytes(content or name.encode())
        plain = {"description": "", "tags": [], "author": "", "source": "openclipart"}
        return {"image_id": f"openclipart/{name}", "image": str(path), "title": title, **plain, **columns}

    return make


def test_file_names_without_numbers_and_authors():
    assert file_name_words("food/half_egg_jean-victor_bal_01", "Jean-Victor Balin") == "half egg"
    assert file_name_words("office/cup_rollandin_francesco_", "Rollandin Francesco") == "cup"
    assert file_name_words("signs/MatieresCorrosives") == "matieres corrosives"
    assert file_name_words("icons/70a005") == ""
    assert file_name_words("people/nicu", "Nicu") == "nicu"
    assert plain_title("pill-button_PurpleRain2") == "pill button purple rain"


def test_titles_of_collections_give_way_to_file_names(row, monkeypatch):
    rows = [row(f"icons/{name}", "Blue Theme") for name in ("trash", "home", "printer", "mail", "key")]
    rows += [row(f"stars/star_{number}", "star") for number in range(20)]
    assert collection_titles(rows) == {"Blue Theme"}
    monkeypatch.setattr("unimur_mini.dual_encoder.images.load_openclipart", lambda deduplicate: rows)
    kept = training_images(rows[:1], held_out=[row("tools/printer_01", "Printer")])
    assert [picture.title for picture in kept] == ["trash", "home", "mail", "key", *["star"] * 12]


def test_nothing_held_out_is_trained_on(row, monkeypatch):
    held_out = [row("cats/cat", "Black cat", content=b"same")]
    rows = [
        row("cats/cat_2", "black cats"),
        row("dogs/dog", "dog", content=b"same"),
        row("dogs/poodle", "Poodle", tags=["dog"], description="A small dog."),
        row("dogs/poodle_copy", "Poodle", content=b"dogs/poodle"),
        row("empty/12", ""),
    ]
    monkeypatch.setattr("unimur_mini.dual_encoder.images.load_openclipart", lambda deduplicate: [*held_out, *rows])
    kept = training_images(rows, held_out)
    assert [picture.texts for picture in kept] == [["Poodle", "A small dog.", "Poodle, dog", "poodle"]]


def test_near_twins_look_alike_and_are_called_alike():
    torch.manual_seed(0)
    pictures, titles = torch.randn(6, 512), F.normalize(torch.randn(6, 64), dim=-1)
    near = pictures + 0.3 * torch.randn(6, 512)  # cosine about 0.96
    assert near_twins(pictures, titles, near, titles) == [(number, number) for number in range(6)]
    assert near_twins(pictures, titles, near, titles.roll(1, 0)) == []
    assert near_twins(pictures, titles, pictures, titles.roll(1, 0)) == [(number, number) for number in range(6)]


def test_groups_by_title_and_by_meaning():
    features = torch.eye(5)
    features[4] = features[2] + 0.1 * features[3]
    groups = shared_groups(["Cat", "cats", "big dog", "horse", "large dog"], features).tolist()
    assert groups[0] == groups[1]
    assert groups[2] == groups[4]
    assert len(set(groups)) == 3
    assert joined([0, 1, 2, 3], [(0, 1), (3, 1)]).unique().numel() == 2
