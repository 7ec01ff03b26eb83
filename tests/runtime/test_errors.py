from __future__ import annotations

import copy
import inspect
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

import coda_runtime
from coda_runtime import errors
from coda_runtime.serving.batching import QueueFullError
from coda_runtime.serving.errors import RequestError


def test_every_error_is_a_coda_error_and_public() -> None:
    found = {name for name, item in vars(errors).items() if inspect.isclass(item) and issubclass(item, Exception)}
    assert found == set(errors.__all__)
    assert found <= set(coda_runtime.__all__)
    assert all(issubclass(getattr(errors, name), errors.CodaError) for name in found)


def test_the_tree_at_the_top_of_the_file_is_complete() -> None:
    drawing = errors.__doc__ or ""
    for name in errors.__all__:
        assert f" {name} " in drawing or drawing.startswith(f"{name} ") or f"\n{name} " in drawing, name


def test_missing_dependency_gives_the_pip_line() -> None:
    error = errors.MissingDependencyError("images need Pillow", extra="images")
    assert (error.extra, error.packages) == ("images", ("pillow",))
    assert str(error) == 'images need Pillow; install it: pip install "pillow>=10.3"'
    other = errors.MissingDependencyError("x", "coda-deploy")
    assert str(other) == "x; install coda-deploy from the checkout or the wheel that this coda-runtime came from"


# Errors whose constructor takes more than a message.
BUILT: dict[str, errors.CodaError] = {
    "MissingDependencyError": errors.MissingDependencyError("images need Pillow", extra="images"),
    "RequestError": RequestError("busy", "x" * 600),
}


@pytest.mark.parametrize("way", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
@pytest.mark.parametrize(
    "error",
    [
        *BUILT.values(),
        errors.MissingDependencyError("x", "coda-deploy"),
        *(getattr(errors, name)("what was found") for name in errors.__all__ if name not in BUILT),
        QueueFullError("64 rows wait"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_the_same_in_another_process(
    error: errors.CodaError, way: Callable[[errors.CodaError], errors.CodaError]
) -> None:
    found = way(error)
    assert type(found) is type(error)
    assert (str(found), found.args, vars(found)) == (str(error), error.args, vars(error))


def test_errors_with_a_constructor_of_their_own_are_tried() -> None:
    """RequestError and QueueFullError are the server's."""
    kinds = [getattr(errors, name) for name in errors.__all__] + [RequestError, QueueFullError]
    assert {kind.__name__ for kind in kinds if "__init__" in vars(kind)} == BUILT.keys()


def _fail() -> None:
    raise errors.MissingDependencyError("reading images needs Pillow", extra="images")


def test_a_pool_of_processes_tells_the_error() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        with pytest.raises(errors.MissingDependencyError, match="reading images needs Pillow; install it") as raised:
            pool.submit(_fail).result(60)
        assert raised.value.extra == "images"


def test_a_module_that_fails_to_import_is_named_by_its_package() -> None:
    missing = errors.missing_module("`coda x`", ImportError("no such thing", name="PIL.Image"))
    assert str(missing) == (
        "`coda x` needs pillow, which is not installed or is incomplete (no such thing); "
        'install it: pip install "pillow>=10.3"'
    )
    for name in ("coda_runtime.absent", "json", None):
        assert errors.missing_module("x", ImportError("x", name=name)) is None


@pytest.mark.parametrize(
    ("error", "options", "told"),
    [
        (ValueError("two\n  lines,\tone\n"), {}, "two lines, one"),
        (ValueError(), {}, "ValueError"),
        (ValueError(" \n "), {"named": True}, "ValueError"),
        (ValueError("x" * 300), {}, "x" * 200),
        (ValueError("x" * 300), {"named": True}, f"ValueError: {'x' * 200}"),
        (ValueError("x" * 300), {"limit": None}, "x" * 300),
        (RuntimeError("\n first\n\nlast "), {"line": 0}, "first"),
        (RuntimeError("\n first\n\nlast "), {"line": -1, "named": True}, "RuntimeError: last"),
        (RuntimeError("first\nsecond\nthird"), {"line": 1}, "second"),
        (RuntimeError("only"), {"line": 1}, "only"),
        (RuntimeError(), {"line": 0}, "RuntimeError"),
        (FileNotFoundError(2, "No such file or directory", "a.jpg"), {}, "No such file or directory"),
        (OSError("of a library"), {}, "of a library"),
        ("what a process\nsaid", {"line": -1}, "said"),
        ("", {"line": 0}, ""),
    ],
)
def test_any_error_is_reported_in_one_line(error: BaseException | str, options: dict[str, Any], told: str) -> None:
    assert errors.one_line(error, **options) == told
