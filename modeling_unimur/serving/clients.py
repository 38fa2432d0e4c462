"""Identifies clients, for fair scheduling and for the cache of chats."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
from collections.abc import Mapping, Sequence

# A secret of the client, such as a random UUID for each user or session.
CLIENT_HEADERS = ("x-client", "authorization")
# Of this process, so that what is kept in memory names nobody.
_SALT = os.urandom(16)


def client_host(peer: tuple | None) -> str:
    """The address that limits count by: an IPv4 address, or the first half of an IPv6 address, which one client has
    as a whole."""
    host = peer[0] if peer else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return str(host)
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))


def client_key(peer: tuple | None, headers: Mapping[str, str], names: Sequence[str] = CLIENT_HEADERS) -> str | None:
    """The key of a client's kept chats, or None for a request that does not say whose it is.

    Two requests share what is kept only if they come from the same address and show the same secret in one of the
    headers `names`. The address alone is not enough: behind a proxy all clients have the proxy's.
    """
    shown = [f"{name}={headers[name]}" for name in names if headers.get(name)]
    if not shown:
        return None
    named = "\n".join([client_host(peer), *shown]).encode("utf-8", "backslashreplace")
    return hashlib.blake2b(named, key=_SALT, digest_size=16).hexdigest()


def has_api_key(headers: Mapping[str, str], api_key: str | None) -> bool:
    """Whether a request shows the server's API key, as `Authorization: Bearer KEY`; any does where there is none."""
    if api_key is None:
        return True
    scheme, _, shown = headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(shown.strip().encode(), api_key.encode())
