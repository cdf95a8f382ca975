"""Keep one server: start it, and end it when the test run is gone (see `server.py`).

Run as `python keeper.py FOLDER USER COMMAND...`; USER may be empty. Prints the server's process
id, ends with the server. At the end of standard input it ends the server and removes FOLDER.
Standard library only, and no import of its package: it runs isolated.
"""

import os
import pwd
import selectors
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

GRACE_S = 5.0


def main(folder: Path, user: str, command: list[str]) -> int:
    """Start the server and wait for whichever ends first: it, or the test run."""
    child_ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            **credentials(user or None),
        )
    print(server.pid, flush=True)
    with selectors.DefaultSelector() as waiting:
        waiting.register(sys.stdin.fileno(), selectors.EVENT_READ, "run")
        waiting.register(child_ended, selectors.EVENT_READ, "server")
        while server.poll() is None:
            for ready, _ in waiting.select():
                if ready.data == "server":
                    os.read(child_ended, 64)
                elif not os.read(sys.stdin.fileno(), 64):
                    _end(server)
                    shutil.rmtree(folder, ignore_errors=True)
                    return 1
    return 0


def credentials(user: str | None) -> dict[str, Any]:
    """Return the arguments with which `subprocess` runs a program as that user."""
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    groups = os.getgrouplist(user, entry.pw_gid)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups}


def _end(server: subprocess.Popen[Any]) -> None:
    server.send_signal(signal.SIGINT)  # waits for no client; PostgreSQL frees its shared memory
    try:
        server.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
