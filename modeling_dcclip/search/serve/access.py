"""Who may see the page of an index, and where the page runs: one server for each index.

.page.json  secrets and address, in a file that this user alone can read
.page.lock  held by the process that serves the page
"""

import json
import os
import secrets
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from modeling_dcclip.image_dcclip import open_regular
from modeling_dcclip.search.messages import Message, UserError, user_language

FILE = ".page.json"
LOCK = ".page.lock"
KEY_HEADER = "X-DCCLIP-Key"
MAX_BYTES = 2**12  # largest file that is read
POLL_S = 0.5
PATIENCE_S = 15.0  # for a server that is starting or busy
SECRET_BYTES = 16
CONNECTIONS = ("/proc/net/tcp", "/proc/net/tcp6")


def _secret() -> str:
    return secrets.token_urlsafe(SECRET_BYTES)


@dataclass(frozen=True)
class Access:
    """Secrets of the page of one index, and its address.

    Args:
        token: Part of the address that opens the page. The list of processes shows it while a browser starts.
        cookie: What the browser then sends.
        key: Header of requests that only commands of this user may send.
        origin: Where commands of this machine reach the server; empty before its first start.
    """

    token: str = field(default_factory=_secret)
    cookie: str = field(default_factory=_secret)
    key: str = field(default_factory=_secret)
    origin: str = ""

    def url(self, origin: str) -> str:
        """Address that opens the page, at one of the addresses of the server."""
        return f"{origin}/?token={self.token}"


def is_same(given: str, secret: str) -> bool:
    """Whether a request has a secret, in a time that tells nothing about it."""
    return secrets.compare_digest(given.encode(), secret.encode())


def is_other_user(client_port: int, port: int) -> bool:
    """Whether a connection to a port comes from a different user of this machine, who is not root.

    False where the system does not tell: Linux lists all connections with their users.
    """
    for name in CONNECTIONS:
        with suppress(OSError), open(name, encoding="ascii") as lines:
            for _, source, target, *_, user in (line.split()[:8] for line in lines):
                if (source[-5:], target[-5:]) == (f":{client_port:04X}", f":{port:04X}"):
                    return int(user) not in (0, os.getuid())
    return False


def read_access(folder: Path) -> Access:
    """The access of an index. It is new if there is none, or if other users may know it."""
    with suppress(OSError, ValueError, TypeError), open_regular(folder / FILE) as file:
        status = os.fstat(file.fileno())
        is_private = os.name == "nt" or not stat.S_IMODE(status.st_mode) & 0o077
        is_ours = not hasattr(os, "getuid") or status.st_uid == os.getuid()
        access = Access(**json.loads(file.read(MAX_BYTES)))
        are_secrets = min(map(len, (access.token, access.cookie, access.key))) >= SECRET_BYTES
        if is_private and is_ours and are_secrets and access.origin.isascii():
            return access
    return Access()


def write_access(folder: Path, access: Access):
    """Write the access of an index atomically. An index on a disk that cannot be written has none that lasts."""
    scratch = folder / f"{FILE}.{os.getpid()}"
    with suppress(OSError):
        scratch.unlink(missing_ok=True)
        with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(asdict(access), file)
        scratch.replace(folder / FILE)


@contextmanager
def sole_server(folder: Path, join: Callable[[], None]) -> Iterator[None]:
    """Wait until no other process serves the page of an index. If one does, `join` is called first."""
    lock = FileLock(folder / LOCK, mode=0o600)
    held: AbstractContextManager = nullcontext()
    try:
        held = lock.acquire(blocking=False)
    except Timeout:
        join()
        held = lock.acquire(poll_interval=POLL_S)
    except OSError:  # a disk that cannot be written
        pass
    with held:
        yield


def add_folders(folder: Path, folders: Sequence[Path], exclude: Sequence[str] | None) -> str:
    """Have the process that serves the page of an index add folders to it.

    Returns:
        Address of the page.

    Raises:
        ValueError: The process cannot be reached, or refuses.
    """
    names = [str(each.resolve()) for each in folders]
    body = json.dumps({"folders": names, "exclude": exclude}).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    ends = time.monotonic() + PATIENCE_S
    while True:
        access = read_access(folder)
        headers = {KEY_HEADER: access.key, "Accept-Language": user_language()}
        cause = "no address"
        try:
            if access.origin:
                request = urllib.request.Request(f"{access.origin}/folders", body, headers)
                opener.open(request, timeout=PATIENCE_S).close()
                return access.url(access.origin)
        except urllib.error.HTTPError as error:  # which says why
            raise UserError(json.load(error)["error"]) from error
        except (OSError, ValueError) as error:
            cause = str(getattr(error, "reason", error))
        if time.monotonic() > ends:
            raise UserError(
                "index: another dcclip serves {!r} and does not answer ({}). Stop it, and run the command again.",
                str(folder),
                Message(cause),
            )
        time.sleep(POLL_S)
