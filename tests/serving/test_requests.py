"""What clients send: read, or refused with the right status."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from modeling_unimur.serving.limits import ServingLimits
from modeling_unimur.serving.requests import Refused, read_request

LIMITS = ServingLimits(turns=3, characters=50, pictures=2, pixels=10_000, top_k=7)


def png(side: int = 8) -> str:
    file = io.BytesIO()
    Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def read(**request):
    return read_request(json.dumps(request).encode(), LIMITS)


def user(content) -> dict:
    return {"role": "user", "content": content}


def test_what_is_read():
    found = read(messages="hello")
    assert found.messages == [user([{"type": "text", "text": "hello"}])]
    assert (found.top_k, found.modality, found.where) == (5, "both", None)
    parts = [{"type": "text", "text": "look"}, {"type": "image", "image": f"data:image/png;base64,{png()}"}]
    found = read(messages=[user("a"), user(parts)], top_k=7, modality="joint", where={"year": {"gte": 3}})
    assert found.messages[1]["content"][1]["image"].size == (8, 8)
    assert (found.top_k, found.modality, found.where) == (7, "joint", {"year": {"gte": 3}})
    assert read(messages=[user([{"type": "image", "base64": png()}])]).messages


@pytest.mark.parametrize(
    ("status", "request_", "words"),
    [
        (400, {}, "messages"),
        (400, {"messages": []}, "messages"),
        (400, {"messages": [7]}, "Message 0"),
        (400, {"messages": [{"role": "user"}]}, "role and content"),
        (400, {"messages": [user(3)]}, "string or a list"),
        (400, {"messages": [user([{"type": "video"}])]}, "a part is"),
        (400, {"messages": "hi", "topk": 3}, "topk"),
        (422, {"messages": [user("a")] * 4}, "4 turns"),
        (422, {"messages": "x" * 51}, "50 characters"),
        (422, {"messages": "  "}, "empty"),
        (422, {"messages": [user([{"type": "image", "image": png()}] * 3)]}, "2 pictures"),
        (422, {"messages": [user([{"type": "image", "image": png(101)}])]}, "too large"),
        (
            422,
            {"messages": [user([{"type": "image", "image": base64.b64encode(b"words").decode()}])]},
            "not a picture",
        ),
        (422, {"messages": [user([{"type": "image", "image": "/etc/passwd"}])]}, "base64"),
        (422, {"messages": [user([{"type": "image", "image": "http://127.0.0.1/a.png"}])]}, "base64"),
        (422, {"messages": "hi", "top_k": 8}, "1 to 7"),
        (422, {"messages": "hi", "top_k": True}, "1 to 7"),
        (422, {"messages": "hi", "modality": "sound"}, "modality"),
        (422, {"messages": "hi", "where": {"a": None}}, "where"),
    ],
)
def test_what_is_refused(status, request_, words):
    with pytest.raises(Refused, match=words) as refused:
        read(**request_)
    assert refused.value.status == status


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json(body):
    with pytest.raises(Refused) as refused:
        read_request(body, LIMITS)
    assert refused.value.status == 400


@pytest.mark.parametrize("name", ["turns", "seconds", "tokens"])
def test_limits_are_above_zero(name):
    with pytest.raises(ValueError, match=name):
        ServingLimits(**{name: 0})
