from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coda_runtime import FormatVersionError, Manifest, ManifestError
from coda_runtime.format.manifest import Artifact, check_file_name
from coda_runtime.format.spec import Spec


@pytest.fixture
def data(minimal: Path) -> dict[str, Any]:
    return dict(json.loads((minimal / "manifest.json").read_text()))


def _fails(data: dict[str, Any], match: str) -> None:
    with pytest.raises(ManifestError, match=match):
        Manifest.parse(json.dumps(data))


def test_the_contracts_skeleton_is_enough(data: dict[str, Any]) -> None:
    manifest = Manifest.parse(json.dumps(data))
    assert manifest.spec == Spec("tiny", 32, 8, 4, 16, (1, 2, 4), 21)
    assert manifest.spec.prefix_lengths == (1, 5, 21)
    assert manifest.license is None
    assert manifest.checksums is None
    assert manifest.precisions == ("fp32",)


def test_what_is_read_is_written_back(data: dict[str, Any]) -> None:
    data["note"] = 1
    data["spec"]["patch"] = "x"
    data["artifacts"][0]["comment"] = ["kept"]
    data["artifacts"][0]["batch"] = [1, 4, 8]
    data["artifacts"][0]["engine"] = {"targets": ["sm89"]}
    manifest = Manifest.parse(json.dumps(data))
    again = json.loads(manifest.dump())
    assert again["note"] == 1
    assert again["spec"]["patch"] == "x"
    assert again["artifacts"] == data["artifacts"]
    assert Manifest.parse(manifest.dump()) == manifest


def test_several_profiles_stand_where_one_does_not(data: dict[str, Any]) -> None:
    data["artifacts"][0] |= {"profiles": [[1, 1, 1], [8, 16, 32]], "engine": {"targets": ["sm89"]}}
    manifest = Manifest.parse(json.dumps(data))
    artifact = manifest.artifacts[0]
    assert (artifact.batch, artifact.profiles) == (None, ((1, 1, 1), (8, 16, 32)))
    written = json.loads(manifest.dump())["artifacts"][0]
    assert written == data["artifacts"][0]
    assert "batch" not in written, "who knows of one profile alone must not take one of these for it"
    one = artifact.with_profiles([(1, 4, 8)])
    assert (one.batch, one.profiles) == ((1, 4, 8), ((1, 4, 8),))
    assert "profiles" not in one.to_json()
    assert one.with_profiles(artifact.profiles) == artifact
    data["artifacts"][0]["batch"] = [1, 4, 8]
    _fails(data, r"artifacts\[0\] has batch and profiles; expected one of them")


def test_a_newer_format_says_to_upgrade_before_anything_else(data: dict[str, Any]) -> None:
    with pytest.raises(FormatVersionError, match="newer coda: upgrade coda-runtime"):
        Manifest.parse('{"format_version": 2}')
    data["format_version"] = 0
    _fails(data, "format_version is 0")


@pytest.mark.parametrize("key", ["format_version", "spec", "default_precision", "artifacts"])
def test_missing_keys_are_named(data: dict[str, Any], key: str) -> None:
    del data[key]
    _fails(data, f"the key {key} is missing")


@pytest.mark.parametrize(
    "key", ["variant", "image_size", "downsample", "latent_channels", "vocab_size", "scales", "num_tokens"]
)
def test_missing_and_mistyped_keys_of_the_spec_are_named(data: dict[str, Any], key: str) -> None:
    value = data["spec"].pop(key)
    _fails(data, f"the key spec.{key} is missing")
    data["spec"][key] = None
    _fails(data, f"spec.{key} is None")
    data["spec"][key] = {"wrapped": value}
    _fails(data, f"spec.{key} is ")


