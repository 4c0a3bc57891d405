"""Error classes by import path, for ``retry.retry_on`` and ``retry.give_up_on``."""

from __future__ import annotations

import builtins
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType

from pythia.errors import ConfigError


def import_error_class(path: str) -> type[Exception]:
    """The class that ``path`` names: ``package.module.Class``, or a builtin (``ValueError``) without a module.

    Imports the module, so it runs that module's code.

    Raises:
        ConfigError: nothing is there, the module cannot be imported, or what is there is no ``Exception`` class.
    """
    owner, names = _module(path)
    found: object = owner
    for name in names:
        if not hasattr(found, name):
            raise _refused(path, f"{_label(found)} has no {name!r}", nearest=_near(name, found))
        found = getattr(found, name)
    if not (isinstance(found, type) and issubclass(found, Exception)):
        raise _refused(path, f"it is {_label(found)}, not a class of Exception")
    return found


def path_of(error_class: type[BaseException]) -> str:
    """The import path of a class: what ``import_error_class`` reads back."""
    if error_class.__module__ == "builtins":
        return error_class.__qualname__
    return f"{error_class.__module__}.{error_class.__qualname__}"


def _module(path: str) -> tuple[ModuleType, list[str]]:
    names = path.split(".")
    if not all(name.isidentifier() for name in names):
        raise _refused(path, "write package.module.Class, or the name of a builtin")
    if len(names) == 1:
        return builtins, names
    for length in range(len(names) - 1, 0, -1):
        module = _try_import(path, ".".join(names[:length]))
        if module is not None:
            return module, names[length:]
    raise _refused(
        path, f"there is no module {names[0]!r}; the current directory and the installed packages were searched"
    )


def _try_import(path: str, name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            return None
        raise _refused(path, f"importing {name} failed: {type(error).__name__}: {error}") from error
    except Exception as error:
        raise _refused(path, f"importing {name} failed: {type(error).__name__}: {error}") from error


def _near(name: str, owner: object) -> str | None:
    near = get_close_matches(name, dir(owner), n=1)
    return near[0] if near else None


def _label(found: object) -> str:
    return f"module {found.__name__}" if isinstance(found, ModuleType) else repr(found)[:80]


def _refused(path: str, why: str, nearest: str | None = None) -> ConfigError:
    hint = f"; did you mean {nearest!r}?" if nearest else ""
    return ConfigError(f"error class {path!r} in [retry]: {why}{hint}", key="retry", value=path, nearest=nearest)
