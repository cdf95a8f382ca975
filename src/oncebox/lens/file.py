"""The lock beside the application: steps and schemas that code which is older than they can use."""

from __future__ import annotations

import logging
from pathlib import Path

from .chain import declared

logger = logging.getLogger("oncebox")

NAME = "oncebox.lock"


class LockFile:
    """A lock as a process knows it: read anew when the file has changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: tuple[int, int] | None = None

    def look(self) -> bool:
        """Learn what the file says, if it is another than before; whether it was. Raises
        SchemaError.
        """
        from ..schema.lock import read_lock

        try:
            found = self.path.stat()
            at = (found.st_mtime_ns, found.st_size)
            if at == self.known:
                return False
            lock = read_lock(self.path.read_text(), str(self.path))
        except OSError as error:
            logger.warning("%s cannot be read: %s", self.path, error)
            return False
        self.known = at
        declared.learn(
            lock.schemas.values(), ((type, edge) for (type, _), edge in lock.edges.items())
        )
        return True


def use_lock(path: str | None = None) -> None:
    """Know the lenses and schemas of a lock: the one of this path, or `oncebox.lock` where the
    process runs, if there is one. It is looked at again when an event comes in a version that is
    not known. Raises SchemaError.
    """
    file = LockFile(Path(path or NAME).absolute())
    if path is not None or file.path.exists():
        file.look()
        declared.look_again = file.look
