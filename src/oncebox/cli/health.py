"""Asks a process that runs whether it is well: healthcheck."""

from __future__ import annotations

from http.client import HTTPConnection, HTTPException
from typing import Annotated

from ..endpoints import address
from ..errors import ConfigurationError, Unreachable
from .options import said
from .output import tell

ANSWER_BYTES_MAX = 64 * 1024
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  (where one listens, not asks)

Http = Annotated[str | None, said("[HOST:]PORT that run was given; or ONCEBOX_HTTP.")]
Live = Annotated[bool, said("Whether it is alive, instead of ready.")]
Within = Annotated[float, said("How many seconds the answer may take.")]


def healthcheck(*, http: Http = None, live: Live = False, timeout_s: Within = 5.0) -> int:
    """Whether a process that runs here is ready; if not, the exit code is 1.

    For containers whose image has no curl. Exit code 4: nobody answers. Ready:
    stores and logs answer, and every loop works or stands by. Alive (--live):
    every loop turns, whatever it waits for.

    For example:

        oncebox healthcheck --http 9464
        HEALTHCHECK CMD ["oncebox", "healthcheck", "--http", "9464"]
    """
    if http is None:
        raise ConfigurationError(
            "no address is known", expected="--http [HOST:]PORT, ONCEBOX_HTTP, or the configuration"
        )
    host, port = address(http)
    path = "/live" if live else "/ready"
    connection = HTTPConnection(EVERYWHERE.get(host, host), port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read(ANSWER_BYTES_MAX).decode("utf-8", "replace").strip()
    except (OSError, HTTPException) as error:
        raise Unreachable(
            f"{host}:{port} does not answer: {str(error) or type(error).__name__}",
            hint="is oncebox run --http there, with this address?",
        ) from error
    finally:
        connection.close()
    fine = answer.status == 200
    tell({"path": path, "fine": fine, "wrong": [] if fine else text.splitlines()[1:]}, text)
    return 0 if fine else 1
