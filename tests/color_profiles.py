"""Color profiles (ICC.1:2001-04), written for tests."""

from __future__ import annotations

import itertools
import struct

import numpy as np

# Primaries of sRGB as XYZ of D50, column by column (IEC 61966-2-1, adapted by Bradford's matrix).
SRGB_D50 = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)
_WHITE_D50 = (0.9642, 1.0, 0.8249)


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _profile(space: bytes, connection: bytes, kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    text = b"a test profile"
    description = b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + b"\0" * (1 + 8 + 3 + 67)
    tags = {b"desc": description, b"wtpt": b"XYZ \0\0\0\0" + b"".join(map(_fixed, _WHITE_D50)), **tags}
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data
    header = (
        struct.pack(">I", start + len(body)) + b"\0" * 4 + struct.pack(">I", 0x02200000) + kind + space + connection
    )
    header += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28 + b"".join(map(_fixed, _WHITE_D50))
    return header.ljust(128, b"\0") + table + body


def matrix_profile(primaries: np.ndarray, gamma: float) -> bytes:
    """An RGB profile from the XYZ of its primaries, column by column, and its gamma."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    tags = {}
    for number, name in enumerate((b"r", b"g", b"b")):
        tags[name + b"XYZ"] = b"XYZ \0\0\0\0" + b"".join(_fixed(value) for value in primaries[:, number])
        tags[name + b"TRC"] = curve
    return _profile(b"RGB ", b"XYZ ", b"mntr", tags)


def cmyk_profile(inks: dict[tuple, tuple]) -> bytes:
    """A CMYK profile with the Lab colors of full inks; white where none is named."""
    grid = b""
    for corner in itertools.product((0, 1), repeat=4):
        lightness, a, b = inks.get(corner, (100.0, 0.0, 0.0))
        grid += bytes([round(lightness * 2.55), round(a) + 128, round(b) + 128])
    identity = b"".join(_fixed(float(row == column)) for row in range(3) for column in range(3))
    linear = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + linear * 4 + grid + linear * 3
    return _profile(b"CMYK", b"Lab ", b"prtr", {b"A2B0": table})
