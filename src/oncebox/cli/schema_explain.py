"""`oncebox schema explain`: the function between two versions, as Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ..errors import NotFound
from ..lens.chain import declared
from ..lens.file import NAME, use_lock
from ..service.contracts import modules_of
from ..service.places import services
from .options import said
from .output import tell
from .schema_lock import Contracts, File

Type = Annotated[str, said("The event's type: order.placed.")]
Was = Annotated[int, said("The version that is read.")]
Now = Annotated[int, said("The version that is wanted.")]
PATH = Path(NAME)


def explain(
    type: Type, was: Was, now: Now, /, *, contracts: Contracts = None, file: File = PATH
) -> None:
    """Show the function that makes one version of an event of another.

    The steps are those of the application (--app) and of the lock. Between
    versions that only add fields with defaults, they follow from the schemas.

    For example:

        oncebox schema explain order.placed 1 4
        oncebox schema explain order.placed 4 1 --contracts contracts
    """
    services()  # what they declare
    for package in contracts or ():
        list(modules_of(package))
    use_lock(str(file) if file != PATH else None)
    translation = declared.translation(type, was, now)
    if translation is None:
        known = ", ".join(map(str, declared.versions(type))) or "none"
        raise NotFound(
            f"nothing leads from version {was} of {type} to {now}",
            expected=f"versions that are joined; known are {known}",
            hint=f'evolve("{type}", {min(was, now)}, {max(was, now)}, …)',
        )
    tell({"type": type, "from": was, "to": now, "source": translation.source}, translation.source)
