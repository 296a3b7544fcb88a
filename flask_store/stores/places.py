"""Where uploads may lie on this machine: not where Flask serves them itself, and not in another's for root."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flask import Flask
from flask.sansio.scaffold import Scaffold
from jinja2 import BaseLoader, ChoiceLoader, FileSystemLoader, PrefixLoader

from ..exceptions import NotConfiguredError
from . import kept
from .staging import STAGING_DIRECTORY

# As Linux.
_MAX_LINKS = 40


def check(app: Flask, directories: dict[str, Path]) -> None:
    """Refuse directories from which an application would serve or render uploads itself, past the store's route.

    :param directories: By the settings that name them.
    :raises NotConfiguredError: Naming the setting.
    """
    for key, directory in directories.items():
        if problem := _problem(app, Path(os.path.realpath(directory))):
            raise NotConfiguredError(f"{key} must not {problem}: {directory}")


def _problem(app: Flask, place: Path) -> str | None:
    if _is_within(_real(app.root_path), place):
        return "contain the application: its source code would be among the uploads"
    if _is_within(_real(app.instance_path), place):
        return (
            "be or contain the instance folder: configuration and database would be among the uploads; a directory"
            " below it is fine"
        )
    for owner, scaffold in _scaffolds(app):
        for folder in _static_folders(scaffold):
            if _overlap(place, folder):
                return f"be in or around the static folder of {owner}, {folder}: Flask would serve uploads as pages"
        for folder in _template_folders(scaffold):
            if _overlap(place, folder):
                return f"be in or around the template folder of {owner}, {folder}: uploads would be templates"
    return None


def _scaffolds(app: Flask) -> Iterator[tuple[str, Scaffold]]:
    yield "the application", app
    for name, blueprint in app.blueprints.items():
        yield f"the blueprint {name!r}", blueprint


def _static_folders(scaffold: Scaffold) -> Iterator[Path]:
    if scaffold.static_folder is not None:
        yield _real(scaffold.static_folder)


def _template_folders(scaffold: Scaffold) -> Iterator[Path]:
    if scaffold.template_folder is not None:
        yield _real(os.path.join(scaffold.root_path, scaffold.template_folder))
    # One that was set. Asking for Flask's own would make it too early.
    yield from _folders_of(vars(scaffold).get("jinja_loader"))


def _folders_of(loader: BaseLoader | Any) -> Iterator[Path]:
    if isinstance(loader, FileSystemLoader):
        yield from map(_real, loader.searchpath)
    elif isinstance(loader, ChoiceLoader):
        for part in loader.loaders:
            yield from _folders_of(part)
    elif isinstance(loader, PrefixLoader):
        for part in loader.mapping.values():
            yield from _folders_of(part)


def _real(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.realpath(path))


def _overlap(one: Path, other: Path) -> bool:
    return _is_within(one, other) or _is_within(other, one)


def _is_within(inner: Path, outer: Path) -> bool:
    return any(_is_same(directory, outer) for directory in (inner, *inner.parents))


def _is_same(one: Path, other: Path) -> bool:
    """Return whether two paths are one directory, also by another spelling where the file system takes several."""
    if one == other:
        return True
    try:
        return os.path.samefile(one, other)
    except OSError:
        # Of two that are not there yet, only the file system could say that they will be two.
        is_new = not os.path.lexists(one) and not os.path.lexists(other)
        return is_new and str(one).casefold() == str(other).casefold()


def links_into(app: Flask, directories: dict[str, Path]) -> Iterator[str]:
    """Yield what is wrong with symbolic links in static folders: those that lead to uploads, which Flask follows."""
    for owner, scaffold in _scaffolds(app):
        for folder in _static_folders(scaffold):
            for link, (key, directory) in itertools.product(_links_below(folder), directories.items()):
                if _overlap(_real(link), _real(directory)):
                    yield f"{link}, in the static folder of {owner}, leads to {key}: Flask serves uploads there"


def _links_below(folder: Path) -> Iterator[Path]:
    for top, directories, files in os.walk(folder):
        yield from filter(Path.is_symlink, (Path(top, name) for name in directories + files))


def check_owner(directories: dict[str, Path], command: str) -> None:
    """Refuse, as root, directories that others can change: they could lead root out of them.

    What root made there would not be the application's either.

    :param command: What to run as somebody else instead.
    :raises NotConfiguredError: Naming the setting, and the user.
    """
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return
    for key, directory in directories.items():
        for place in (directory, directory / kept.PLACE, directory / STAGING_DIRECTORY):
            if danger := _danger(place):
                path, owner, why = danger
                raise NotConfiguredError(
                    f"{key}: {path} {why}, so root must not work in {directory}. Run this as the user of the"
                    f" application: sudo -u {owner} {command}"
                )


def _danger(place: Path) -> tuple[Path, str, str] | None:
    """Return the last directory or link on the way to a place that is not root's alone, as whom to run, and why."""
    found = None
    for path, result, is_last in _way(place):
        if result.st_uid != 0:
            found = path, _user(result.st_uid), f"belongs to {_user(result.st_uid)}"
        elif stat.S_ISLNK(result.st_mode) or not result.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            continue
        elif is_last or not result.st_mode & stat.S_ISVTX:
            # In a sticky directory others cannot replace what is there, but can make what is not.
            found = found or (path, "USER", f"can be written by others, with mode {result.st_mode & 0o7777:o}")
    return found


def _way(place: Path) -> Iterator[tuple[Path, os.stat_result, bool]]:
    """Yield each directory and symbolic link on the way from the root of the disk to a place, as far as it is there."""
    path, left, links = Path(place.anchor), list(reversed(place.parts[1:])), 0
    yield path, path.lstat(), not left
    while left:
        name = left.pop()
        if name == "..":
            path = path.parent
            continue
        try:
            result = (path / name).lstat()
        except (FileNotFoundError, NotADirectoryError):
            yield path, path.lstat(), True
            return
        if not stat.S_ISLNK(result.st_mode):
            path /= name
            yield path, result, not left
            continue
        yield path / name, result, False
        links += 1
        if links > _MAX_LINKS:
            raise NotConfiguredError(f"{place} has too many symbolic links in it")
        target = Path(os.readlink(path / name))
        if target.is_absolute():
            path = Path(target.anchor)
        left.extend(reversed(target.parts[1:] if target.is_absolute() else target.parts))
    yield path, path.lstat(), True


def _user(uid: int) -> str:
    import pwd  # not on Windows

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"'#{uid}'"
