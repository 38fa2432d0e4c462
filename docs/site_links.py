"""A hook of the site: links to files beside `docs/`, which the site does not have.

In a checkout and on a code host they lead to the file. In the site they lead to the repository if `repo_url` of
mkdocs.yml names it, and are text otherwise. Images are copied.
"""

from __future__ import annotations

import re
from pathlib import Path

_LINK = re.compile(r"(!?)\[([^\]]+)\]\(\.\./([^)]+)\)")


def on_files(files, config):
    """Called by MkDocs once: adds the images of all pages."""
    from mkdocs.structure.files import File

    for page in list(files.documentation_pages()):
        for is_image, _, path in _LINK.findall(Path(page.abs_src_path).read_text(encoding="utf-8")):
            if is_image and files.get_file_from_path(path) is None:
                source = Path(config.docs_dir).parent / path
                files.append(File.generated(config, path, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Called by MkDocs with each page."""
    base = (config.repo_url or "").rstrip("/")

    def replaced(match: re.Match) -> str:
        is_image, text, path = match.groups()
        if is_image:
            return f"![{text}]({path})"
        return f"[{text}]({base}/blob/main/{path})" if base else f"{text} (`{path}`)"

    return _LINK.sub(replaced, markdown)
