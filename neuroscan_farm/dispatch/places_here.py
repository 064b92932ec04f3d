"""Where the places of others are on this machine, and which of them may be opened at all.

Messages and the registry name a run as its submitter does. `PlacesHere` turns that into the place here (the path map),
and refuses whatever is outside of the roots, before anything is opened. Whoever can write to the broker can thus name
the runs of this farm, and nothing else of this machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from neuroscan_farm.dispatch.wire import check_location
from neuroscan_farm.errors import RequestError, RunError


@dataclass(frozen=True, slots=True)
class PlacesHere:
    """The roots and the path map of this machine.

    Args:
        roots: paths and URLs below which runs may lie. Empty is: any folder that belongs to this process's own user,
            and no object store.
        path_map: pairs of prefixes, what the submitter writes and what it is here; the longest that fits is taken.
        runs_dir: where runs are made on this machine; a URL is a root where no roots are given.
    """

    roots: tuple[str, ...] = ()
    path_map: tuple[tuple[str, str], ...] = ()
    runs_dir: str = ""

    def confine(self, location: str) -> None:
        """Refuse a run of our own that lies outside of the roots, if there are any.

        Raises:
            RunError: it does.
        """
        if self.roots:
            self.run_location(location)

    def run_location(self, location: str) -> str:
        """Return where a run is here, links resolved.

        Raises:
            RunError: it is not written plainly, or not below the roots.
        """
        try:
            here = check_location(self._mapped(check_location(location)))
        except ValueError as error:
            raise RunError(f"{location}: {error}") from error
        if "://" in here:
            return self._url(here)
        resolved = os.path.realpath(here)
        roots = [os.path.realpath(root) for root in self.roots if "://" not in root]
        if self.roots and not any(_is_below(resolved, root) for root in roots):
            raise self._outside(location, resolved)
        self._check_entries(location, resolved, roots or [resolved])
        if not self.roots:
            self._check_owner(location, resolved)
        return resolved

    def model_folder(self, folder: str) -> str:
        """Return where a model's folder would be here; what is no absolute path stays as it is."""
        return self._mapped(folder) if folder.startswith("/") else folder

    def _mapped(self, location: str) -> str:
        fitting = [pair for pair in self.path_map if _is_below(location, pair[0])]
        if not fitting:
            return location
        before, after = max(fitting, key=lambda pair: len(pair[0]))
        rest = location[len(before.rstrip("/")) :]
        return (after.rstrip("/") + rest) or "/"

    def _url(self, url: str) -> str:
        roots = self.roots or (self.runs_dir.rstrip("/"),)
        if any(_is_below(url, root) for root in roots if "://" in root):
            return url
        raise self._outside(url, url)

    def _outside(self, location: str, here: str) -> RunError:
        where = location if location == here else f"{location} (here {here})"
        accepted = ", ".join(self.roots) or "folders of this user, and no object store"
        return RunError(
            f"{where}: outside of the roots of this machine ({accepted}); "
            "name the folder or URL that holds it in NEUROSCAN_ROOTS, or map it with NEUROSCAN_PATH_MAP"
        )

    def _check_owner(self, location: str, resolved: str) -> None:
        try:
            owner = os.stat(resolved).st_uid  # noqa: PTH116 - a string all through
        except OSError:
            return  # whoever opens it says what is wrong
        if owner != os.geteuid():
            raise RunError(
                f"{location}: belongs to user {owner}, and this process runs as {os.geteuid()}; "
                "name the folder that holds it in NEUROSCAN_ROOTS to accept the runs of others"
            )

    def _check_entries(self, location: str, resolved: str, roots: Sequence[str]) -> None:
        """Refuse a run one of whose own files or folders leads out of the roots."""
        try:
            links = [entry.path for entry in os.scandir(resolved) if entry.is_symlink()]
        except OSError:
            return  # whoever opens it says what is wrong
        for link in links:
            target = os.path.realpath(link)
            if not any(_is_below(target, root) for root in roots):
                raise RunError(
                    f"{location}: {os.path.basename(link)} is a link to {target}, "  # noqa: PTH119 - as above
                    "outside of the roots of this machine"
                )


def read_places(*, roots: str, path_map: str, runs_dir: str) -> PlacesHere:
    """Read the settings of these names.

    Raises:
        RequestError: one of them cannot be read.
    """
    return PlacesHere(read_roots(roots), read_path_map(path_map), runs_dir)


def read_roots(text: str) -> tuple[str, ...]:
    """Read NEUROSCAN_ROOTS: paths and URLs, separated as in PATH.

    Raises:
        RequestError: one of them is neither.
    """
    return tuple(_place(piece, f"roots is {text!r}") for piece in _pieces(text))


def read_path_map(text: str) -> tuple[tuple[str, str], ...]:
    """Read NEUROSCAN_PATH_MAP: FROM=TO, several separated as in PATH.

    Raises:
        RequestError: one of them is no such pair.
    """
    pairs = []
    for piece in _pieces(text):
        before, equals, after = piece.partition("=")
        if not equals:
            raise RequestError(
                f"path_map is {text!r}: {piece!r} is no pair; write FROM=TO, several separated by {os.pathsep!r}"
            )
        where = f"path_map is {text!r}"
        pairs.append((_place(before, where), _place(after, where)))
    return tuple(pairs)


def _pieces(text: str) -> list[str]:
    # The colon of a URL's scheme separates nothing.
    return [piece for piece in re.split(rf"{re.escape(os.pathsep)}(?!//)", text) if piece.strip()]


def _place(text: str, where: str) -> str:
    place = text.strip()
    if place.startswith("~"):
        place = os.path.expanduser(place)  # noqa: PTH111 - it may be a URL
    try:
        return check_location(place).rstrip("/") or "/"
    except ValueError as error:
        raise RequestError(f"{where}: {place!r}: {error}") from error


def _is_below(place: str, root: str) -> bool:
    return place == root or place.startswith(root.rstrip("/") + "/")
