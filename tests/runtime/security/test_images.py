"""Files that somebody made to do harm, or that no camera makes: pixels or an ImageError, and nothing else."""

from __future__ import annotations

import io
import os
import socket
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from coda_runtime import ImageError
from coda_runtime.images import FORMATS, MAX_PIXELS, Batches, fit, fit_bytes, open_rgb
from coda_runtime.images.limits import excess
from coda_runtime.io.image_files import SUFFIXES
from tests.runtime import tiny

SIZE = 32
PHOTO = Image.fromarray(tiny.photos(1, 48, 80)[0])


def saved(image: Image.Image = PHOTO, kind: str = "PNG", **how: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **how)
    return out.getvalue()


def pixels(data: bytes, **how: Any) -> np.ndarray[Any, Any]:
    return fit_bytes(data, SIZE, name="it", **how)


def rejected(data: bytes, **how: Any) -> str:
    with pytest.raises(ImageError, match="'it'") as caught:
        pixels(data, **how)
    return str(caught.value)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, body: bytes, *extra: bytes, depth: int = 8, colour: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", body), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def black_png(width: int, height: int) -> bytes:
    """One bit a pixel, all of it there: some kilobytes that decode to width x height."""
    body = zlib.compress(bytes(1 + (width + 7) // 8) * height, 1)
    return png(width, height, body, depth=1)


def little_tiff(entries: list[tuple[int, int, int, int]], tail: bytes = b"") -> bytes:
    """A little-endian TIFF of (tag, type, count, value) entries; `tail` begins at 8 + 2 + 12 n + 4."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4) + tail


def webp_canvas(width: int, height: int) -> bytes:
    """An animated WebP of one small frame on a canvas of any size."""
    frame = saved(PHOTO, "WEBP", lossless=True)[12:]

    def part(kind: bytes, data: bytes) -> bytes:
        return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    def three(number: int) -> bytes:
        return struct.pack("<I", number)[:3]

    canvas = part(b"VP8X", b"\x02\0\0\0" + three(width - 1) + three(height - 1))
    place = three(0) * 2 + three(PHOTO.width - 1) + three(PHOTO.height - 1) + three(100) + b"\0"
    body = b"WEBP" + canvas + part(b"ANIM", bytes(6)) + part(b"ANMF", place + frame)
    return b"RIFF" + struct.pack("<I", len(body)) + body


KINDS = ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM")
FILES = {kind: saved(PHOTO, kind) for kind in KINDS}
FILES["progressive"] = saved(PHOTO, "JPEG", progressive=True)
FILES["lzw"] = saved(PHOTO, "TIFF", compression="tiff_lzw")
FILES["palette"] = saved(PHOTO.convert("P"), "PNG", transparency=3)


class TestBombs:
    """The number of pixels is checked by the header, before one is decoded."""

    def test_memory_and_stderr_stay_empty(self, tmp_path: Path) -> None:
        """In a process of its own: 400 MP, over Pillow's hard limit, and 100 MP, where Pillow only warns."""
        (tmp_path / "400.png").write_bytes(black_png(20_000, 20_000))
        (tmp_path / "100.png").write_bytes(black_png(10_000, 10_000))
        assert (tmp_path / "400.png").stat().st_size < 300_000
        code = """
import sys
from coda_runtime import ImageError
from coda_runtime.images import Batches, fit, fit_bytes
from coda_runtime.machine.memory import peak_bytes
fit_bytes(open(sys.argv[3], "rb").read(), 32, name="small")
before = peak_bytes()
for path in sys.argv[1:3]:
    for read in (
        lambda: fit(path, 32),
        lambda: Batches([path] * 4, 32).take(slice(0, 4)),
        lambda: fit_bytes(open(path, "rb").read(), 32, name=path),
        lambda: fit_bytes(open(path, "rb").read(), 32, name=path, max_pixels=1000),
    ):
        try:
            read()
        except ImageError as error:
            assert path in str(error) and "too many pixels to be safe" in str(error), error
            assert "MAX_IMAGE_PIXELS" not in str(error), error
        else:
            raise SystemExit("it was read")
# 10 000 x 10 000 pixels of one bit are 100 MB in Pillow's memory.
grown = peak_bytes() - before
assert grown < 50 << 20, grown
"""
        (tmp_path / "small.png").write_bytes(saved())
        paths = [str(tmp_path / name) for name in ("400.png", "100.png", "small.png")]
        done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_the_default_is_where_pillow_begins_to_warn(self) -> None:
        assert MAX_PIXELS == Image.MAX_IMAGE_PIXELS
        message = rejected(png(MAX_PIXELS // 95 + 1, 95, b""))
        assert f"941879 x 95: {MAX_PIXELS} is the limit" in message
        assert "pass the PIL image" in message
        assert "is it cut" in rejected(png(MAX_PIXELS // 95, 95, b""))  # it went on to decode it

    def test_an_argument_raises_and_lowers_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as lower:  # than the picture, so that it need not have 90 million pixels
            lower.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
            lower.setattr("coda_runtime.images.opening.MAX_PIXELS", 3000)
            assert "3000 is the limit" in rejected(saved())
            # And it warns of nothing: a warning is an error here.
            np.testing.assert_array_equal(pixels(saved(), max_pixels=4000), fit(PHOTO, SIZE))
        message = rejected(saved(), max_pixels=48 * 80 - 1)
        assert "80 x 48: 3839 is the limit here; scale it down" in message
        assert "PIL" not in message  # who set the limit may be far from who reads this
        assert pixels(saved(), max_pixels=48 * 80).shape == (SIZE, SIZE, 3)

    def test_a_lower_limit_of_the_application_holds_and_a_higher_one_does_not(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
        assert "3000 is the limit" in rejected(saved())
        assert pixels(saved(), max_pixels=4000).shape == (SIZE, SIZE, 3)
        for more in (None, 10**12):
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", more)
            assert f"{MAX_PIXELS} is the limit" in rejected(png(50_000, 50_000, b""))

    def test_a_pil_image_is_its_openers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with Image.open(io.BytesIO(saved())) as image:
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
            assert "2000 is the limit" in rejected(saved())
            np.testing.assert_array_equal(fit(image, SIZE), fit(PHOTO, SIZE))

    @pytest.mark.parametrize(
        "data",
        [
            png(50_000, 50_000, zlib.compress(bytes(10_000))),
            png(2**31 - 1, 2**31 - 1, b""),
            saved(PHOTO, "GIF").replace(struct.pack("<HH", 80, 48), struct.pack("<HH", 65535, 65535), 1),
            saved(PHOTO, "GIF").replace(struct.pack("<HHHH", 0, 0, 80, 48), struct.pack("<HHHH", 0, 0, 65535, 65535)),
            b"BM" + struct.pack("<IIIIiiHHIIIIII", 100, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
            b"P6 60000 60000 255\n",
            saved(PHOTO, "JPEG").replace(struct.pack(">HH", 48, 80), struct.pack(">HH", 65_500, 65_500)),
            webp_canvas(16_383, 16_383),
            little_tiff([(256, 4, 1, 60_000), (257, 4, 1, 60_000), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]),
        ],
        ids=["png", "png-most", "gif", "gif-frame", "bmp", "ppm", "jpeg", "webp", "tiff"],
    )
    def test_every_format_is_rejected_by_its_header(self, data: bytes) -> None:
        assert "too many pixels to be safe" in rejected(data)

    def test_the_webp_of_that_kind_is_an_image_when_its_canvas_is_small(self) -> None:
        np.testing.assert_array_equal(pixels(webp_canvas(80, 48)), fit(PHOTO, SIZE))

    @pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
    @pytest.mark.parametrize("after", [False, True])
    def test_compressed_text_that_fills_memory_is_rejected(self, kind: bytes, after: bool) -> None:
        packed = zlib.compress(bytes(16 << 20), 1)  # 16 MB in some kB
        head = {b"zTXt": b"key\0\0", b"iTXt": b"key\0\1\0\0\0", b"iCCP": b"key\0\0"}[kind]
        bomb = chunk(kind, head + packed)
        body = zlib.compress(bytes(33 * 32))
        if after and kind != b"iCCP":
            data = png(32, 32, body)[:-12] + bomb + chunk(b"IEND", b"")
        else:
            data = png(32, 32, body, bomb)
        assert "Decompressed data too large" in rejected(data)

    def test_many_small_texts_are_rejected_together(self) -> None:
        text = chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(1_000_000), 9))
        assert "Too much memory used in text chunks" in rejected(
            png(32, 32, zlib.compress(bytes(33 * 32)), *[text] * 80)
        )

    def test_a_tile_larger_than_the_image_is_rejected(self) -> None:
        tags = {256: 32, 257: 32, 258: 8, 259: 5, 262: 1, 322: 32, 323: 2**31 - 16, 324: 8, 325: 64}
        rejected(little_tiff([(tag, 4, 1, value) for tag, value in tags.items()], bytes(64)))

    def test_a_long_strip_is_read(self) -> None:
        assert not pixels(black_png(1_000_000, 1)).any()
        assert not pixels(black_png(1, 1_000_000)).any()


def segment(marker: int, data: bytes = b"") -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data


def black_jpeg(side: int, scans: int) -> bytes:
    """A progressive JPEG of black pixels with so many scans more, each of some bytes over all of them."""
    plain = saved(Image.new("L", (side, side)), "JPEG", progressive=True)
    blocks = ((side + 7) // 8) ** 2
    runs = "".join("0" + "1" * 14 for _ in range(blocks // 32767 + 1))  # "nothing changes in 32 767 blocks"
    bits = runs + "1" * (-len(runs) % 8)
    body = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    table = segment(0xC4, b"\x10\1" + bytes(15) + b"\xe0")
    return plain[:-2] + table + (segment(0xDA, b"\1\1\0\1\x3f\x10") + body) * scans + b"\xff\xd9"


class TestCost:
    """Small files that take hours of a processor."""

    def test_a_jpeg_of_many_scans(self) -> None:
        own = black_jpeg(64, 0).count(b"\xff\xda")
        assert not pixels(black_jpeg(64, 100 - own)).any()
        assert "more than 100 scans" in rejected(black_jpeg(64, 101 - own))
        assert len(black_jpeg(5000, 10_000)) < 600_000  # five minutes of work
        assert "more than 100 scans" in rejected(black_jpeg(5000, 10_000))

    def test_scans_that_are_none(self) -> None:
        """In metadata, and after the picture, as in the films that telephones append."""
        for kind in ({"progressive": True}, {}):
            data = saved(PHOTO, "JPEG", exif=b"Exif\0\0" + b"\xff\xda\0\2" * 500, **kind)
            np.testing.assert_array_equal(pixels(data + b"\xff\xda\0\2" * 500), pixels(data))

    def test_a_sequential_jpeg_of_many_scans(self) -> None:
        """A scan may be for one colour, and libjpeg does not mind if it comes again."""
        data = saved(PHOTO, "JPEG", subsampling=0)
        at = data.index(b"\xff\xda")
        for colours in (b"\1", b"\1\1\0"):
            scan = segment(0xDA, colours[:1] + b"\1\0" * colours[0] + b"\0\x3f\0")
            message = rejected(data[:at] + scan * 101 + b"\xff\xd9")
            assert "more than 100 scans" in message

    def test_scans_behind_what_a_reader_skips(self) -> None:
        """Restarts, padding, comments with an end of image in them, and pieces across the chunks of a read."""
        own = black_jpeg(64, 0)[:-2]
        scan = black_jpeg(64, 1)[len(own) : -2]
        for between in (b"\xff\xd0" * 9, b"\xff" * 7, segment(0xFE, b"\xff\xd9"), segment(0xFE, bytes(16_001))):
            assert "100 scans" in rejected(own + (between + scan) * 101 + b"\xff\xd9")

    @pytest.mark.parametrize("piece", [segment(0xE1, b"Exif\0\0"), segment(0xFE), segment(0xED, b"Photoshop")])
    def test_a_jpeg_in_very_many_segments(self, piece: bytes) -> None:
        data = saved(PHOTO, "JPEG")
        np.testing.assert_array_equal(pixels(data[:2] + piece * 900 + data[2:]), pixels(data))
        assert "more than 1000 metadata segments" in rejected(data[:2] + piece * 1001 + data[2:])

    def test_a_ppm_of_comments(self) -> None:
        head, body = b"P2 8 8 255\n", b"#\n7 " * 64
        assert (pixels(head + b"#\n" * 900 + body) == 7).all()
        assert "has 1065 comments, more than the limit of 1000" in rejected(head + b"#\n" * 1001 + body)
        assert (pixels(b"P5 64 64 255\n" + b"#" * 4096) == ord("#")).all()

    @given(start=st.sampled_from(["progressive", "JPEG"]), cut=st.integers(0, 4000), rest=st.binary(max_size=40))
    def test_a_damaged_jpeg_is_walked_to_its_end(self, start: str, cut: int, rest: bytes) -> None:
        file = io.BytesIO(FILES[start][:cut] + rest)
        assert excess("JPEG", file) is None
        assert excess("JPEG", io.BytesIO(FILES[start][:cut] + rest * 5000)) in (
            None,
            "has more than 1000 metadata segments",
            "has more than 100 scans",
        )


class TestNotImages:
    @pytest.mark.parametrize("shape", [(0, 32), (32, 0), (0, 0)])
    @pytest.mark.parametrize("kind", ["png", "bmp", "ppm", "gif", "jpeg"])
    def test_no_pixels(self, kind: str, shape: tuple[int, int]) -> None:
        width, height = shape
        data = {
            "png": png(width, height, zlib.compress(b"")),
            "bmp": b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0),
            "ppm": b"P6 %d %d 255\n" % shape,
            "gif": b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + b";",
            "jpeg": saved(PHOTO, "JPEG").replace(struct.pack(">HH", 48, 80), struct.pack(">HH", height, width)),
        }[kind]
        rejected(data)

    @pytest.mark.parametrize("kind", ["EPS", "ICO", "TGA", "PCX", "SGI", "ICNS", "JPEG2000", "DDS", "PDF"])
    def test_other_formats(self, kind: str, tmp_path: Path) -> None:
        image = PHOTO.resize((32, 32))
        (tmp_path / "trap.png").write_bytes(saved(image, kind))
        with pytest.raises(
            ImageError, match=r"trap\.png' is not an image that Pillow can read as BMP, GIF.*pass the PIL"
        ):
            fit(tmp_path / "trap.png", SIZE)
        if kind not in ("EPS", "PDF"):
            with Image.open(tmp_path / "trap.png") as opened:  # the way out
                assert fit(opened, SIZE).shape == (SIZE, SIZE, 3)

    def test_eps_starts_no_ghostscript(self, tmp_path: Path) -> None:
        (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n")
        (tmp_path / "gs").chmod(0o755)
        (tmp_path / "photo.jpg").write_bytes(saved(PHOTO, "EPS"))
        code = """
import sys
from PIL import Image
from coda_runtime import ImageError
from coda_runtime.images import fit
whose = sys.argv[1]
try:
    if whose == "ours":
        fit("photo.jpg", 32)
    else:
        Image.open("photo.jpg").load()
except Exception as error:
    raise SystemExit(7 if whose != "ours" or isinstance(error, ImageError) else 1)
"""
        env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        ran = []
        for whose in ("ours", "pillow's"):
            done = subprocess.run([sys.executable, "-c", code, whose], cwd=tmp_path, env=env, capture_output=True)
            assert done.returncode == 7, done.stderr
            ran.append((tmp_path / "ran").exists())
        assert ran == [False, True]  # the second shows that the trap works

    def test_formats_may_be_fewer(self) -> None:
        for kind in FORMATS:
            allowed = kind in ("JPEG", "PNG")
            if allowed:
                assert pixels(saved(PHOTO, kind), formats=("JPEG", "PNG")).shape == (SIZE, SIZE, 3)
            else:
                assert "can read as JPEG, PNG;" in rejected(saved(PHOTO, kind), formats=("JPEG", "PNG"))
        assert pixels(saved(PHOTO.resize((32, 32)), "ICO"), formats=("ICO",)).shape == (SIZE, SIZE, 3)

    def test_every_suffix_is_of_a_format_that_is_read(self) -> None:
        Image.init()
        assert {Image.EXTENSION[suffix] for suffix in SUFFIXES} == set(FORMATS)

    def test_the_name_says_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "photo.bmp").write_bytes(saved(PHOTO, "JPEG"))
        (tmp_path / "photo").write_bytes(saved(PHOTO, "PNG"))
        np.testing.assert_array_equal(fit(tmp_path / "photo.bmp", SIZE), pixels(saved(PHOTO, "JPEG")))
        np.testing.assert_array_equal(fit(tmp_path / "photo", SIZE), fit(PHOTO, SIZE))


class TestPaths:
    def test_a_pipe_that_takes_the_place_of_a_file_is_not_waited_for(self, tmp_path: Path) -> None:
        """Between the look at what it is and opening it."""
        os.mkfifo(tmp_path / "pipe.png")
        code = f"""
import os
from pathlib import Path
from coda_runtime.images import fit
file = os.stat(__import__("sys").executable)
Path.stat = lambda path, **_: file
fit({str(tmp_path / "pipe.png")!r}, 32)"""
        done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True, check=False)
        assert "it is not a regular file" in done.stderr

    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.png")
        code = f"from coda_runtime.images import fit; fit({str(tmp_path / 'pipe.png')!r}, 32)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert "ImageError" in done.stderr
        assert "pipe.png' cannot be read as an image: it is a pipe; expected a file" in done.stderr

    def test_devices_folders_and_sockets(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "folder.png").mkdir()
        monkeypatch.chdir(tmp_path)  # a socket's address is short
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("socket.png")
            for path, kind in (("folder.png", "folder"), ("socket.png", "socket"), ("/dev/zero", "device")):
                with pytest.raises(ImageError, match=f"it is a {kind}; expected a file"):
                    fit(path, SIZE)

    @pytest.mark.parametrize("url", ["file:///etc/passwd", "https://example.com/photo.jpg"])
    def test_a_url_is_no_path(self, url: str) -> None:
        with pytest.raises(ImageError, match="it is a URL: download it"):
            fit(url, SIZE)

    def test_links_are_followed(self, tmp_path: Path) -> None:
        PHOTO.save(tmp_path / "photo.png")
        (tmp_path / "link.png").symlink_to("photo.png")
        (tmp_path / "nowhere.png").symlink_to("gone.png")
        (tmp_path / "round.png").symlink_to("round.png")
        np.testing.assert_array_equal(fit(tmp_path / "link.png", SIZE), fit(PHOTO, SIZE))
        for name, advice in (("nowhere.png", "check the path"), ("round.png", "check the file")):
            with pytest.raises(ImageError, match=rf"{name}'.*{advice}"):
                fit(tmp_path / name, SIZE)

    def test_names_that_are_not_utf8(self, tmp_path: Path) -> None:
        path = os.fsdecode(os.fsencode(tmp_path) + b"/gr\xfcn.png")
        with pytest.raises(ImageError, match="there is no image") as caught:
            fit(path, SIZE)
        str(caught.value).encode()  # it can be printed
        PHOTO.save(path)
        np.testing.assert_array_equal(fit(path, SIZE), fit(PHOTO, SIZE))

    @pytest.mark.parametrize("name", ["a\0b.png", "x" * 5000 + ".png", "", "photo.png/photo.png"])
    def test_names_that_cannot_be(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        PHOTO.save("photo.png")
        with pytest.raises(ImageError):
            fit(name, SIZE)

    def test_no_file_stays_open(self, tmp_path: Path) -> None:
        PHOTO.save(tmp_path / "good.png")
        (tmp_path / "bad.png").write_bytes(saved()[:200])
        (tmp_path / "none.png").write_bytes(b"text")
        before = sorted(Path("/proc/self/fd").iterdir())
        for name in ("good.png", "bad.png", "none.png"):
            try:
                fit(tmp_path / name, SIZE)
            except ImageError:
                continue
        assert sorted(Path("/proc/self/fd").iterdir()) == before


def transparent() -> np.ndarray[Any, Any]:
    alpha = np.linspace(0, 255, SIZE * SIZE).reshape(SIZE, SIZE, 1).astype(np.uint8)
    return np.concatenate([tiny.photos(1)[0], alpha], axis=2)


def over_white(rgba: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The rule in floating point; 8-bit arithmetic is off by one at most."""
    alpha = rgba[..., 3:] / 255
    return np.asarray(rgba[..., :3] * alpha + 255 * (1 - alpha))


class TestColours:
    @pytest.mark.parametrize("marked", [True, False])
    def test_cmyk_jpeg_is_inverted_where_adobes_marker_says_so(self, marked: bool) -> None:
        """Pillow takes it so with or without the marker; of a file without, libjpeg says that 0 is no ink."""
        cmyk = PHOTO.resize((SIZE, SIZE)).convert("CMYK")
        data = saved(cmyk, "JPEG", quality=100, subsampling=0)
        at = data.index(b"\xff\xee")
        assert data[at + 4 : at + 9] == b"Adobe"
        if not marked:
            data = data[:at] + data[at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0] :]
        inks = np.asarray(cmyk).astype(float)
        inks = inks if marked else 255 - inks
        expected = (255 - inks[..., :3]) * (255 - inks[..., 3:]) / 255
        assert np.abs(pixels(data) - expected).max() <= 5  # and of the JPEG's own loss

    @pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La", "PA"])
    def test_alpha_lies_over_white(self, mode: str) -> None:
        image = Image.fromarray(transparent()).convert({"La": "LA"}.get(mode, mode)).convert(mode)
        rgba = np.asarray(image.convert("LA" if mode == "La" else "RGBA").convert("RGBA"))
        assert np.abs(fit(image, SIZE) - over_white(rgba)).max() <= 1

    @pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
    def test_alpha_in_files(self, kind: str) -> None:
        how = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        data = saved(Image.fromarray(transparent()), kind, **how)
        assert np.abs(pixels(data) - over_white(transparent())).max() <= 1

    def test_a_large_transparent_image_is_laid_over_white_in_bands(self, monkeypatch: pytest.MonkeyPatch) -> None:
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (61, 37, 4), dtype=np.uint8))
        whole = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        for pixels_at_once in (1, 37 * 7, 1 << 20):
            monkeypatch.setattr("coda_runtime.images.reading._BAND", pixels_at_once)
            np.testing.assert_array_equal(np.asarray(open_rgb(image, name="it")), np.asarray(whole))

    @pytest.mark.parametrize("kind", ["PNG", "GIF"])
    @pytest.mark.parametrize("which", [0, 200])
    def test_a_palette_with_a_transparent_colour(self, kind: str, which: int) -> None:
        palette = np.random.default_rng(0).integers(0, 255, (256, 3), dtype=np.uint8)
        index = np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE)
        image = Image.fromarray(index)
        image.putpalette(palette.tobytes())
        expected = palette.copy()
        np.testing.assert_array_equal(pixels(saved(image, kind)), expected[index])
        expected[which] = 255
        np.testing.assert_array_equal(pixels(saved(image, kind, transparency=which)), expected[index])

    def test_a_palette_with_alpha_for_each_colour(self) -> None:
        palette = np.random.default_rng(0).integers(0, 256, (256, 4), dtype=np.uint8)
        index = np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE)
        image = Image.fromarray(index)
        image.putpalette(palette[:, :3].tobytes())
        got = pixels(saved(image, "PNG", transparency=palette[:, 3].tobytes()))
        assert np.abs(got - over_white(palette)[index]).max() <= 1

    def test_a_key_colour(self) -> None:
        grey = np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE)
        colours = np.stack([grey, grey, 255 - grey], axis=2)
        for array, key in ((grey, 7), (colours, (7, 7, 248))):
            expected = np.where(grey[..., None] == 7, 255, np.stack([grey] * 3, 2) if array is grey else colours)
            np.testing.assert_array_equal(pixels(saved(Image.fromarray(array), "PNG", transparency=key)), expected)

    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    def test_16_bit_png_keeps_the_high_byte(self, channels: int) -> None:
        deep = np.random.default_rng(0).integers(0, 65536, (SIZE, SIZE, channels)).astype(">u2")
        if channels in (2, 4):
            deep[..., -1] = 65535
        rows = b"".join(b"\0" + row.tobytes() for row in deep)
        got = pixels(png(SIZE, SIZE, zlib.compress(rows), depth=16, colour={1: 0, 2: 4, 3: 2, 4: 6}[channels]))
        high = (deep >> 8).astype(np.uint8)
        expected = high[..., :3] if channels > 2 else np.repeat(high[..., :1], 3, axis=2)
        np.testing.assert_array_equal(got, expected)

    @pytest.mark.parametrize("order", ["<", ">"])
    def test_16_bit_tiff_of_both_byte_orders(self, order: str) -> None:
        deep = np.random.default_rng(0).integers(0, 65536, (SIZE, SIZE)).astype(f"{order}u2")
        mode = "I;16" if order == "<" else "I;16B"
        image = Image.frombytes(mode, (SIZE, SIZE), deep.tobytes())
        np.testing.assert_array_equal(pixels(saved(image, "TIFF"))[..., 0], deep >> 8)

    def test_one_bit(self) -> None:
        bits = np.random.default_rng(0).integers(0, 2, (SIZE, SIZE)).astype(bool)
        for kind in ("PNG", "BMP", "TIFF", "PPM"):
            np.testing.assert_array_equal(pixels(saved(Image.fromarray(bits), kind))[..., 0], bits * 255)

    @pytest.mark.parametrize(
        ("bits", "message"), [(32, "32-bit grey values of unknown range"), (64, "is not an image that Pillow can read")]
    )
    def test_floating_point_tiff_is_rejected(self, bits: int, message: str) -> None:
        values = np.zeros((SIZE, SIZE), f"<f{bits // 8}").tobytes()
        start = 8 + 2 + 10 * 12 + 4
        shape = {256: SIZE, 257: SIZE, 258: bits, 277: 1, 339: 3}
        tags = {**shape, 259: 1, 262: 1, 273: start, 278: SIZE, 279: len(values)}
        assert message in rejected(little_tiff([(tag, 4, 1, value) for tag, value in tags.items()], values))


class TestFrames:
    @pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
    def test_the_first_of_many(self, kind: str) -> None:
        frames = [Image.new("RGB", (SIZE, SIZE), colour) for colour in ("red", "lime", "blue")]
        how = {"lossless": True} if kind == "WEBP" else {}
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **how)
        assert getattr(Image.open(io.BytesIO(data)), "n_frames", 0) == 3
        np.testing.assert_array_equal(pixels(data), np.asarray(frames[0]))

    def test_a_phones_mpo(self) -> None:
        other = Image.new("RGB", PHOTO.size, "blue")
        data = saved(PHOTO, "MPO", save_all=True, append_images=[other], quality=100, subsampling=0)
        assert Image.open(io.BytesIO(data)).format == "MPO"
        for formats in (None, ("JPEG", "PNG")):
            assert np.abs(pixels(data, formats=formats).astype(int) - fit(PHOTO, SIZE)).max() < 8


class TestMetadata:
    @pytest.mark.parametrize("value", range(10))
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
    def test_orientation(self, kind: str, value: int) -> None:
        """Values 1 to 8 turn the picture as the standard's table of rows and columns says, others do not."""
        exif = Image.Exif()
        exif[0x0112] = value
        how: dict[str, Any] = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
        data = saved(PHOTO, kind, exif=exif, **how)
        stored = np.asarray(Image.open(io.BytesIO(saved(PHOTO, kind, **how))).convert("RGB"))
        upright = {
            2: stored[:, ::-1],
            3: stored[::-1, ::-1],
            4: stored[::-1],
            5: stored.swapaxes(0, 1),
            6: stored[::-1].swapaxes(0, 1),
            7: stored[::-1, ::-1].swapaxes(0, 1),
            8: stored.swapaxes(0, 1)[::-1],
        }.get(value, stored)
        np.testing.assert_array_equal(np.asarray(open_rgb(io.BytesIO(data), name="it")), upright)

    @pytest.mark.parametrize(
        "exif",
        [
            b"Exif\0\0" + b"garbage that is no TIFF",
            b"Exif\0\0II*\0\xff\xff\xff\xff",
            b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 65535) + bytes(200),
            b"Exif\0\0"
            + little_tiff([(0x0112, 3, 1, 6), (0x8769, 4, 1, 8), (0x8825, 4, 1, 8)]),  # IFDs that are itself
            b"Exif\0\0" + little_tiff([(0x0112, 2, 2**31, 4)]),
            b"Exif\0\0" + little_tiff([(0x0112, 5, 1, 8)]),
            b"Exif\0\0",
        ],
        ids=["garbage", "nowhere", "65535-entries", "loop", "long", "rational", "empty"],
    )
    def test_damaged_exif_leaves_the_image(self, exif: bytes) -> None:
        got = pixels(saved(PHOTO, "JPEG", exif=exif))
        lying = Image.open(io.BytesIO(saved(PHOTO, "JPEG")))
        turned = exif.startswith(b"Exif\0\0II*\0\x08\0\0\0\x03\0")  # the one whose orientation can be read
        expected = fit(lying.transpose(Image.Transpose.ROTATE_270) if turned else lying, SIZE)
        np.testing.assert_array_equal(got, expected)

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
    def test_damaged_exif_of_very_many_tags_writes_no_line_for_each(self, kind: str) -> None:
        """Each warning is another text: all would be shown, and kept."""
        count = 5000 if kind == "JPEG" else 65535
        entries = b"".join(struct.pack("<HHII", tag, 2, 1000, 2**31 + tag) for tag in range(count))
        tiff = b"II*\0" + struct.pack("<IH", 8, count) + entries + bytes(4)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if kind == "TIFF":
                rejected(tiff)
            elif kind == "PNG":
                pixels(png(64, 64, zlib.compress(bytes(65 * 64)), chunk(b"eXIf", tiff)))
            else:
                pixels(saved(PHOTO, kind, exif=b"Exif\0\0" + tiff))
        assert not caught

    def test_a_turned_image_with_more_exif_than_can_be_written(self) -> None:
        """Whoever removes the orientation writes the rest of the EXIF anew, which need not be possible."""
        entries = [(0x0112, 3, 1, 3), (0x010E, 2, 30, 100), (0x9999, 7, 10, 60), (0x8769, 4, 1, 9999)]
        data = saved(PHOTO, "JPEG", exif=b"Exif\0\0" + little_tiff(entries, bytes(200)))
        lying = Image.open(io.BytesIO(saved(PHOTO, "JPEG")))
        np.testing.assert_array_equal(pixels(data), fit(lying.transpose(Image.Transpose.ROTATE_180), SIZE))

    def test_a_huge_profile_is_not_applied(self) -> None:
        profile = np.random.default_rng(0).bytes(3_000_000)
        plain = pixels(saved(PHOTO, "JPEG"))
        np.testing.assert_array_equal(pixels(saved(PHOTO, "JPEG", icc_profile=profile)), plain)

    def test_a_tiff_with_a_million_entries(self) -> None:
        entries = struct.pack("<HHII", 65000, 4, 1, 0) * 65535
        rejected(b"II*\0" + struct.pack("<IH", 8, 65535) + entries + struct.pack("<I", 8))


def pixels_or_image_error(data: bytes) -> None:
    try:
        shape, message = pixels(data, max_pixels=1 << 20).shape, ""
    except ImageError as error:
        shape, message = (), str(error)
    assert shape == (SIZE, SIZE, 3) or "'it'" in message


class TestDamage:
    @settings(max_examples=150)
    @given(start=st.sampled_from(sorted(FILES)), rest=st.binary(max_size=400), keep=st.integers(0, 60))
    def test_random_bytes(self, start: str, rest: bytes, keep: int) -> None:
        pixels_or_image_error(FILES[start][:keep] + rest)

    @settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
    @given(data=st.data(), start=st.sampled_from(sorted(FILES)))
    def test_flipped_bits(self, data: st.DataObject, start: str) -> None:
        damaged = bytearray(FILES[start])
        # Headers are where damage does most.
        early = st.integers(0, 8 * min(len(damaged), 700) - 1)
        anywhere = st.integers(0, 8 * len(damaged) - 1)
        for bit in data.draw(st.lists(early | anywhere, min_size=1, max_size=6)):
            damaged[bit // 8] ^= 1 << bit % 8
        pixels_or_image_error(bytes(damaged))


class TestArrays:
    def test_an_array_interface_that_lies_is_not_followed(self) -> None:
        class Lying:
            @property
            def __array_interface__(self) -> dict[str, Any]:
                return {"shape": (1, 32, 32, 3), "typestr": "|u1", "data": (8, False), "version": 3}

        for images in (Lying(), [Lying()]):
            with pytest.raises(ImageError, match="Lying; expected"):
                Batches(images, SIZE).take(slice(0, 1))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, None, "255"])
    def test_only_bytes_are_pixels(self, value: Any) -> None:
        for dtype in (object, type(value) if not isinstance(value, str) and value is not None else "U3"):
            array = np.full((1, SIZE, SIZE, 3), value, dtype)
            with pytest.raises(ImageError, match="expected uint8"):
                Batches(array, SIZE)
            with pytest.raises(ImageError, match="expected uint8"):
                fit(array[0], SIZE)

    def test_bytes_are_no_path(self) -> None:
        with pytest.raises(ImageError, match=r"images\[0\] is a bytes; expected a path"):
            Batches([saved()], SIZE).take(slice(0, 1))
