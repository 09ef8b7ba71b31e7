"""Import the app that a command names."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from ..app import App
from ..errors import suggestion
from ..router import Router
from .errors import USAGE, CommandError, describe_error, short_path, users_frame

__all__ = ["load_app"]

CANDIDATES = ("app", "main")
"""The modules in which an app is looked for when none is named."""


def load_app(name: str | None, directory: Path) -> App:
    """Import an app.

    Args:
        name: `module:attribute`, whose attribute may be dotted and may be a function that makes the app; or a module
            that has one app; or None for the one app in `app.py` or `main.py`.
        directory: The first directory to import modules from; it is put on the Python path.

    Raises:
        CommandError: There is no such app, or the user's code fails.
    """
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
    if name is None:
        return _default_app(directory)
    module_name, colon, attribute = name.strip().partition(":")
    _check_name(name, module_name, attribute if colon else None)
    module = _import(module_name, directory)
    return _app_at(module, attribute) if colon else _sole_app(module)


def _default_app(directory: Path) -> App:
    present = [candidate for candidate in CANDIDATES if (directory / f"{candidate}.py").is_file()]
    for candidate in present:
        module = _import(candidate, directory)
        if _apps(module):
            return _sole_app(module)
    looked = "neither app.py nor main.py is there" if not present else f"no App in {' or '.join(present)}.py"
    raise CommandError(
        f"which app? {looked} in {directory}; name it as module:attribute, here or in pyproject.toml as "
        f'[tool.wampkit] app = "module:attribute"',
        USAGE,
    )


def _check_name(name: str, module: str, attribute: str | None) -> None:
    if module.endswith(".py") or "/" in module:
        raise CommandError(
            f"{name!r} is a file; name the module instead: {_module_of(module, attribute or 'app')}", USAGE
        )
    for what, text in (("module", module), ("attribute", attribute)):
        if text is not None and not all(part.isidentifier() for part in text.split(".")):
            raise CommandError(f"{name!r}: {text!r} is no {what} name; an app is named module:attribute", USAGE)


def _module_of(file: str, attribute: str) -> str:
    """The name of an app in a file, and the folder to run the command in, where modules are looked for."""
    path = Path(file).with_suffix("")
    if path.is_absolute() or ".." in path.parts:
        return f"{path.name}:{attribute}, in the folder {str(path.parent)!r}"
    return f"{'.'.join(path.parts)}:{attribute}"


def _import(name: str, directory: Path) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Only if the user's code was never reached is the module itself what is missing.
        if error.name is None or users_frame(error) is not None or not f"{name}.".startswith(f"{error.name}."):
            raise CommandError(describe_error(error)) from error
        near = suggestion(name, _modules(directory))
        raise CommandError(f"no module {error.name!r} in {directory} or on the Python path{near}") from None
    except (Exception, SystemExit) as error:
        raise CommandError(describe_error(error)) from error


def _modules(directory: Path) -> list[str]:
    return [entry.stem for entry in directory.iterdir() if entry.suffix == ".py" or (entry / "__init__.py").is_file()]


def _apps(module: ModuleType) -> dict[str, App]:
    """The apps of a module by name; one with several names counts once."""
    found: dict[int, tuple[str, App]] = {}
    for name, value in vars(module).items():
        if isinstance(value, App):
            found.setdefault(id(value), (name, value))
    return dict(found.values())


def _sole_app(module: ModuleType) -> App:
    apps = _apps(module)
    if len(apps) == 1:
        return next(iter(apps.values()))
    name = module.__name__
    if "app" in vars(module):
        return _app_at(module, "app")
    if not apps:
        raise CommandError(f"there is no App in {_where(module)}; name a function that makes one as {name}:function")
    raise CommandError(
        f"there are several Apps in {_where(module)}; choose one: {', '.join(f'{name}:{a}' for a in apps)}"
    )


def _app_at(module: ModuleType, attribute: str) -> App:
    value: Any = module
    for part in attribute.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            known = [name for name in dir(value) if not name.startswith("_")]
            owner = _where(module) if value is module else f"{module.__name__}:{attribute.rpartition('.')[0]}"
            raise CommandError(f"there is no {part!r} in {owner}{suggestion(part, known)}") from None
        except Exception as error:
            raise CommandError(describe_error(error)) from error
    label = f"{module.__name__}:{attribute}"
    if isinstance(value, App):
        return value
    if callable(value) and value is not App and not isinstance(value, Router):
        return _app_from(value, label)
    apps = [f"{module.__name__}:{name}" for name in _apps(module)]
    near = f"; did you mean {' or '.join(apps)}?" if apps else ""
    raise CommandError(f"{label} is {_kind(value)}, not an App{near}")


def _app_from(factory: Any, label: str) -> App:
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise CommandError(
            f"{label} is {_kind(factory)}, and to make the app it must work without arguments: {error}"
        ) from None
    except ValueError:  # no signature to be read; calling it will tell
        pass
    try:
        made = factory()
    except (Exception, SystemExit) as error:
        raise CommandError(f"{label} failed: {describe_error(error)}") from error
    if inspect.iscoroutine(made):
        made.close()
        raise CommandError(
            f"{label} is async; make the app in a plain def, and open what must be awaited in on_startup"
        )
    if not isinstance(made, App):
        raise CommandError(f"{label} returned {_kind(made)}, not an App")
    return made


def _where(module: ModuleType) -> str:
    file = getattr(module, "__file__", None)
    return f"{module.__name__} ({short_path(file)})" if file else module.__name__


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    if value is App:
        return "the class App itself"
    if inspect.isclass(value):
        return f"the class {value.__name__}"
    if inspect.isroutine(value):
        return f"the function {value.__name__}"
    if isinstance(value, ModuleType):
        return f"the module {value.__name__}"
    name = type(value).__name__
    return f"{'an' if name[:1] in 'AEIOaeio' else 'a'} {name}"
