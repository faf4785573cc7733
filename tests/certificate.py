"""A certificate that nobody vouches for, and a server that shows it."""

import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path

# Signs itself for localhost; made for these tests alone.
CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgeGzsqx5LYvsaCzZl
Mtnt8RSMby0TOfjkNzJY1oakmzyhRANCAAR/KAqmfoTW/foPEaPFJnoWGyKgITSs
T/6yM/62tecarYtMiixgh0b6Sc+tjXQiOyk0DISBxJ2vI7nxMMUma8P3
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBZzCCAQ2gAwIBAgIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhv
c3QwIBcNMjAwMTAxMDAwMDAwWhgPMjExOTAxMDEwMDAwMDBaMBQxEjAQBgNVBAMM
CWxvY2FsaG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABH8oCqZ+hNb9+g8R
o8UmehYbIqAhNKxP/rIz/ra15xqti0yKLGCHRvpJz62NdCI7KTQMhIHEna8jufEw
xSZrw/ejTjBMMBoGA1UdEQQTMBGCCWxvY2FsaG9zdIcEfwAAATAPBgNVHRMBAf8E
BTADAQH/MB0GA1UdDgQWBBT8xTu/FhrvQWmHS7N/oBSY8FODWDAKBggqhkjOPQQD
AgNIADBFAiEAylfGFDvBdkQ5s2g0Q55DeBZAmsvPr772PKR7PBP8WyUCIFkIcavJ
G4VP32sAcEZaJ2z0lRTSvO4G2RUhfizNOdLs
-----END CERTIFICATE-----
"""


class TlsServer:
    """Shows the certificate to whoever connects, and notes what they say under its cover.

    Args:
        folder: takes the certificate's file, ``pem``.
        preamble: what is answered before TLS begins, to the first eight bytes; nothing if it is empty.
    """

    def __init__(self, folder: Path, preamble: bytes = b"") -> None:
        self.pem = folder / "localhost.pem"
        self.pem.write_text(CERTIFICATE)
        self.heard: list[bytes] = []
        self.refused = 0
        self._preamble = preamble
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.pem)
        self._listener = socket.create_server(("", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hang up for good."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer:
                self._talk(peer)

    def _talk(self, peer: socket.socket) -> None:
        peer.settimeout(5)
        try:
            if self._preamble:
                peer.recv(8)
                peer.sendall(self._preamble)
            with self._context.wrap_socket(peer, server_side=True) as covered:
                if said := covered.recv(
                    1_000
                ):  # a client that refuses may have finished the handshake before
                    self.heard.append(said)
                else:
                    self.refused += 1
        except OSError:
            self.refused += 1
