"""Run by tests in another environment: saves what was loaded with its own code, and loads that, twice.

`python save_again.py PICTURE OUTPUT RELEASE` leaves `OUTPUT/parts1`, `OUTPUT/parts2` (model and processor saved
apart), `OUTPUT/pipeline1` and `OUTPUT/pipeline2`, and fails where one of them computes something else.
"""

import sys
from pathlib import Path

import torch
from load_release import embeddings, load


def main(picture: str, output: str, release: str) -> None:
    """Two generations, on two roads."""
    expected = embeddings(*load(release), picture)
    for road in ("parts", "pipeline"):
        source = release
        for generation in (1, 2):
            model, processor, retriever = load(source)
            target = Path(output, f"{road}{generation}")
            if road == "parts":
                model.save_pretrained(target)
                processor.save_pretrained(target)
            else:
                retriever.save_pretrained(target)
            found = embeddings(*load(str(target)), picture)
            for key, value in expected.items():
                torch.testing.assert_close(found[key], value, msg=f"{target.name}: {key} differs")
            source = str(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
