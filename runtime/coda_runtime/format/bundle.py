"""A bundle folder: opened, checked, and sealed by the exporter."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shlex
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import ArtifactError, BundleError, BundleNotFoundError, ChecksumError, InputError, one_line
from ..io.atomic_files import staged_file
from ..io.hub_cache import blobs_of
from ..io.npy import read_npy
from ..io.regular_files import open_regular, read_bounded
from ..io.user_folders import expand_home
from . import checksums
from .checksums import Verify
from .graph_check import check_graph, check_graph_once
from .manifest import CHECKSUMS_NAME, MANIFEST_NAME, MAX_BYTES, Artifact, Manifest
from .parts import QUANTIZER
from .spec import Spec


class Bundle:
    """A folder with a manifest that parsed. Files are checked by `verify`, not by opening."""

    def __init__(self, folder: Path, manifest: Manifest, manifest_bytes: bytes) -> None:
        self.folder = folder
        self.manifest = manifest
        self._manifest_bytes = manifest_bytes
        self._verify: Verify = "cached"

    @property
    def spec(self) -> Spec:
        """What the tokenizer computes."""
        return self.manifest.spec

    @property
    def codebook(self) -> Artifact | None:
        """The value table's artifact, None in a bundle that has none."""
        return next(iter(self.manifest.find("codebook", format="npy")), None)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """What ids belong to, each "part:sha256": the value table, where there is one, and the quantizers.

        Bundles that share one of them come from the same tokenizer, whichever versions exported them. PTX is no sign
        of that: it follows from the tokenizer's sizes alone.
        """
        quantizers = [artifact for artifact in self.manifest.find(QUANTIZER.name) if artifact.format != "ptx"]
        artifacts = [*self.manifest.find("codebook"), *quantizers]
        return tuple(f"{artifact.part}:{artifact.sha256}" for artifact in artifacts)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Bundle:
        """Read a bundle's manifest. Raises BundleNotFoundError, ManifestError, FormatVersionError."""
        root = expand_home(folder)
        if not root.exists():
            raise BundleNotFoundError(f"there is no folder {str(root)!r}; expected a bundle, which `coda export` makes")
        if not root.is_dir():
            raise BundleNotFoundError(f"{str(root)!r} is a file; expected the bundle folder that holds {MANIFEST_NAME}")
        path = root / MANIFEST_NAME
        try:
            data = read_bounded(path, MAX_BYTES)
        except FileNotFoundError as error:
            raise BundleNotFoundError(
                f"{str(root)!r} has no {MANIFEST_NAME}, so it is not a bundle; `coda export` makes one"
            ) from error
        except OSError as error:
            raise BundleNotFoundError(
                f"{path} cannot be read ({one_line(error)}); check what it is, and its permissions"
            ) from error
        return cls(root, Manifest.parse(data), data)

    def path(self, artifact: Artifact) -> Path:
        """Return an artifact's path. Raises ChecksumError when it is missing or leaves the bundle through a link."""
        path = self.folder / artifact.file
        try:
            real = path.resolve()
            there = real.is_file()
        except (OSError, RuntimeError):  # a loop of links, a name that is too long
            there = False
        if not there:
            raise ChecksumError(
                f"{path} is missing, and the manifest lists it; copy, download or export the bundle again"
            )
        if not any(real.is_relative_to(root) for root in self._roots()):
            raise ChecksumError(f"{path} is a link that leaves the bundle, to {real}; put the file itself there")
        return path

    def verify(self, mode: Verify = "cached", *, graphs: bool = True, apart_from: Collection[Artifact] = ()) -> None:
        """Check what `check` does. Raises ChecksumError, ArtifactError.

        Left out is what `apart_from` holds, and without `graphs` ONNX files are compared with their checksums alone:
        for whoever takes bytes from `read`, which checks them itself.
        """
        for _, problem in self.check(mode, graphs=graphs, apart_from=apart_from):
            if problem is not None:
                raise problem

    def check(
        self, mode: Verify = "always", *, graphs: bool = True, apart_from: Collection[Artifact] = ()
    ) -> Iterator[tuple[str, BundleError | None]]:
        """Yield (file name, what is wrong with it or None) for every file of the bundle.

        The manifest is compared with SHA256SUMS, every file with the manifest (ChecksumError), and with `graphs` an
        ONNX file must be one that may be loaded (ArtifactError, see graph_check). `read` believes checksums as far as
        `mode` does from then on.
        """
        if mode not in ("cached", "always"):
            raise InputError(f'verify is {mode!r}; expected "cached" or "always"')
        self._verify = mode
        sums = self.folder / CHECKSUMS_NAME
        # A SHA256SUMS that the manifest does not mention counts too: the key itself may be what was altered.
        if self.manifest.checksums is not None or sums.exists():
            found = self._read_sums(sums)
            yield MANIFEST_NAME, found if isinstance(found, ChecksumError) else None
        for artifact in self.manifest.artifacts:
            if artifact in apart_from:
                continue
            try:
                self.check_artifact(artifact, mode, graphs=graphs)
            except BundleError as problem:
                yield artifact.file, problem
            else:
                yield artifact.file, None

    def check_artifact(self, artifact: Artifact, mode: Verify = "always", *, graphs: bool = True) -> None:
        """Do what `check` does for one file. Raises ChecksumError, ArtifactError."""
        path = self.path(artifact)
        checksums.check_file(path, artifact.sha256, artifact.bytes, verify=mode)
        if graphs and artifact.format == "onnx":
            check_graph(path)

    def read(self, artifact: Artifact) -> bytes:
        """Return a file's bytes, which `check_artifact` would pass: what was checked is what is returned.

        Files may be exchanged after they were checked, so whoever loads one takes these bytes and not its path. They
        are hashed again after `verify("always")`. Raises ChecksumError, ArtifactError.
        """
        path = self.path(artifact)
        data = checksums.read_file(path, artifact.sha256, artifact.bytes, verify=self._verify)
        if artifact.format == "onnx":
            if self._verify == "cached":
                check_graph_once(path, data, artifact.sha256)
            else:
                check_graph(path, data)
        return data

    def read_lists(self) -> dict[str, bytes]:
        """Return {name: bytes} of the manifest and SHA256SUMS, where there is one, as `check` would pass them.

        Raises ChecksumError.
        """
        lists = {MANIFEST_NAME: self._manifest_bytes}
        path = self.folder / CHECKSUMS_NAME
        if self.manifest.checksums is not None or path.exists():
            found = self._read_sums(path)
            if isinstance(found, ChecksumError):
                raise found
            lists[CHECKSUMS_NAME] = found
        return lists

    def load_codebook(self) -> npt.NDArray[np.float32]:
        """Load the value table, float32 [V, C], read-only. Raises ArtifactError, ChecksumError."""
        artifact = self.codebook
        if artifact is None:
            raise ArtifactError(
                f"{self.folder} has no value table (part 'codebook', format 'npy'), so there is no embed and no "
                "codebook; export the bundle again with `coda export`"
            )
        path = self.folder / artifact.file
        try:
            table = read_npy(path, self.read(artifact))
        except ValueError as error:
            raise ArtifactError(f"{path} is not a .npy file ({error}); export the bundle again") from error
        expected = (self.spec.vocab_size, self.spec.latent_channels)
        if table.dtype != np.float32 or table.shape != expected:
            raise ArtifactError(
                f"{path} holds {table.dtype} {list(table.shape)}, expected float32 {list(expected)}; "
                "export the bundle again"
            )
        table.flags.writeable = False
        return table

    def _roots(self) -> tuple[Path, ...]:
        root = self.folder.resolve()
        blobs = blobs_of(root)
        return (root,) if blobs is None else (root, blobs)

    def _read_sums(self, path: Path) -> bytes | ChecksumError:
        """Return the bytes of SHA256SUMS, or what is wrong with it or the manifest."""
        try:
            data = read_bounded(path, MAX_BYTES)
            listed = checksums.parse_sums(data, path)
        except ChecksumError as problem:
            return problem
        except OSError as error:
            return ChecksumError(
                f"{path} cannot be read ({one_line(error)}), and {MANIFEST_NAME} names it; "
                "copy, download or export the bundle again"
            )
        expected = {MANIFEST_NAME: hashlib.sha256(self._manifest_bytes).hexdigest()}
        expected |= {artifact.file: artifact.sha256 for artifact in self.manifest.artifacts}
        problem_text = checksums.sums_problem(listed, expected)
        if problem_text is None:
            return data
        if (left := self._unfinished(expected)) is not None:
            # Quoted: this is copied into a shell, and who made the folder chose the name.
            finish = shlex.join(["mv", "--", str(left), str(path)])
            return ChecksumError(
                f"{self.folder}: {problem_text}, because writing the two was interrupted; finish it: {finish}"
            )
        return ChecksumError(f"{self.folder}: {problem_text}; copy, download or export the bundle again")

    def _unfinished(self, expected: Mapping[str, str]) -> Path | None:
        """Return what `seal` left beside SHA256SUMS when it was killed after it had replaced the manifest."""
        for path in self.folder.glob(f".{CHECKSUMS_NAME}.*.part"):
            try:
                if checksums.parse_sums(read_bounded(path, MAX_BYTES), path) == expected:
                    return path
            except (OSError, ChecksumError):
                continue
        return None


