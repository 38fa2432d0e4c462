"""A pipeline with a small index, as users of other frameworks wrap it."""

import pytest

from modeling_unimur import MultimodalRetrievalPipeline

TEXTS = ["she plays guitar", "no, but the birthday cake was good", "what a beautiful morning it is"]


@pytest.fixture(scope="package")
def filled(pair, pictures):
    found = MultimodalRetrievalPipeline(model=pair[0], processor=pair[1])
    found.add(images=pictures, image_payloads=[{"caption": "a drawing"}] * len(pictures))
    found.add(texts=TEXTS, text_payloads=[{"n": n} for n in range(3)])
    return found
