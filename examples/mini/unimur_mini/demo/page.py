"""The HTML page of the demo: conversations as chat bubbles, with ranked replies and images beside them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from modeling_unimur.cli.gallery import bar_fractions

from .results import DemoResults, credit

THUMBNAIL_FOLDER = "thumbnails"
# Pixels of the longer side, which is twice the largest size on the page, for high-resolution screens.
THUMBNAIL_SIZE = 360
_HERE = Path(__file__).parent
_THUMBNAIL_NAME = re.compile(r"[0-9a-f]{16}\.jpg")


def render_page(results: DemoResults, links: Mapping[Path, str]) -> str:
    """Returns the HTML page. `links` maps the path of each shown image to a relative address or a data URI."""

    def with_bars(ranked: Sequence) -> Iterator[tuple]:
        return zip(ranked, bar_fractions([item.score for item in ranked]), strict=True)

    links = {image.path: links[image.path] for image in results.shown_images()}
    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, keep_trailing_newline=True)
    style = Markup((_HERE / "page.css").read_text(encoding="utf-8"))
    return environment.get_template("page.html.jinja").render(
        results=results, links=links, style=style, with_bars=with_bars, credit=credit
    )


def write_thumbnails(results: DemoResults, folder: Path) -> dict[Path, str]:
    """Writes a small JPEG of each shown image to `folder`/thumbnails, and returns the relative links by path."""
    from PIL import Image

    from modeling_unimur.image_loading import load_image

    target = folder / THUMBNAIL_FOLDER
    target.mkdir(parents=True, exist_ok=True)
    links = {}
    for image in results.shown_images():
        thumbnail = load_image(image.path)
        thumbnail.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.LANCZOS)
        # Names are hashes of the content, because file names may hold any characters and occur in several folders.
        name = hashlib.sha256(thumbnail.tobytes() + repr(thumbnail.size).encode()).hexdigest()[:16] + ".jpg"
        thumbnail.save(target / name, quality=90, subsampling=0)
        links[image.path] = f"{THUMBNAIL_FOLDER}/{name}"
    # Delete the thumbnails of earlier runs that this page does not show, but no other files.
    for old in target.iterdir():
        if _THUMBNAIL_NAME.fullmatch(old.name) and f"{THUMBNAIL_FOLDER}/{old.name}" not in links.values():
            old.unlink()
    return links


def write_page(results: DemoResults, folder: Path) -> Path:
    """Writes index.html and its thumbnails into `folder`, and returns the path of the page."""
    links = write_thumbnails(results, folder)
    page = folder / "index.html"
    page.write_text(render_page(results, links), encoding="utf-8")
    return page
