"""Shared libraries in place of NVIDIA's, so that what is linked against those can be loaded and asked without a GPU.

A binary of a wheel tells which libraries it needs and which functions of them. `build` compiles each of these with a C
compiler: a function that a test does not write itself takes anything and answers 0, CUDA's success. Nothing of what a
test then asks is computed by them: it is the library's own answer.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

FOLDER = Path(__file__).parent
CUDA: Mapping[str, Path] = {"libcudart.so": FOLDER / "cudart.c", "libcuda.so": FOLDER / "cuda.c"}
"""By a library's name without its version: the functions of CUDA that have to do or to answer something."""

_NVIDIA = re.compile(r"lib(cu|nv)\w*\.so")
_COMPILER = "cc"


def lacks() -> str | None:
    """Return what is not installed that `build` needs, None where all is: the reason to skip a test by."""
    absent = [tool for tool in (_COMPILER, "nm", "readelf") if shutil.which(tool) is None]
    return f"{', '.join(absent)} not installed: a C compiler with binutils" if absent else None


def build(
    folder: Path, binaries: Iterable[Path], written: Mapping[str, Path] = MappingProxyType({}), more: Sequence[str] = ()
) -> Path:
    """Compile into `folder` each of NVIDIA's libraries that `binaries` need, and those named in `more`; return it.

    To be given as LD_LIBRARY_PATH. `written` are C files with functions of their own, as CUDA's here.
    """
    needed = dict.fromkeys(more, frozenset[str]())
    asked: dict[str, set[str]] = {}  # by the library that a symbol's version names, "" for symbols without one
    for binary in binaries:
        names = re.findall(r"\(NEEDED\).*\[(.*)\]", _told("readelf", "-d", binary))
        needed |= dict.fromkeys(filter(_NVIDIA.match, names), frozenset())
        for symbol in re.findall(r"^ +U (\S+)$", _told("nm", "-D", "--undefined-only", binary), re.MULTILINE):
            name, _, version = symbol.partition("@")
            asked.setdefault(version, set()).add(name)
    folder.mkdir(parents=True, exist_ok=True)
    for library in needed:
        versioned = library in asked
        # A symbol without a version may be of any library that gives its own none: each of these gets it.
        functions = asked[library] if versioned else {name for name in asked.get("", ()) if _is_nvidias(name)}
        source = next((path.read_text() for start, path in written.items() if library.startswith(start)), "")
        silent = sorted(name for name in functions if not re.search(rf"\b{name}\(", source))
        code = source + "".join(f"\nlong {name}(void) {{ return 0; }}" for name in silent) + "\n"
        _compile(folder / library, code, f"{library if versioned else ''} {{ global: *; }};\n")
    return folder


def _is_nvidias(name: str) -> bool:
    """Return whether a symbol without a version is one of CUDA's or TensorRT's, and none of C++ or Python."""
    return re.match(r"cu|nv|(create|get|init)\w*(Nv|Infer|Plugin)", name) is not None


def _compile(library: Path, code: str, versions: str) -> None:
    source, script = library.with_suffix(".c"), library.with_suffix(".map")
    source.write_text(code)
    script.write_text(versions)
    flags = ["-w", "-shared", "-fPIC", f"-Wl,-soname,{library.name}", f"-Wl,--version-script={script}"]
    subprocess.run([_COMPILER, *flags, "-o", library, source], check=True, timeout=60)


def _told(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
