"""Let torchvision import where its compiled operators do not load, as beside a CPU build of PyTorch from another index.

`import torchvision` then fails with `operator torchvision::nms does not exist`, and with it peft, lpips, timm and
torch_fidelity. None of them calls those operators here, so that declaring them is enough. Nothing is declared where
the operators load, and nothing is imported before torchvision is.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_REGISTERED = re.compile(r'register_meta\("(\w+)"\)|register_fake\("torchvision::(\w+)"')
_libraries: list[Any] = []  # a declaration lasts as long as its Library object


class _Finder:
    """Finds nothing; asked for the module that fails, it declares first what that module looks for."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "torchvision._meta_registrations" or not path or _libraries:
            return None
        # torchvision's own look for its operators, which comes just before.
        if not importlib.import_module("torchvision.extension")._has_ops():
            _declare(Path(path[0], "_meta_registrations.py").read_text(encoding="utf-8"))
        return None


def _declare(source: str) -> None:
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in sorted({meta or fake for meta, fake in _REGISTERED.findall(source)}):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}() -> Tensor")
    _libraries.append(library)


def install() -> None:
    """For this process; a second call changes nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def environment() -> dict[str, str]:
    """What a Python process started by a test needs in its environment to do the same."""
    paths = [str(Path(__file__).with_name("site")), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys(path for path in paths if path))}


def install_for_good() -> None:
    """For every process of this Python's environment, where torchvision does not import without: `make test` calls it.

    Installing the tests' requirements brings torchvision, and would otherwise take `coda` and `make demo` away where
    its operators do not load.
    """
    import shutil
    import subprocess
    import sysconfig

    check = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, check=False)
    if check.returncode:
        site = Path(sysconfig.get_path("purelib"))
        shutil.copyfile(__file__, site / "_torchvision_schemas.py")
        (site / "_torchvision_schemas.pth").write_text("import _torchvision_schemas; _torchvision_schemas.install()\n")


if __name__ == "__main__":
    install_for_good()
