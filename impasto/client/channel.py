"""How a client connects: options of the channel and TLS."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import grpc

from impasto.errors import InvalidRequest

MAX_PORT = 65_535
_UNLIMITED = -1


@dataclasses.dataclass(frozen=True, slots=True)
class Tls:
    """PEM files. `ca` signs the server (None: the system's), `cert` and `key` are the client's own (mutual TLS).

    `server_name` is the name to expect in the server's certificate, where it differs from the address.
    """

    ca: Path | str | None = None
    cert: Path | str | None = None
    key: Path | str | None = None
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """The files' contents for a channel. InvalidRequest if one cannot be read or its pair is missing."""
        if (self.cert is None) != (self.key is None):
            raise InvalidRequest("tls", "only one of cert and key", "both or none")
        return grpc.ssl_channel_credentials(_read("ca", self.ca), _read("key", self.key), _read("cert", self.cert))


def check_address(address: str) -> str:
    """The address as it stands. InvalidRequest if its port is none: gRPC would take another one."""
    _, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and not 0 < int(port) <= MAX_PORT:
        raise InvalidRequest("server", address, f"a port from 1 to {MAX_PORT}")
    return address


def channel_options(tls: Tls | None) -> list[tuple[str, int | str]]:
    """Messages of any size, and quick reconnecting: a server that restarts is back for clients when it is back."""
    options: list[tuple[str, int | str]] = [
        ("grpc.max_receive_message_length", _UNLIMITED),
        ("grpc.max_send_message_length", _UNLIMITED),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
    ]
    if tls and tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options


def _read(field: str, path: Path | str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidRequest(f"tls.{field}", str(path), f"a readable PEM file ({error.strerror})") from error