def describe_file(folder: Path, file: str) -> tuple[str, int]:
    """Return the (SHA-256, size in bytes) of a file of the bundle, for its Artifact. Raises OSError."""
    with open_regular(folder / file) as opened:
        return checksums.hash_open(opened), opened.tell()


def seal(folder: str | os.PathLike[str], manifest: Manifest) -> Manifest:
    """Write manifest.json and SHA256SUMS into a folder that holds the manifest's files; return what was written.

    The files are checked against the manifest first, so a sealed bundle verifies. Raises ManifestError for a manifest
    that would not load, ChecksumError for a file that is missing or differs, OutputError, OSError.
    """
    root = Path(folder)
    sealed = dataclasses.replace(manifest, checksums=CHECKSUMS_NAME)
    data = sealed.dump()
    bundle = Bundle(root, Manifest.parse(data), data)
    for artifact in sealed.artifacts:
        bundle.check_artifact(artifact)
    digests = {MANIFEST_NAME: hashlib.sha256(data).hexdigest()}
    digests |= {artifact.file: artifact.sha256 for artifact in sealed.artifacts}
    # Both are complete before either takes its place, the manifest first: killed between the two, the bundle is broken
    # until what is left beside SHA256SUMS takes its place too, as loading it then says.
    with staged_file(root / CHECKSUMS_NAME) as sums, staged_file(root / MANIFEST_NAME) as listing:
        listing.write_bytes(data)
        sums.write_bytes(checksums.format_sums(digests))
    return bundle.manifest
