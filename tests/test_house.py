"""The order of the house: which file may import which, what stays private, and that nothing is written twice.

The lists hold what is not mended yet. A list only gets shorter: a new violation fails, and so does an entry that is
no longer needed. Names are dotted, so that a rename of a module reaches them.
"""

from __future__ import annotations

import pytest

from tests import house

# Arrows go from a higher floor to a lower one, or stay on a floor. The files at the top of the package are the ground.
GROUND = 0
FLOORS = {
    "cli": 3,
    "training": 2,
    "evaluation": 2,
    "serving": 2,
    "integrations": 2,
    "releasing": 2,
    "verbalization": 2,
    "encoding": 1,
    "index": 1,
    "retrieval": 1,
    "data": 1,
}

# Circles of imports, each as its modules in alphabetical order.
KNOWN_CIRCLES: set[tuple[str, ...]] = set()
# `importer -> imported` against the arrows.
KNOWN_ARROWS: set[str] = set()
# `module: name` of private names that a module uses and another one defines.
KNOWN_PRIVATE_NAMES: set[str] = set()
# `module = module` that share ten consecutive lines of code.
KNOWN_EQUAL_PLACES: set[str] = set()

# Modules without a test file of their own, by what tests them, or by the reason why nothing does.
TESTED_THROUGH = {
    "tests/benchmarks/test_quick_runs.py": ("benchmarks.fromage_step",),
    "they need runs of the minis' recipes, or hours": (
        "benchmarks.photographs", "benchmarks.quality",
    ),
    "tests/conversion/test_convert_fromage.py": ("conversion.heads_plan",),
    "tests/test_unimur_mini.py": ("conversion.release_version",),
    "tests/evaluation/test_mteb_tasks.py": (
        "examples.mteb.dialogue_tasks", "examples.mteb.own_tasks", "examples.mteb.releases",
    ),
    "tests/space/test_page.py": ("hub_cards.space.app",),
    "tests/test_pipeline.py": (
        "modeling_unimur.auto_classes",
    ),
    "tests/test_query_anchor.py": ("modeling_unimur.encoding.text_encoders",),
    "tests/test_saving_unimur.py": ("modeling_unimur.loading",),
    "tests/cli/test_chat_session.py": ("modeling_unimur.cli.terminal",),
    "tests/serving/test_serve.py": ("modeling_unimur.serving.app", "modeling_unimur.serving.connections"),
    "tests/serving/test_openai_requests.py": ("modeling_unimur.serving.openapi",),
    "tests/data/test_webqa.py": ("modeling_unimur.data.webqa.layouts",),
    "tests/encoding/test_build.py": ("modeling_unimur.encoding.chunks", "modeling_unimur.encoding.indexing"),
    "tests/encoding/test_sources_kept.py": ("modeling_unimur.encoding.manifest",),
    "tests/encoding/test_ray.py": ("modeling_unimur.encoding.ray_engine",),
    "tests/evaluation/test_tasks.py": (
        "modeling_unimur.evaluation.tasks.captions", "modeling_unimur.evaluation.tasks.photo_sharing",
        "modeling_unimur.evaluation.tasks.stories",
    ),
    "tests/releasing/test_release.py": ("modeling_unimur.releasing.fresh_load",),
    "tests/releasing/test_installed.py": ("modeling_unimur.releasing.hub_cards",),
    "tests/releasing/test_sentence_transformers.py": ("modeling_unimur.releasing.sentence_transformers_unimur",),
    "tests/training/test_two_ranks.py": ("modeling_unimur.training.ranks",),
    "tests/examples_mini/demo/test_command.py": ("unimur_mini.demo.default_gallery",),
    "tests/examples_mini/test_dialogues.py": (
        "unimur_mini.dialogues.forms", "unimur_mini.dialogues.surface",
        "unimur_mini.dialogues.talk",
    ),
    "tests/examples_mini/dual_encoder/test_train.py": ("unimur_mini.dual_encoder.rows",),
    "tests/examples_mini/test_manuals.py": ("unimur_mini.manuals.splits",),
}  # fmt: skip


def assert_only(found: set, known: set, remedy: str) -> None:
    assert not found - known, f"{remedy}: {sorted(found - known)}"
    assert not known - found, f"no longer needed in the list of this test: {sorted(known - found)}"


def floor(module: str) -> int:
    parts = module.split(".")
    is_room = len(parts) > 1 and (house.ROOT / house.PACKAGE / parts[1]).is_dir()
    return FLOORS[parts[1]] if is_room else GROUND


