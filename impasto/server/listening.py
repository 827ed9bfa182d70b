"""Where a server listens: addresses, TLS credentials and the exporter of its metrics."""

from __future__ import annotations

import errno
import socket
import ssl
from pathlib import Path
from wsgiref.simple_server import WSGIServer

import grpc
from prometheus_client import start_http_server

from impasto.errors import InvalidRequest
from impasto.server.config import Tls
from impasto.server.metrics import Metrics

MAX_PORT = 65_535


def bind(server: grpc.aio.Server, listen: str, tls: Tls | None) -> str:
    """Have the server listen there; the address with its port. InvalidRequest names what cannot be used."""
    host, wanted = split_address("listen", listen)
    _check_free(host, wanted, listen)
    credentials = _credentials(tls) if tls else None
    try:
        port = server.add_secure_port(listen, credentials) if credentials else server.add_insecure_port(listen)
    except RuntimeError as error:
        raise _not_free("listen", listen, error) from error
    return f"{host}:{port}"


def export(metrics: Metrics, listen: str) -> tuple[WSGIServer, str]:
    """Serve the metrics there over HTTP, on a thread; the HTTP server, and the address with its port."""
    host, port = split_address("metrics_listen", listen)
    try:
        exporter, _ = start_http_server(port, host.strip("[]"), metrics.registry)
    except OSError as error:
        raise _not_free("metrics_listen", listen, error) from error
    return exporter, f"{host}:{exporter.server_port}"


def split_address(field: str, address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT. InvalidRequest if there is no such port."""
    host, _, port = address.rpartition(":")
    if int(port) > MAX_PORT:
        raise InvalidRequest(field, address, f"a port from 0 (any that is free) to {MAX_PORT}")
    return host, int(port)


def _check_free(host: str, port: int, listen: str) -> None:
    """InvalidRequest if another program has the port: gRPC would write a line of its own to stderr first."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except OSError:
        return  # gRPC tells what is wrong with the host
    for family, kind, protocol, _, address in found if port else ():
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as error:  # of which gRPC may need no more than one address
            if error.errno == errno.EADDRINUSE:
                raise _not_free("listen", listen, error) from error


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    """InvalidRequest names the file that cannot be used: gRPC itself would only say that it cannot listen."""
    cert, key = _certificates("tls.cert", tls.cert), _read("tls.key", tls.key)
    client_ca = _certificates("tls.client_ca", tls.client_ca) if tls.client_ca else None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.cert, tls.key, password="")
    except (OSError, ValueError) as error:
        raise InvalidRequest("tls.key", str(tls.key), f"the PEM key of {tls.cert}, not encrypted ({error})") from error
    return grpc.ssl_server_credentials([(key, cert)], client_ca, require_client_auth=client_ca is not None)


def _certificates(field: str, file: Path) -> bytes:
    content = _read(field, file)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=content.decode("ascii"))
    except (OSError, ValueError) as error:
        raise InvalidRequest(field, str(file), f"a PEM file of certificates ({error})") from error
    return content


def _read(field: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidRequest(field, str(file), f"a readable PEM file ({error.strerror})") from error


def _not_free(field: str, address: str, error: Exception) -> InvalidRequest:
    return InvalidRequest(field, address, f"an address of this machine that is free ({error})")
