"""Results for the tests of the demo, and the fixtures of the command line."""

import pytest

from modeling_unimur.cli.gallery import RankedImage, RankedReply
from tests.cli.conftest import empty_cache, image_folder, make_picture, release_folder
from unimur_mini.demo.results import AnsweredDialogue, DemoResults, Turn

__all__ = ["empty_cache", "image_folder", "make_picture", "release_folder"]


@pytest.fixture
def make_results(make_picture):
    """A function that builds results with one dialogue out of a title and a user's text."""

    def make(title: str = "A dialogue", text: str = "hello", dialogues: int = 1) -> DemoResults:
        context = make_picture("context.png", "#0000ff")
        ranked = [
            RankedImage(make_picture("red.png", "#ff0000", "a red thing"), 0.5),
            RankedImage(make_picture("green.png", "#00ff00", "a green thing"), 0.25),
            RankedImage(make_picture("grey.png", "#808080", "a grey thing"), -0.1),
            RankedImage(make_picture("cyan.png", "#00ffff", "a cyan thing"), -0.2),
        ]
        dialogue = AnsweredDialogue(
            title,
            (Turn("user", ("first words", context)), Turn("assistant", ("go on",)), Turn("user", (text,))),
            (RankedReply("the best reply", 0.8), RankedReply("the second reply", 0.4)),
            tuple(ranked),
        )
        return DemoResults(
            model="tiny",
            dialogues=(dialogue,) * dialogues,
            gallery_size=1999,
            pool_size=265,
            seed=7,
            versions={"torch": "1.2.3"},
            source_counts={("openmoji", "CC-BY-SA-4.0"): 1999},
        )

    return make
