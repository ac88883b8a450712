"""Fetch images from https addresses that strangers name, never from inside the network that the server runs in.

The name is resolved once, every address of it is checked, and the connection goes to one of those that were checked. So
a name that resolves to another address a moment later gains nothing. Redirects are not followed.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from urllib.parse import urlsplit

from greedyprune.server.errors import Refused, invalid
from greedyprune.shown import shown

PORT = 443
"""The only port that is connected to."""
STEP = 64 * 1024
"""Bytes that are read at a time; the deadline is checked between them."""
EMBEDDING = ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")
"""IPv6 networks whose addresses stand for IPv4 addresses, which may be private."""


class Connection(http.client.HTTPSConnection):
    """A connection to a checked address, with the certificate of the name."""

    def __init__(self, host: str, address: str, timeout: float) -> None:
        self._checked, self._tls = address, ssl.create_default_context()
        super().__init__(host, PORT, timeout=timeout, context=self._tls)

    def connect(self) -> None:
        """Connect to the address, not to what the name resolves to now."""
        plain = socket.create_connection((self._checked, PORT), self.timeout)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)


def fetch(url: str, most: int, deadline: float) -> bytes:
    """The bytes behind an https address. `deadline`: in seconds of `time.monotonic`.

    Raises Refused if the address is not public, if it holds more than `most` bytes, or if it does not answer in time.
    """
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise invalid(f"image_url {shown(url)} is no address: {error}.", "image_url", "invalid_image_url") from error
    if not host or parts.username or parts.password or port not in (None, PORT):
        raise invalid(
            f"image_url {shown(url)}: write https://host/path, without a user and on port {PORT}.",
            "image_url",
            "invalid_image_url",
        )
    address = public_address(host)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection = Connection(host, address, max(0.1, min(10.0, deadline - time.monotonic())))
    try:
        connection.request("GET", path, headers={"Accept": "image/*", "User-Agent": "greedyprune"})
        answer = connection.getresponse()
        if answer.status != 200:
            why = "redirects are not followed" if 300 <= answer.status < 400 else "only 200 is read"
            raise _failed(url, f"it answers with status {answer.status}, and {why}")
        return _body(answer, url, most, deadline)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _failed(url, str(error) or type(error).__name__) from error
    finally:
        connection.close()


def public_address(host: str) -> str:
    """One address of a host. Raises Refused unless every address that it has is public."""
    try:
        found = socket.getaddrinfo(host, PORT, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise invalid(f"the host {shown(host)} is not found.", "image_url", "invalid_image_url") from error
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(is_public(address) for address in addresses):
        raise invalid(
            f"the host {shown(host)} has no public address, and images of other addresses are not fetched: send the "
            "image as a data URL.",
            "image_url",
            "private_address",
        )
    return addresses[0]


def is_public(address: str) -> bool:
    """True for an address of the public internet: no private, local, shared, reserved or multicast one."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        if any(found in ipaddress.ip_network(each) for each in EMBEDDING):
            return False
    return found.is_global and not found.is_multicast and not found.is_reserved


def _body(answer: http.client.HTTPResponse, url: str, most: int, deadline: float) -> bytes:
    """Read the body in steps, within the limits."""
    found = bytearray()
    while piece := answer.read1(STEP):
        found += piece
        if len(found) > most:
            raise Refused(413, "image_too_large", f"image_url {shown(url)} holds more than {most} bytes.")
        if time.monotonic() > deadline:
            raise _failed(url, "it takes too long")
    return bytes(found)


def _failed(url: str, why: str) -> Refused:
    return invalid(f"image_url {shown(url)} cannot be fetched: {why}.", "image_url", "image_not_fetched")