def test_every_room_has_a_floor():
    rooms = {path.parent.name for path in (house.ROOT / house.PACKAGE).glob("*/__init__.py")}
    assert rooms - {"__pycache__"} <= FLOORS.keys()


def test_no_circle_of_imports():
    found = {tuple(circle) for circle in house.circles(house.arrows())}
    assert_only(found, KNOWN_CIRCLES, "modules that import each other, inside functions too")


def test_no_circle_of_rooms():
    rooms: dict[str, set[str]] = {}
    for importer, targets in house.arrows().items():
        if floor(importer) > GROUND:
            inside = {target.split(".")[1] for target in targets if floor(target) > GROUND}
            rooms.setdefault(importer.split(".")[1], set()).update(inside)
    assert not house.circles(rooms)


def test_arrows_run_one_way():
    found = {
        f"{importer} -> {target}"
        for importer, targets in house.arrows().items()
        for target in targets
        if floor(importer) < floor(target)
    }
    assert_only(found, KNOWN_ARROWS, "a lower floor imports a higher one")


def test_private_names_stay_in_their_file():
    found = house.private_imports() | house.private_uses()
    assert_only(found, KNOWN_PRIVATE_NAMES, "private names of other files (make them public, or move the caller)")


def test_no_ten_equal_lines():
    found = house.equal_places(10, "modeling_unimur", "conversion")
    new = {pair: places for pair, places in found.items() if pair not in KNOWN_EQUAL_PLACES}
    assert_only(set(found), KNOWN_EQUAL_PLACES, f"the same code in two places ({new})")


def test_errors_are_matched_by_a_key_token():
    long = [f"{place}: {text!r}" for place, text in house.matched_texts("tests") if len(text.split()) > 5]
    assert not long, f"match the error's type and a key token, not its message: {long}"


def test_every_module_has_its_test_file():
    found = {name for name, path in house.modules().items() if path.name != "__init__.py"} - house.tested_modules()
    listed = {module for modules in TESTED_THROUGH.values() for module in modules}
    assert_only(found, listed, "modules that no test file imports or is named after (test_NAME.py)")
    files = [reason for reason in TESTED_THROUGH if reason.endswith(".py")]
    assert not [name for name in files if not (house.ROOT / name).is_file()]


def test_the_package_knows_nothing_of_what_is_around_it():
    around = {"conversion", "benchmarks", "examples", "hub_cards", "tests", house.MINI}
    found = {f"{name} -> {module}" for name, path in house.modules().items() if name.split(".")[0] == house.PACKAGE
             for module, _, _ in house.imports(path) if module.split(".")[0] in around}  # fmt: skip
    assert not found


# -- the checks themselves ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}, [["a", "b", "c"]]),
        ({"a": {"b"}, "b": {"a"}, "c": {"d"}, "d": {"c"}}, [["a", "b"], ["c", "d"]]),
    ],
)
def test_circles_are_found(graph, expected):
    assert house.circles(graph) == expected


@pytest.fixture
def small_house(tmp_path, monkeypatch):
    """Two modules in place of the repository."""
    folder = tmp_path / house.PACKAGE
    folder.mkdir()
    body = "\n".join(f"    total += {number}" for number in range(10))
    (folder / "a.py").write_text(
        "from .b import _hidden\n\n\ndef walk(other):\n    total = 0\n" + body + "\n    return other._inner\n"
    )
    (folder / "b.py").write_text(
        '"""b"""\n\n_hidden = 1\n\n\nclass B:\n    def __init__(self):\n        import modeling_unimur.a\n\n'
        "        self._inner = 2\n\n\ndef other():\n    total = 1\n\n    # twice\n" + body + "\n    return total\n"
    )
    monkeypatch.setattr(house, "ROOT", tmp_path)
    for cached in (house.tree, house.modules, house.imports, house.arrows):
        cached.cache_clear()
    yield
    for cached in (house.tree, house.modules, house.imports, house.arrows):
        cached.cache_clear()


def test_violations_are_found(small_house):
    assert house.circles(house.arrows()) == [["modeling_unimur.a", "modeling_unimur.b"]]
    assert house.private_imports() == {"modeling_unimur.a: modeling_unimur.b._hidden"}
    assert house.private_uses() == {"modeling_unimur.a: _inner"}
    assert set(house.equal_places(10, house.PACKAGE)) == {"modeling_unimur.a = modeling_unimur.b"}
