"""``python:MODULE:FUNCTION``: a VAE that a function of the user's own makes.

It runs code, so it is taken from arguments and command lines alone: no file's content, a configuration's or a
tokenizer's, is ever read as one.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

from torch import nn

from coda_deploy.errors import ConfigError
from coda_deploy.families.user_module import PROTOCOL
from coda_runtime.errors import one_line

SCHEME = "python:"


def is_python(where: object) -> bool:
    """Return whether a name is one of a function, and of no path that exists."""
    return isinstance(where, str) and where.startswith(SCHEME) and not Path(where).exists()


def call_python(name: str) -> nn.Module:
    """Import the module and call its function; modules of the working directory are found too.

    Raises ``ConfigError`` for a name of another form, for a module or function that is not there, and for what is made
    by one and is no module.
    """
    module, colon, function = name.removeprefix(SCHEME).partition(":")
    if not colon or not module or not function:
        raise ConfigError(f"{name} names no function, expected {SCHEME}MODULE:FUNCTION, as in {SCHEME}my_vae:make")
    here = os.fspath(Path.cwd())
    sys.path.append(here)
    try:
        made = getattr(import_module(module), function)()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{name} cannot be called ({one_line(error, named=True)}): is {module} installed, or a file in {here}, and "
            f"does it have {function}?"
        ) from error
    finally:
        sys.path.remove(here)
    if not isinstance(made, nn.Module):
        raise ConfigError(f"{name} gave a {type(made).__name__}, expected {PROTOCOL}")
    return made.eval()
