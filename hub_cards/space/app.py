"""A chat in the browser that answers with texts and images of a gallery.

As a Space it loads the release that `UNIMUR_MODEL` names, the images in `gallery/` and the texts in `replies.txt`, or
the index that `UNIMUR_INDEX` names;
on one's own computer `unimur app` hands it a model and an index.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # Gradio reads it when it is imported

import gradio as gr
from responder import (
    ALWAYS,
    ENDINGS,
    MAX_LETTERS,
    MAX_OWN,
    NEVER,
    SHOWN,
    Conversation,
    Refused,
    Responder,
    open_gallery,
)
from transformers import pipeline

HERE = Path(__file__).resolve().parent
MAX_UPLOAD = "10mb"

_STYLE = """
.gradio-container {width: 100% !important; max-width: 1100px !important; margin: 0 auto !important}
"""


def displayed(conversation: Conversation) -> list:
    """The chat's lines with images that have a text for those who do not see them."""
    lines = []
    for line in conversation.shown:
        content = line["content"]
        if isinstance(content, dict):
            content = gr.Image(
                content["path"], alt_text=content["alt_text"], buttons=[], interactive=False, render=False
            )
        lines.append({**line, "content": content})
    return lines


def build_page(responder: Responder) -> gr.Blocks:
    """The page of a chat."""

    def send(message: dict, conversation: Conversation, threshold: float, coherent: bool, own: Responder | None):
        try:
            conversation, found = (own or responder).answer(
                conversation, message.get("text", ""), message.get("files") or [], threshold, coherent
            )
        except Refused as error:
            gr.Warning(str(error))
            return message, conversation, displayed(conversation), gr.skip(), str(error)
        told = f"{len(found)} images." if found else "No image answers this."
        return None, conversation, displayed(conversation), found, told

    def begin():
        return None, Conversation(), [], [], "A new conversation."

    def take(files: "list[str] | None", own: Responder | None):
        try:
            own, told = responder.with_own_gallery(files or [])
        except Refused as error:
            gr.Warning(str(error))
            return own, gr.skip(), str(error)
        return own, own.gallery[:SHOWN], " ".join([f"{len(own.gallery)} images of yours are searched.", *told])

    def leave():
        return None, responder.gallery[:SHOWN], "The gallery is searched again."

    def search(words: str, own: Responder | None):
        return (own or responder).search(words)

    start = responder.retriever.model.config.image_threshold
    with gr.Blocks(title="UniMuR chat", analytics_enabled=False) as page:
        gr.Markdown("# UniMuR chat\nType, or drop an image. The answers are retrieved: a text and images.")
        conversation = gr.State(Conversation())
        own = gr.State(None, time_to_live=3600)
        with gr.Row():
            with gr.Column(scale=3, min_width=300):
                chat = gr.Chatbot(
                    label="Conversation",
                    height=420,
                    render_markdown=False,
                    feedback_options=None,
                    buttons=[],
                    elem_id="chat",
                )
                message = gr.MultimodalTextbox(
                    label="Your message",
                    show_label=True,
                    placeholder="Type here, or drop an image",
                    file_types=ENDINGS,
                    file_count="multiple",
                    max_plain_text_length=MAX_LETTERS,
                    sources=["upload"],
                    elem_id="message",
                )
                status = gr.Markdown("", elem_id="status")
            with gr.Column(scale=2, min_width=280):
                found = gr.Gallery(label="Images that answer", columns=3, height=260, elem_id="found")
                threshold = gr.Slider(
                    ALWAYS,
                    NEVER,
                    value=ALWAYS if start is None else start,
                    step=0.01,
                    label="Show images from this cosine on",
                    info=f"{ALWAYS:.0f}: always, {NEVER:.0f}: never",
                    elem_id="policy",
                )
                coherent = gr.Checkbox(
                    True,
                    label="Text and images that agree",
                    info="prefers those that fit each other",
                    elem_id="coherent",
                )
                again = gr.Button("New conversation", elem_id="again")
        with gr.Accordion("The gallery", open=True):
            words = gr.Textbox(label="Search the gallery", placeholder="a word, or what it shows", elem_id="words")
            images = gr.Gallery(responder.gallery[:SHOWN], label="Gallery", columns=6, height=300, elem_id="gallery")
            with gr.Row():
                upload = gr.UploadButton(
                    f"Search images of mine (up to {MAX_OWN})",
                    file_types=ENDINGS,
                    file_count="multiple",
                    elem_id="own",
                )
                back = gr.Button("Back to the gallery", elem_id="back")
        outputs = [message, conversation, chat, found, status]
        queued = {"concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private"}  # one at a time
        message.submit(send, [message, conversation, threshold, coherent, own], outputs, **queued)
        for cleared in (again.click, chat.clear):
            cleared(begin, None, outputs, api_visibility="private")
        words.submit(search, [words, own], images, **queued)
        upload.upload(take, [upload, own], [own, images, status], **queued)
        back.click(leave, None, [own, images, status], api_visibility="private")
    return page


def launch(retriever, images: "dict[str, tuple[str, str]]", **options) -> None:
    """Serves the page until it is stopped.

    Args:
        retriever: a `multimodal-retrieval` pipeline with a filled index.
        images: of the index, path and title by id or by the name of the file.
        options: of `gradio.Blocks.launch`, such as `server_port`.
    """
    page = build_page(Responder(retriever, images))
    page.queue(max_size=32)
    page.launch(
        max_file_size=MAX_UPLOAD,
        allowed_paths=[str(Path(path).absolute()) for path, _ in images.values()],  # no other file of their folders
        css=_STYLE,
        footer_links=[],
        share=False,
        **options,
    )


def main() -> None:
    """As a Space: a release of the Hub, and the files beside this one."""
    model = os.environ.get("UNIMUR_MODEL") or sys.exit("Set the variable UNIMUR_MODEL to the Hub id of a release.")
    retriever = pipeline("multimodal-retrieval", model=model, trust_remote_code=True)
    launch(retriever, open_gallery(retriever, HERE, os.environ.get("UNIMUR_INDEX")))


if __name__ == "__main__":
    main()
