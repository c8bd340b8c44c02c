"""HTTP over the daemon's unix socket, as little of it as the command needs."""

import http.client
import socket
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress

import msgspec

from agent.api.schemas import ErrorBody
from agent.errors import DaemonUnreachable, Internal, RequestError, from_code

# Answers may wait in a queue for long; a daemon that is alive accepts a connection at once.
CONNECT_TIMEOUT_S = 5.0
STATUS_TIMEOUT_S = 10.0
# How an error in mid-stream begins; a chunk begins with its id.
ERROR_START = b'{"error":'


class SocketClient:
    """Asks the daemon on the socket at `path`; one connection per request.

    Every method raises DaemonUnreachable, or the RequestError the daemon answers with.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def get_json(self, route: str, timeout_s: float = STATUS_TIMEOUT_S) -> bytes:
        """The JSON of a route."""
        with self._response("GET", route, timeout_s=timeout_s) as response:
            return response.read()

    def post_json(self, route: str, body: bytes) -> bytes:
        """The JSON a route answers a JSON body with; waits as long as the answer takes."""
        with self._response("POST", route, body) as response:
            return response.read()

    def post_events(self, route: str, body: bytes) -> Generator[bytes]:
        """The data of each server-sent event until [DONE]. Closing the iterator closes the connection."""
        with self._response("POST", route, body) as response:
            while line := response.readline():
                data = line.removeprefix(b"data: ").strip()
                if data == b"[DONE]":
                    return
                if data.startswith(ERROR_START):
                    raise error_of(data)
                if data:
                    yield data
            raise self._unreachable("closed the connection before the answer was complete")

    @contextmanager
    def _response(
        self, method: str, route: str, body: bytes | None = None, timeout_s: float | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        with closing(_Connection(self.path, timeout_s)) as connection:
            try:
                connection.connect()
            except (FileNotFoundError, ConnectionRefusedError) as error:
                sentence = f"no daemon answers on {self.path}; start it with: tampu run"
                raise DaemonUnreachable(sentence) from error
            except PermissionError as error:
                sentence = f"this user may not use {self.path}; become a member of the group that owns it"
                raise DaemonUnreachable(sentence) from error
            except OSError as error:
                raise self._unreachable(f"cannot be reached: {error.strerror or error}") from error
            try:
                _send(connection, method, route, body)
                response = connection.getresponse()
                if response.status != http.client.OK:
                    raise error_of(response.read())
                yield response
            except TimeoutError as error:
                raise self._unreachable(f"gave no answer within {timeout_s} s") from error
            except (ConnectionError, http.client.HTTPException) as error:
                raise self._unreachable("closed the connection before the answer was complete") from error

    def _unreachable(self, what: str) -> DaemonUnreachable:
        return DaemonUnreachable(f"the daemon on {self.path} {what}; see its log")


def _send(connection: http.client.HTTPConnection, method: str, route: str, body: bytes | None) -> None:
    with suppress(BrokenPipeError):  # refused before all was sent: the response says why
        connection.request(method, route, body, {"Content-Type": "application/json"} if body else {})


def error_of(body: bytes) -> RequestError:
    """The error in an OpenAI-shaped body."""
    try:
        error = msgspec.json.decode(body, type=ErrorBody).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Internal(f"the daemon answered with an error that is not JSON: {body[:200]!r}")
    return from_code(error.code, error.message)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float | None) -> None:
        super().__init__("localhost")
        self._path = path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CONNECT_TIMEOUT_S)
        self.sock.connect(self._path)
        self.sock.settimeout(self._timeout_s)
