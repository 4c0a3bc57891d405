"""``TARGET``, ``module:attribute``: the worker that a person means, or one line that says what is wrong."""

from __future__ import annotations

import sys
import sysconfig
import traceback
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from pythia import signals
from pythia.core.worker import Worker, make_worker
from pythia.errors import PythiaError, TargetError


def load_target(text: str) -> type[Worker]:
    """The worker class that ``text`` names; the current directory is importable from now on.

    ``module:attribute`` names a ``Worker`` subclass or a ``@handler`` function; a ``module`` alone runs the one worker that it
    defines.

    Raises:
        TargetError: what was imported, what was found there, and the workers that could have been meant.
    """
    module_name, attribute = _parts(text)
    _make_current_directory_importable()
    module = _import(module_name, text)
    return _attribute(module, attribute) if attribute else _only_worker(module)


def check_target(text: str) -> None:
    """That ``load_target`` may find something, as far as can be told without running any of the user's code: in the process that
    starts others, which would each say the same.

    Raises:
        TargetError: it is no TARGET, or there is no such module or package.
    """
    module_name, _ = _parts(text)
    outermost = module_name.partition(".")[0]
    _make_current_directory_importable()
    try:
        found = find_spec(outermost) if outermost else None  # "./shop/worker.py" has none
    except (ImportError, ValueError):
        return  # whoever imports it says what is the matter
    if found is None:
        raise TargetError(_not_found(module_name, outermost, text))


def make(worker_class: type[Worker]) -> Worker:
    """An instance of ``worker_class``, configured.

    Raises:
        ConfigError: a setting that cannot be used. TargetError: its own constructor raised, in one line with the place.
    """
    try:
        return make_worker(worker_class)
    except PythiaError:
        raise
    except Exception as error:
        raise user_bug(f"making a {worker_class.__qualname__}", error) from error


def workers_of(module: ModuleType) -> dict[str, type[Worker]]:
    """The workers that ``module`` defines, by attribute; those that it imports, if it defines none."""
    found = {
        name: worker for name, value in vars(module).items() if (worker := _as_worker(value)) and worker is not Worker
    }
    own = {name: worker for name, worker in found.items() if worker.__module__ == module.__name__}
    return own or found


def _parts(text: str) -> tuple[str, str]:
    """Module and attribute, "" where none is said."""
    module_name, colon, attribute = text.partition(":")
    if not module_name or (colon and not attribute):
        raise TargetError(f"TARGET is module:attribute (shop.worker:OrderWorker), not {text!r}")
    return module_name, attribute


def _make_current_directory_importable() -> None:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def _import(name: str, text: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise user_bug(f"importing {name}", error) from error
        raise TargetError(_not_found(name, error.name, text)) from error
    except (Exception, SystemExit) as error:
        if _told_to_stop(error):
            raise
        raise user_bug(f"importing {name}", error) from error


def _told_to_stop(error: BaseException) -> bool:
    """Whether SIGTERM ended the import, not the module itself."""
    return traceback.extract_tb(error.__traceback__)[-1].filename == signals.__file__


def _not_found(name: str, missing: str, text: str) -> str:
    searched = f"searched in {Path.cwd()} and the installed packages"
    stem = text.partition(":")[0].removesuffix(".py").strip("/").replace("/", ".").lstrip(".")
    if ("/" in text or text.partition(":")[0].endswith(".py")) and stem:
        return f"{text!r} is a path; write it as a module: {stem}{''.join(text.partition(':')[1:])}"
    inside = f" (needed by {name})" if missing != name else ""
    return f"there is no module {missing!r}{inside}; {searched}"


def user_bug(doing: str, error: BaseException) -> TargetError:
    """An error in the user's own code, in one line with the place where it was raised."""
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    text = f": {first}" if (first := " ".join(said.split())) else ""
    return TargetError(f"{doing} raised {type(error).__name__}{text} ({_place(error)})")


def _place(error: BaseException) -> str:
    """File and line: of the syntax error, else of the innermost frame that is the user's."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    theirs = [frame for frame in frames if not frame.filename.startswith(_not_theirs())]
    last = (theirs or frames)[-1]
    return f"{last.filename}:{last.lineno}"


def _not_theirs() -> tuple[str, ...]:
    """Where the interpreter, installed packages and Pythia itself live."""
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return (*paths, str(Path(__file__).parents[1]))


def _attribute(module: ModuleType, path: str) -> type[Worker]:
    found: object = module
    for name in path.split("."):
        if not hasattr(found, name):
            raise TargetError(f"module {module.__name__} has no {path!r}{_near(name, module)}; {_listed(module)}")
        found = getattr(found, name)
    worker = _as_worker(found)
    if worker is None:
        what = (
            f"an instance of {type(found).__name__}" if not isinstance(found, type) else f"the class {found.__name__}"
        )
        raise TargetError(
            f"{module.__name__}:{path} is {what}, not a Worker class or a @handler function; {_listed(module)}"
        )
    return worker


def _only_worker(module: ModuleType) -> type[Worker]:
    workers = workers_of(module)
    distinct = {id(worker) for worker in workers.values()}
    if len(distinct) == 1:
        return next(iter(workers.values()))
    if not workers:
        raise TargetError(f"module {module.__name__} defines no Worker class and no @handler function")
    raise TargetError(f"say which worker: {_listed(module)}")


def _as_worker(value: object) -> type[Worker] | None:
    if isinstance(value, type):
        return value if issubclass(value, Worker) else None
    worker = getattr(value, "worker_class", None) if callable(value) else None
    return worker if isinstance(worker, type) and issubclass(worker, Worker) else None


def _near(name: str, module: ModuleType) -> str:
    near = get_close_matches(name, workers_of(module), n=1)
    return f", did you mean {near[0]}?" if near else ""


def _listed(module: ModuleType) -> str:
    workers = sorted(workers_of(module))
    if not workers:
        return f"{module.__name__} defines no worker"
    return f"{module.__name__} defines {', '.join(f'{module.__name__}:{name}' for name in workers)}"
