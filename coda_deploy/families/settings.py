"""Numbers of a VAE's configuration, which may come from anywhere, checked before anything is built of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coda_deploy.errors import ConfigError
from coda_runtime.io.json_fields import describe, is_int

# Far above any VAE's: more would be built for hours, or overflow PyTorch's sizes.
MAX_LEVELS = 16
MAX_LAYERS = 256
MAX_NUMBER = 2**16


def whole_number(settings: Mapping[str, Any], name: str, default: object = None, limit: int = MAX_NUMBER) -> int:
    """Return a whole number, 1 to ``limit``. Raises ``ConfigError`` naming the key."""
    return _checked(f"vae.{name}", settings.get(name, default), limit)


def widths(settings: Mapping[str, Any], name: str = "block_out_channels", default: object = None) -> tuple[int, ...]:
    """Return a list of whole numbers, one for each level. Raises ``ConfigError`` naming the key."""
    found = settings.get(name, default)
    if not isinstance(found, (list, tuple)) or not 1 <= len(found) <= MAX_LEVELS:
        raise ConfigError(
            f"vae.{name} must list the VAE's widths, found {describe(found)}; expected 1 to {MAX_LEVELS} of them"
        )
    return tuple(_checked(f"vae.{name}[{index}]", width, MAX_NUMBER) for index, width in enumerate(found))


def layer_counts(
    settings: Mapping[str, Any], name: str, levels: int, default: object = None, least: int = 0
) -> tuple[int, ...]:
    """Return the layers of each of ``levels`` levels. Raises ``ConfigError`` naming the key."""
    found = settings.get(name, default)
    if not isinstance(found, (list, tuple)) or len(found) != levels:
        raise ConfigError(f"vae.{name} must list the layers of {levels} levels, found {describe(found)}")
    return tuple(_checked(f"vae.{name}[{index}]", count, MAX_LAYERS, least) for index, count in enumerate(found))


def same(name: str, first: int, other: str, second: int) -> int:
    """Return ``first`` where both are equal. Raises ``ConfigError`` naming both."""
    if first != second:
        raise ConfigError(f"the VAE's {name} is {first} and its {other} {second}: what it decodes has another size")
    return first


def _checked(name: str, value: object, limit: int, least: int = 1) -> int:
    if not isinstance(value, int) or not is_int(value) or value < least:
        raise ConfigError(f"{name} must be a whole number, {least} or more, found {describe(value)}")
    if value > limit:
        raise ConfigError(f"{name} must be {limit} at most, found {describe(value)}")
    return value
