"""A TLS server in front of a Redis on a unix socket, with a certificate of a throw-away authority."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from pathlib import Path

import trustme

_CHUNK = 65536


class TlsProxy:
    """Passes bytes between TLS clients on 127.0.0.1 and a unix socket."""

    def __init__(self, target: Path, folder: Path) -> None:
        authority, other = trustme.CA(), trustme.CA()
        self.ca = folder / "ca.pem"
        self.wrong_ca = folder / "wrong-ca.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        other.cert_pem.write_to_path(str(self.wrong_ca))
        self._target = target
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1", "localhost").configure_cert(self._context)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.connections = 0

    def url(self, password: str, ca: Path | None = None) -> str:
        """The broker's URL over TLS."""
        return f"rediss://:{password}@127.0.0.1:{self.port}/0?ssl_ca_certs={ca or self.ca}"

    def __enter__(self) -> TlsProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            client.settimeout(10)
            with (
                self._context.wrap_socket(client, server_side=True) as secure,
                socket.socket(socket.AF_UNIX) as server,
            ):
                secure.settimeout(None)
                server.connect(str(self._target))
                self.connections += 1
                back = threading.Thread(target=_copy, args=[server, secure], daemon=True)
                back.start()
                _copy(secure, server)
                back.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
