"""Every error that coda raises on purpose.

CodaError                        root: `except coda_runtime.CodaError` catches all of them
├── BundleError                  the bundle folder cannot be used
│   ├── BundleNotFoundError      no such folder, or no manifest.json in it
│   ├── ManifestError            manifest.json is broken, incomplete or contradicts itself
│   │   └── FormatVersionError   manifest.json was written by a newer coda
│   ├── ChecksumError            a file is missing, cut or altered
│   ├── ArtifactError            a file is whole, but does not do what its part promises
│   └── EngineMismatchError      an engine was built for another GPU, library, system or ONNX file
├── InputError                   what the caller passed (also a ValueError)
│   ├── ImageError               an image: unreadable, wrong dtype, wrong shape, empty batch
│   └── TokenError               ids: wrong dtype, wrong shape, out of range, from another tokenizer
├── OutputError                  the result cannot be written where it was asked for
├── DeviceError                  the device or execution provider asked for is not there
├── BackendError                 unknown backend, or an engine library failed
│   └── DeviceMemoryError        the device has no memory left for this batch
├── ParityError                  an artifact is further from its tokenizer than it may be, or cannot be measured
├── BuildError                   an engine could not be built
├── HubError                     the Hugging Face Hub did not deliver
├── MissingDependencyError       an optional library is not installed; `.packages` names it
└── ClosedError                  the tokenizer was closed, or loaded before a fork

Each message says what was found, what was expected, and what to do.

What only training and evaluation raise stands in `coda_deploy.errors`, under the same root. Two errors never leave the
server, which turns them into answers: QueueFullError and RefusedError of `coda_runtime.serving`.
"""

from __future__ import annotations

from typing import Any

from .requirements import absent, how_to_install, needed, package_of

__all__ = [
    "ArtifactError",
    "BackendError",
    "BuildError",
    "BundleError",
    "BundleNotFoundError",
    "ChecksumError",
    "ClosedError",
    "CodaError",
    "DeviceError",
    "DeviceMemoryError",
    "EngineMismatchError",
    "FormatVersionError",
    "HubError",
    "ImageError",
    "InputError",
    "ManifestError",
    "MissingDependencyError",
    "OutputError",
    "ParityError",
    "TokenError",
]


class CodaError(Exception):
    """Root of every error raised on purpose by coda_runtime, coda_export and coda_deploy.

    It is the same in another process, whatever its constructor takes: a pool of workers hangs or breaks on an error
    that cannot be unpickled.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep the message as it is; Exception's own way calls the constructor with it."""
        return _rebuild, (type(self), self.args), self.__dict__


def _rebuild(kind: type[CodaError], args: tuple[Any, ...]) -> CodaError:
    return kind.__new__(kind, *args)  # sets `args`


class BundleError(CodaError):
    """The bundle folder cannot be used."""


class BundleNotFoundError(BundleError):
    """There is no such folder, or it holds no manifest.json."""


class ManifestError(BundleError):
    """manifest.json is broken, incomplete or contradicts itself."""


class FormatVersionError(ManifestError):
    """manifest.json was written by a newer coda than this one."""


class ChecksumError(BundleError):
    """A file of the bundle is missing, cut or altered."""


class ArtifactError(BundleError):
    """A file of the bundle is whole, but does not do what its part promises."""


class EngineMismatchError(BundleError):
    """An engine was built for another GPU, library, system or ONNX file; `coda build` makes one that fits."""


class InputError(CodaError, ValueError):
    """The caller passed something that cannot be used."""


class ImageError(InputError):
    """An image is unreadable or has the wrong dtype or shape, or the batch is empty."""


class TokenError(InputError):
    """Ids have the wrong dtype or shape, are out of range, or belong to another tokenizer."""


class OutputError(CodaError):
    """The result cannot be written where it was asked for."""


class DeviceError(CodaError):
    """The device or execution provider that was asked for is not there."""


class BackendError(CodaError):
    """The backend is unknown, or an engine library failed."""


class DeviceMemoryError(BackendError):
    """The device has no memory left for a batch of this size."""


class ParityError(CodaError):
    """An artifact is further from its tokenizer than its precision allows, or cannot be measured."""


class BuildError(CodaError):
    """An engine could not be built."""


class HubError(CodaError):
    """The Hugging Face Hub did not deliver the bundle."""


class MissingDependencyError(CodaError):
    """An optional library is not installed.

    `packages` are those that the message tells to install; `extra` is the extra of coda-runtime or coda-deploy that
    brings them, None where none does.
    """

    def __init__(self, what: str, *packages: str, extra: str | None = None) -> None:
        """Say `what` needs it. Without `packages`: those of `extra` that are absent, or all of them if none is.

        With neither, `what` is all there is to say.
        """
        self.extra = extra
        self.packages = packages or (needed(extra) if extra is not None else ())
        super().__init__(f"{what}; {how_to_install(*self.packages)}" if self.packages else what)


def require(what: str, extra: str) -> None:
    """Raise MissingDependencyError, `what` needs them, unless all packages of an extra are installed."""
    if missing := absent(extra):
        raise MissingDependencyError(f"{what} needs {', '.join(missing)}", extra=extra)


def missing_module(what: str, error: ImportError) -> MissingDependencyError | None:
    """Return the error that names the package of a module that `what` failed to import; None for a foreign module."""
    package = package_of(error.name or "")
    if package is None:
        return None
    return MissingDependencyError(f"{what} needs {package}, which is not installed or is incomplete ({error})", package)


class ClosedError(CodaError):
    """The tokenizer was closed, or loaded before this process was forked; load the bundle again."""


def one_line(
    error: BaseException | str, *, named: bool = False, line: int | None = None, limit: int | None = 200
) -> str:
    """Return what an error says, in one line, to be quoted in a message, a record or a log.

    An OSError of the system says its reason alone: its own text repeats the number, and the path that messages give.
    An error that says nothing is told by its class.

    Args:
        error: the error; or what a library or a process said in place of one.
        named: put the class before it, "ValueError: ...".
        line: of several lines the one to keep, from 0 or, from the end, from -1; the last one where there are fewer.
            None joins them all.
        limit: characters to keep of what it says; None keeps all, for a message of ours.
    """
    text = str(getattr(error, "strerror", None) or error)
    lines = [found for found in map(" ".join, map(str.split, text.splitlines())) if found]
    if line is not None:
        lines = lines[min(line, len(lines) - 1) :][:1]
    said = " ".join(lines)[:limit]
    if isinstance(error, str):
        return said
    kind = type(error).__name__
    return f"{kind}: {said}" if named and said else said or kind