@pytest.mark.parametrize("key", ["part", "format", "precision", "file", "sha256", "bytes"])
def test_missing_keys_of_an_artifact_are_named(data: dict[str, Any], key: str) -> None:
    del data["artifacts"][1][key]
    _fails(data, rf"artifacts\[1\].{key} is missing")


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        (("spec", "image_size"), True, "spec.image_size is True"),
        (("spec", "image_size"), 32.0, "spec.image_size is 32.0"),
        (("spec", "image_size"), -32, "spec.image_size is -32"),
        (("spec", "num_tokens"), 20, "make 21 tokens"),
        (("spec", "downsample"), 16, "the last scale is 4"),
        (("spec", "scales"), [], "ascending list"),
        (("spec", "scales"), [4, 2, 1], "ascending list"),
        (("spec", "scales"), [1, 2, "4"], "ascending list"),
        (("spec", "resize"), "stretch", "only knows 'shorter side, Lanczos'"),
        (("spec", "color_order"), "BGR", "only knows 'RGB'"),
        (("artifacts", 0, "sha256"), "ABC", "64 lower-case"),
        (("artifacts", 0, "bytes"), -1, "bytes is -1"),
        (("artifacts", 0, "batch"), [4, 2, 8], "batch"),
        (
            ("artifacts", 0, "profiles"),
            [1, 4, 8],
            r"\[1, 4, 8\]; expected 2 to 16 different \[min, opt, max\]",
        ),
        (("artifacts", 0, "profiles"), [[1, 4, 8]], "profiles is"),
        (("artifacts", 0, "profiles"), [[1, 4, 8], [1, 4, 8]], "profiles is"),
        (("artifacts", 0, "profiles"), [[1, 4, 8], None], "profiles is"),
        (("artifacts", 0, "profiles"), [[1, 4, 8], [8, 4, 1]], "profiles is"),
        (("artifacts", 0, "parity"), 3, "parity is 3"),
        (("artifacts", 0), "encoder", r"artifacts\[0\] must be an object"),
        (("artifacts",), {}, "artifacts is {}"),
        (("provenance",), [], "provenance is"),
        (("license",), 7, "license is 7"),
        (("checksums",), "../SHA256SUMS", "checksums is"),
        (("default_precision",), "bf16", "default_precision is 'bf16', but the artifacts are fp32"),
    ],
)
def test_wrong_values_are_named(data: dict[str, Any], path: tuple[Any, ...], value: Any, match: str) -> None:
    target = data
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    _fails(data, match)


def test_other_words_for_the_same_rule_are_taken(data: dict[str, Any]) -> None:
    data["spec"] |= {"resize": "LANCZOS on the shorter side", "crop": "centre", "color_order": "rgb"}
    assert Manifest.parse(json.dumps(data)).spec.crop == "centre"


def test_duplicates_are_rejected_but_not_engines_for_other_gpus(data: dict[str, Any]) -> None:
    twin = copy.deepcopy(data["artifacts"][0])
    data["artifacts"].append({**twin, "file": "other.onnx"})
    _fails(data, r"artifacts\[0\] and artifacts\[3\] are the same")
    for target in ("sm89", "sm120"):
        engine = {"format": "tensorrt", "file": f"engines/{target}.plan", "engine": {"target": target}}
        data["artifacts"][-1:] = (
            [{**twin, **engine}] if target == "sm89" else [data["artifacts"][-1], {**twin, **engine}]
        )
    assert len(Manifest.parse(json.dumps(data)).find("encoder")) == 3
    data["artifacts"][1]["file"] = data["artifacts"][0]["file"]
    _fails(data, "are the same")


def test_a_missing_part_is_named(data: dict[str, Any]) -> None:
    data["artifacts"] = data["artifacts"][:2]
    _fails(data, "no decoder")


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"format_version": NaN}', b'{"a": 1, "a": 2}', b"[" * 100_000],
)
def test_what_is_not_a_json_object_is_rejected(text: bytes) -> None:
    with pytest.raises(ManifestError, match=r"manifest\.json"):
        Manifest.parse(text)


@given(st.text(max_size=20))
def test_an_accepted_file_name_stays_inside(name: str) -> None:
    try:
        check_file_name(name)
    except ManifestError:
        return
    inside = Path("/bundle") / name
    assert ".." not in inside.parts
    assert inside.is_relative_to("/bundle")
    assert inside != Path("/bundle")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_any_json_gives_a_manifest_error(value: Any) -> None:
    with pytest.raises(ManifestError):
        Manifest.from_json(value)
    with pytest.raises(ManifestError):
        Spec.from_json({"scales": value})
    with pytest.raises(ManifestError):
        Artifact.from_json({"part": value})


def test_numbers_that_json_cannot_hold_are_not_written(data: dict[str, Any]) -> None:
    data["artifacts"][0]["parity"] = {"psnr": float("inf")}
    with pytest.raises(ManifestError, match="identical images are null"):
        Manifest.from_json(data).dump()


@pytest.mark.parametrize("text", ["\x1b]0;x\x07", "a\nb", "\u202etxt", "\x9b31m", "\ud800"])
def test_names_can_be_shown(sealed: Path, text: str) -> None:
    data = json.loads((sealed / "manifest.json").read_text())
    data["spec"]["variant"] = text
    with pytest.raises(ManifestError, match=r"spec\.variant is .* expected a non-empty string of printable"):
        Manifest.from_json(data)
