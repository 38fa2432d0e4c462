"""The page of the demo: conversations as chat bubbles, ranked replies and images beside them, in one folder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path

from modeling_unimur.cli.gallery import GalleryImage, RankedImage, RankedReply, bar_fractions

from .page_style import STYLE
from .results import AnsweredDialogue, DemoResults, Turn, credit

THUMBNAIL_FOLDER = "thumbnails"
# Pixels of the longer side: twice the largest size that the style shows, for dense screens.
THUMBNAIL_SIZE = 360
_THUMBNAIL_NAME = re.compile(r"[0-9a-f]{16}\.jpg")


def _image(image: GalleryImage, links: Mapping[Path, str]) -> str:
    link = escape(links[image.path], quote=True)
    return f'<img src="{link}" alt="{escape(image.title, quote=True)}" loading="lazy">'


def _bar(fraction: float, score: float) -> str:
    return (
        f'<span class="score"><span class="bar" aria-hidden="true"><i style="width:{fraction * 100:.0f}%"></i></span>'
        f'<span class="number">{score:.3f}</span></span>'
    )


def _turn(turn: Turn, links: Mapping[Path, str]) -> str:
    side = "user" if turn.role == "user" else "assistant"
    parts = []
    for part in turn.parts:
        if isinstance(part, GalleryImage):
            parts.append(_image(part, links))
        else:
            parts.append(f'<p dir="auto">{escape(part)}</p>')
    who = f'<span class="who">{escape(turn.role)}</span>'
    return f'<li class="{side}">{who}<div class="bubble">{"".join(parts)}</div></li>'


def _answer(dialogue: AnsweredDialogue, links: Mapping[Path, str]) -> str:
    parts = [f'<p dir="auto">{escape(reply.text)}</p>' for reply in dialogue.replies[:1]]
    parts += [_image(ranked.image, links) for ranked in dialogue.images[:1]]
    if not parts:
        parts = ["<p>nothing was found</p>"]
    return (
        '<li class="assistant answer"><span class="who">assistant, retrieved</span>'
        f'<div class="bubble">{"".join(parts)}</div></li>'
    )


def _replies(replies: tuple[RankedReply, ...]) -> str:
    fractions = bar_fractions([reply.score for reply in replies])
    rows = [
        f'<li><span class="text" dir="auto">{escape(reply.text)}</span>{_bar(fraction, reply.score)}</li>'
        for reply, fraction in zip(replies, fractions, strict=True)
    ]
    return f'<ol class="replies">{"".join(rows)}</ol>'


def _images(images: tuple[RankedImage, ...], links: Mapping[Path, str]) -> str:
    fractions = bar_fractions([ranked.score for ranked in images])
    cells = [
        f'<li><figure><div class="tile">{_image(ranked.image, links)}</div>'
        f'<figcaption><span class="title" dir="auto">{escape(ranked.image.title)}</span>'
        f'{_bar(fraction, ranked.score)}<span class="credit" dir="auto">{escape(credit(ranked.image))}</span>'
        "</figcaption></figure></li>"
        for ranked, fraction in zip(images, fractions, strict=True)
    ]
    return f'<ol class="images">{"".join(cells)}</ol>'


def _dialogue(number: int, dialogue: AnsweredDialogue, links: Mapping[Path, str]) -> str:
    turns = "".join(_turn(turn, links) for turn in dialogue.turns)
    return (
        f'<article id="dialogue-{number}"><h2 dir="auto"><span class="count">{number}</span>'
        f"{escape(dialogue.title)}</h2>"
        f'<div class="columns"><section aria-label="Conversation"><ol class="chat">{turns}'
        f"{_answer(dialogue, links)}</ol></section>"
        f'<section aria-label="Ranking"><h3>Replies</h3>{_replies(dialogue.replies)}'
        f"<h3>Images</h3>{_images(dialogue.images, links)}</section></div></article>"
    )


def render_page(results: DemoResults, links: Mapping[Path, str]) -> str:
    """The whole HTML page.

    Args:
        results: what the demo found.
        links: for the path of each image that is shown, the address that the page uses (relative, or a data URI).

    Raises:
        KeyError: if a shown image has no link.
    """
    dialogues = "".join(_dialogue(number, item, links) for number, item in enumerate(results.dialogues, start=1))
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    credits = "".join(f"<li>{escape(line)}</li>" for line in results.credits())
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>UniMuR demo: {escape(results.model)}</title><style>{STYLE}</style></head><body>\n"
        "<header><h1>A conversation in, words and an image out</h1>"
        "<p>One vector read from the whole conversation ranks the replies and the images.</p>"
        f'<p class="facts">{escape(results.model)} · {escape(results.summary())}</p></header>\n'
        f"<main>{dialogues}</main>\n"
        f"<footer><p>Model {escape(results.model)}; seed {results.seed}; {escape(versions)}. "
        "Replies and images are rescored by how well they agree (coherent replies); a score is the cosine with the "
        "conversation's vector plus that agreement. Bars are relative to the best item of "
        "their list. Images that stand in a conversation are not in the gallery.</p>"
        f"<ul>{credits}</ul></footer>\n</body></html>\n"
    )


def write_thumbnails(results: DemoResults, folder: Path) -> dict[Path, str]:
    """Write a small JPEG of every shown image under `folder`/thumbnails and return its relative link by path.

    Raises:
        FileNotFoundError, ValueError: if a shown image is missing or cannot be read.
    """
    from PIL import Image

    from modeling_unimur.image_loading import load_image

    target = folder / THUMBNAIL_FOLDER
    target.mkdir(parents=True, exist_ok=True)
    links = {}
    for image in results.shown_images():
        thumbnail = load_image(image.path)
        thumbnail.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.LANCZOS)
        # A name out of the content: own file names may hold anything, and two folders may hold equal ones.
        name = hashlib.sha256(thumbnail.tobytes() + repr(thumbnail.size).encode()).hexdigest()[:16] + ".jpg"
        thumbnail.save(target / name, quality=90, subsampling=0)
        links[image.path] = f"{THUMBNAIL_FOLDER}/{name}"
    # What an earlier run wrote here and this page does not show; other files are not ours to delete.
    for old in target.iterdir():
        if _THUMBNAIL_NAME.fullmatch(old.name) and f"{THUMBNAIL_FOLDER}/{old.name}" not in links.values():
            old.unlink()
    return links


def write_page(results: DemoResults, folder: Path) -> Path:
    """Write index.html and its thumbnails into `folder` and return the page's path."""
    links = write_thumbnails(results, folder)
    page = folder / "index.html"
    page.write_text(render_page(results, links), encoding="utf-8")
    return page
