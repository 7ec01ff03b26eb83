"""What the values in a file mean: which way they count, which are clear, and what becomes of a colour profile."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import coda_runtime
from coda_runtime import ImageError, InputError
from coda_runtime.images import IgnoredProfiles, fit, fit_bytes, open_rgb
from tests.runtime import tiny
from tests.runtime.images import icc

PHOTO = tiny.photos(1, 40, 60)[0]


def read(data: bytes, **how: Any) -> np.ndarray[Any, Any]:
    return np.asarray(open_rgb(io.BytesIO(data), name="it", **how))


def saved(image: Image.Image | np.ndarray[Any, Any] = PHOTO, kind: str = "PNG", **how: Any) -> bytes:
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, kind, **how)
    return out.getvalue()


def tiff(values: np.ndarray[Any, Any], bits: int, photometric: int, order: str = "<") -> bytes:
    """One strip of grey values; those of 12 bits are packed."""
    height, width = values.shape
    if bits == 12:
        pairs = values.reshape(-1, 2).astype(int)
        data = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1)
        strip = data.astype(np.uint8).tobytes()
    else:
        strip = values.astype(f"{order}u{bits // 8}").tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 277: 1, 278: height, 279: len(strip)}
    start = 8 + 2 + 12 * (len(tags) + 1) + 4
    entries = sorted({**tags, 273: start}.items())
    ifd = struct.pack(order + "H", len(entries))
    ifd += b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in entries) + bytes(4)
    return {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8) + ifd + strip


def png(width: int, depth: int, kind: int, row: bytes, clear: bytes, *more: tuple[bytes, bytes]) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, kind, 0, 0, 0)) + chunk(b"tRNS", clear)
    head += b"".join(chunk(*item) for item in more)
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")


class TestWhichWayValuesCount:
    @pytest.mark.parametrize(("bits", "order"), [(8, "<"), (8, ">"), (16, "<")])
    def test_a_tiff_whose_white_is_0(self, bits: int, order: str) -> None:
        grey = np.arange(64 * 4).reshape(64, 4)
        values = (grey * 257 if bits == 16 else grey).astype(np.uint16)
        usual = read(tiff(values, bits, 1, order))
        np.testing.assert_array_equal(usual[..., 0], grey)
        np.testing.assert_array_equal(read(tiff((1 << bits) - 1 - values, bits, 0, order)), usual)

    def test_12_bits_fill_the_range(self) -> None:
        grey = np.arange(64 * 4).reshape(64, 4)
        np.testing.assert_array_equal(read(tiff(grey * 16 + 7, 12, 1))[..., 0], grey)

    def test_a_cmyk_jpeg_says_by_adobes_marker_that_0_is_all_ink(self) -> None:
        with_marker = saved(Image.new("CMYK", (16, 16), (200, 30, 60, 10)), "JPEG", quality=100)
        at = with_marker.index(b"\xff\xee")
        length = int.from_bytes(with_marker[at + 2 : at + 4], "big")
        assert b"Adobe" in with_marker[at : at + 2 + length]
        without = with_marker[:at] + with_marker[at + 2 + length :]
        colours = {
            marker: Image.new("CMYK", (1, 1), ink).convert("RGB").getpixel((0, 0))
            for marker, ink in ((True, (200, 30, 60, 10)), (False, (55, 225, 195, 245)))
        }
        np.testing.assert_allclose(read(with_marker)[8, 8], colours[True], atol=3)
        np.testing.assert_allclose(read(without)[8, 8], colours[False], atol=3)
        with Image.open(io.BytesIO(without)) as opened:  # as Pillow opens it, too
            np.testing.assert_allclose(fit(opened, 16)[8, 8], colours[False], atol=3)


class TestWhichValuesAreClear:
    @pytest.mark.parametrize(
        ("depth", "row", "clear", "expected"),
        [
            (1, b"\x40", 1, (0, 255)),
            (1, b"\x40", 0, (255, 255)),
            (2, b"\x60", 1, (255, 170)),
            (4, b"\x57", 5, (255, 119)),
            (8, b"\x57\x58", 0x57, (255, 0x58)),
            (16, b"\x12\x34\x12\x35", 0x1234, (255, 0x12)),
        ],
    )
    def test_grey(self, depth: int, row: bytes, clear: int, expected: tuple[int, int]) -> None:
        found = read(png(2, depth, 0, row, struct.pack(">H", clear)))
        np.testing.assert_array_equal(found[0], [[value] * 3 for value in expected])

    @pytest.mark.parametrize(("depth", "size"), [(8, 1), (16, 2)])
    def test_rgb(self, depth: int, size: int) -> None:
        clear, near = (
            ([0x12, 0x34, 0x56], [0x12, 0x34, 0x57])
            if depth == 8
            else ([0x1234, 0x3456, 0x5678], [0x1234, 0x3456, 0x5679])
        )
        row = b"".join(value.to_bytes(size, "big") for value in clear + near)
        found = read(png(2, depth, 2, row, struct.pack(">HHH", *clear)))
        np.testing.assert_array_equal(found[0], [[255] * 3, [value >> (depth - 8) for value in near]])

    def test_16_bit_rgb_turned_and_as_pillow_opens_it(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 3
        row = b"\x12\x34" * 3 + b"\x12\x35" * 3
        data = png(
            2, 16, 2, row, struct.pack(">HHH", *[0x1234] * 3), (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
        )
        assert read(data)[0, :, 0].tolist() == [0x12, 255]
        with Image.open(io.BytesIO(data)) as opened:
            assert np.asarray(open_rgb(opened, name="it"))[0, :, 0].tolist() == [0x12, 255]
        with Image.open(io.BytesIO(data)) as opened:
            opened.load()  # of which Pillow has kept the upper bits alone
            assert np.asarray(open_rgb(opened, name="it"))[0, :, 0].tolist() == [255, 255]


FORMATS = [("PNG", {}), ("TIFF", {}), ("JPEG", {"quality": 100, "subsampling": 0}), ("WEBP", {"lossless": True})]


class TestProfiles:
    @pytest.mark.parametrize(("kind", "how"), FORMATS)
    def test_they_are_ignored_and_counted(self, kind: str, how: dict[str, Any]) -> None:
        ignored = IgnoredProfiles()
        np.testing.assert_array_equal(
            read(saved(PHOTO, kind, icc_profile=icc.rgb(), **how), ignored=ignored), read(saved(PHOTO, kind, **how))
        )
        assert (ignored.count, ignored.first) == (1, "it")
        assert ignored.warning().startswith(
            "1 image has a colour profile other than sRGB (the first: it), which is ign"
        )

    @pytest.mark.parametrize(("kind", "how"), FORMATS)
    def test_or_converted_by(self, kind: str, how: dict[str, Any]) -> None:
        ignored = IgnoredProfiles()
        found = read(saved(PHOTO, kind, icc_profile=icc.rgb(), **how), color="srgb", ignored=ignored)
        expected = icc.to_srgb(read(saved(PHOTO, kind, **how)))
        assert np.abs(found - expected).max() <= 2
        assert ignored.count == 0
        assert np.abs(expected - PHOTO).max() > 20

    def test_without_one_nothing_changes(self) -> None:
        np.testing.assert_array_equal(read(saved(), color="srgb"), PHOTO)

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1"])
    def test_every_mode_that_an_rgb_profile_may_be_about(self, mode: str) -> None:
        image = Image.fromarray(PHOTO).convert(mode)
        if mode in ("RGBA", "LA"):
            image.putalpha(Image.fromarray(np.tile(np.array([0, 255], np.uint8), (40, 30))))
        plain = read(saved(image))
        found = read(saved(image, icc_profile=icc.rgb()), color="srgb")
        expected = icc.to_srgb(plain)
        assert np.abs(found.astype(int) - expected).max() <= 2
        if mode in ("RGBA", "LA"):
            assert (found[:, ::2] == 255).all()

    def test_a_grey_one(self) -> None:
        grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
        found = read(saved(grey, icc_profile=icc.grey(1.8)), color="srgb")
        expected = icc.to_srgb(np.repeat(grey[..., None], 3, axis=2), icc.SRGB, 1.8)
        assert np.abs(found - expected).max() <= 2
        sixteen = Image.fromarray(grey.astype(np.uint16) * 257)
        np.testing.assert_array_equal(read(saved(sixteen, icc_profile=icc.grey(1.8)), color="srgb"), found)

    def test_a_printers(self) -> None:
        image = Image.new("CMYK", (8, 8), (255, 0, 255, 0))
        found = read(saved(image, "TIFF", icc_profile=icc.cmyk()), color="srgb")
        assert found.min() >= 253  # by the profile these inks are nothing
        image = Image.new("CMYK", (8, 8), (0, 0, 0, 255))
        assert read(saved(image, "TIFF", icc_profile=icc.cmyk()), color="srgb").max() <= 2

    def test_a_pil_image_has_one_too(self) -> None:
        with Image.open(io.BytesIO(saved(icc_profile=icc.rgb()))) as opened:
            found = fit(opened, 40, color="srgb")
        np.testing.assert_array_equal(found, fit_bytes(saved(icc_profile=icc.rgb()), 40, name="it", color="srgb"))
        assert (found != fit(Image.fromarray(PHOTO), 40)).any()

    def test_srgb_by_name_is_no_reason_to_warn(self) -> None:
        from PIL import ImageCms

        ignored = IgnoredProfiles()
        own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        for profile in (own, icc.rgb(icc.SRGB, 2.2, "sRGB IEC61966-2.1")):
            read(saved(icc_profile=profile), ignored=ignored)
        assert (ignored.count, ignored.warning()) == (0, "")

    @pytest.mark.parametrize(
        ("image", "profile", "match"),
        [
            (PHOTO, b"not a profile at all", "cannot be used"),
            (PHOTO, icc.rgb()[:300], "cannot be used"),
            (PHOTO, icc.grey(2.2), "a grey profile, and the image is of mode RGB"),
            (PHOTO, icc.cmyk(), "a CMYK profile, and the image is of mode RGB"),
            (PHOTO, bytes(9 << 20), "more than the limit"),
        ],
    )
    def test_a_broken_one_is_told(self, image: np.ndarray[Any, Any], profile: bytes, match: str) -> None:
        how = "TIFF" if len(profile) > 1 << 20 else "PNG"
        data = saved(image, how, icc_profile=profile)
        with pytest.raises(ImageError, match=match) as caught:
            read(data, color="srgb")
        assert "'it' has a colour profile" in str(caught.value)
        assert 'color="stored"' in str(caught.value)
        np.testing.assert_array_equal(read(data), image)

    def test_another_color_is_refused(self) -> None:
        for call in (
            lambda: read(saved(), color="p3"),
            lambda: coda_runtime.LoadOptions(color="p3"),
        ):
            with pytest.raises(InputError, match="color is 'p3'; expected 'stored' or 'srgb'"):
                call()


class TestTokenizer:
    def test_it_warns_once_a_call_and_counts(self, sealed: Path, tmp_path: Path) -> None:
        for number in range(3):
            (tmp_path / f"{number}.png").write_bytes(saved(icc_profile=icc.rgb() if number else None))
        files = sorted(tmp_path.glob("*.png"))
        with coda_runtime.load(sealed) as tok:
            with pytest.warns(RuntimeWarning, match="2 images have a colour profile other than sRGB") as caught:
                ids = tok.encode(files)
            assert len(caught) == 1
            assert caught[0].filename == __file__
            np.testing.assert_array_equal(ids, tok.encode([PHOTO] * 3))
            assert tok.color == "stored"

    def test_srgb(self, sealed: Path, tmp_path: Path) -> None:
        (tmp_path / "it.png").write_bytes(saved(icc_profile=icc.rgb()))
        with coda_runtime.load(sealed, color="srgb") as tok:
            found = tok.encode([tmp_path / "it.png"])
            converted = read((tmp_path / "it.png").read_bytes(), color="srgb")
            np.testing.assert_array_equal(found, tok.encode([converted]))
            assert tok.color == "srgb"
