"""Sources that other packages bring."""

import importlib
import sys

import pytest

from modeling_unimur.data import registry
from modeling_unimur.data.registry import find_loader, is_address, load_function, load_retrieval_set, names_a_set
from modeling_unimur.data.retrieval_set import RetrievalSet
from modeling_unimur.training.context_rows import TextContext, load_texts

TABLES = [(table, name) for table in (registry.IMAGES, registry.TEXTS, registry.SETS) for name in table]


@pytest.mark.parametrize(("table", "name"), TABLES, ids=[name for _, name in TABLES])
def test_every_name_leads_to_a_function(table, name):
    module, _, function = table[name].partition(":")
    assert find_loader(name, table) is getattr(importlib.import_module(module), function)


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_sources.py").write_text(
        "from modeling_unimur.data.retrieval_set import RetrievalSet\n"
        "number = 1\n"
        "def songs():\n"
        "    row = {'doc_id': 'a', 'kind': 'text', 'text': 'la la', 'image': ''}\n"
        "    return RetrievalSet.from_rows({'test': [{'query_id': 'q', 'text': 'la'}]}, [row],\n"
        "        {'test': [{'query_id': 'q', 'doc_id': 'a', 'score': 1}]})\n"
        "def riddles():\n"
        "    turns = [{'role': 'user', 'content': 'it purrs'}]\n"
        "    return {'train': [{'turns': turns, 'target_text': 'cat', 'target_picture': 'a/1'}]}\n"
    )
    (tmp_path / "needs_more.py").write_text("import a_library_that_is_not_here\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "own_sources"
    for name in ("own_sources", "needs_more"):
        sys.modules.pop(name, None)


def test_a_retrieval_set_by_its_address(own_module):
    found = load_retrieval_set(f"{own_module}:songs")
    assert isinstance(found, RetrievalSet)
    assert found.corpus["text"][:] == ["la la"]
    with pytest.raises(ValueError, match="captions"):
        load_retrieval_set(f"{own_module}:songs", captions="released")


def test_texts_by_their_address(own_module):
    address = f"{own_module}:riddles"
    assert load_texts([address]) == {address: {"train": [TextContext(["it purrs"], "cat", "a/1")]}}


@pytest.mark.parametrize(
    ("address", "error", "token"),
    [
        ("own_sources:number", ValueError, "no function number"),
        ("own_sources:absent", ValueError, "no function absent"),
        ("own_sources.absent:songs", ValueError, "own_sources.absent"),
        ("not_installed_here.a:b", ImportError, "install not_installed_here"),
        ("needs_more:songs", ModuleNotFoundError, "a_library_that_is_not_here"),
    ],
)
def test_bad_addresses(own_module, address, error, token):
    with pytest.raises(error, match=token):
        load_function(address)


def test_without_the_minis_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "unimur_mini", None)
    for name in [name for name in sys.modules if name.startswith("unimur_mini.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match="pip install unimur"):
        load_retrieval_set("gimp_manual")


@pytest.mark.parametrize(
    ("source", "is_one"),
    [
        ("a.b:c", True),
        ("a:c", True),
        ("folder=a:b", False),
        ("localhost:19530", False),
        ("C:\\pictures", False),
        ("http://a:b", False),
        ("shards-{0..3}.tar", False),
    ],
)
def test_what_an_address_is(source, is_one):
    assert is_address(source) is is_one
    if is_one:
        assert names_a_set(source)


def test_a_set_is_found_by_its_former_name(monkeypatch):
    monkeypatch.setattr(registry, "load_function", lambda address: lambda: address)
    assert names_a_set("picture_dictionary")
    assert load_retrieval_set("picture_dictionary") == load_retrieval_set("image_dictionary")
    assert "picture_dictionary" not in registry.SOURCES


def test_a_file_of_that_name_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:b").write_text("line\n")
    assert not names_a_set("a:b")


def test_other_names_have_no_loader():
    assert find_loader("nobody", registry.SETS) is None
