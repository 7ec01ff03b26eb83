"""ICC profiles, small and made here: RGB by primaries and a gamma, grey by a gamma, CMYK by a table."""

from __future__ import annotations

import struct

import numpy as np

# XYZ of red, green and blue under D50, columns: Adobe RGB (1998) and sRGB, as their profiles have them.
ADOBE = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
ADOBE_GAMMA = 2.19921875
WHITE = (0.9642, 1.0, 0.8249)


def rgb(primaries: np.ndarray = ADOBE, gamma: float = ADOBE_GAMMA, name: str = "Wide") -> bytes:
    tags = {f"{c}XYZ".encode(): _xyz(*primaries[:, i]) for i, c in enumerate("rgb")}
    tags |= {f"{c}TRC".encode(): _curve(gamma) for c in "rgb"}
    return _profile(b"RGB ", tags, name)


def grey(gamma: float, name: str = "Grey") -> bytes:
    return _profile(b"GRAY", {b"kTRC": _curve(gamma)}, name)


def cmyk(name: str = "Ink") -> bytes:
    """Every ink but the black one does nothing: the black one is a grey from white to black in Lab."""
    corners = [(1 - (i & 1)) * 255 for i in range(16)]  # the last channel varies fastest
    lab = b"".join(bytes([light, 128, 128]) for light in corners)
    ramp = bytes(range(256))
    head = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + struct.pack(">9i", *np.eye(3, dtype=int).ravel() << 16)
    return _profile(b"CMYK", {b"A2B0": head + ramp * 4 + lab + ramp * 3}, name, connection=b"Lab ", kind=b"prtr")


def to_srgb(pixels: np.ndarray, primaries: np.ndarray = ADOBE, gamma: float = ADOBE_GAMMA) -> np.ndarray:
    """Convert uint8 [...,3] by the definition of the two spaces, in float64."""
    linear = (np.asarray(pixels, np.float64) / 255) ** gamma @ primaries.T @ np.linalg.inv(SRGB).T
    linear = linear.clip(0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.round(curved * 255))


def _xyz(x: float, y: float, z: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in (x, y, z)))


def _curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)


def _profile(
    space: bytes, tags: dict[bytes, bytes], name: str, connection: bytes = b"XYZ ", kind: bytes = b"mntr"
) -> bytes:
    text = name.encode() + b"\0"
    tags = tags | {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78),
        b"wtpt": _xyz(*WHITE),
        b"cprt": b"text" + bytes(4) + b"none\0",
    }
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = start + len(body)
    head = struct.pack(">I", size) + b"test" + b"\x02\x20\0\0" + kind + space + connection
    head = head.ljust(36, b"\0") + b"acsp"
    head = head.ljust(68, b"\0") + struct.pack(">3i", *(round(value * 65536) for value in WHITE))
    return head.ljust(128, b"\0") + table + body
