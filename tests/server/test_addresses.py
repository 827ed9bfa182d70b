"""The addresses of a server's configuration: what they may be, and what any other is told."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from impasto.cli import app
from impasto.client import AsyncClient, Client
from impasto.errors import InvalidRequest
from impasto.server.config import load_config
from impasto.server.listening import _check_free
from tests.support.waiting import GUARD

ALLOWED = "HOST:PORT such as 127.0.0.1:8001 or [::]:8001"
FIELDS = ("listen", "metrics_listen")


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:8001", "0.0.0.0:0", "localhost:1", "a-host.example:65535", "[::]:8001", "[::1]:0", "[fe80::1%eth0]:80"],
)
def test_an_address_is_a_host_and_a_port(field: str, address: str) -> None:
    assert getattr(load_config(None, {field: address}), field) == address


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    "found",
    [
        *("foo", ":8001", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:٣", "127.0.0.1:123456", " h:1"),
        *("h:1\n", "a b:1", "::1:8001", "[::1]", "[]:1", "::", "http://127.0.0.1:8001", "127.0.0.1:8001/path"),
    ],
)
def test_any_other_text_is_told_the_field_and_what_is_allowed(field: str, found: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        load_config(None, {field: found})
    assert str(refused.value) == f"configuration: {field}: found {found!r}; allowed is {ALLOWED}"


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(("written", "found"), [('"foo"', "'foo'"), ("8001", "8001"), ('["h:1"]', "['h:1']")])
def test_a_value_of_the_file_is_told_the_same(field: str, written: str, found: str, tmp_path: Path) -> None:
    file = tmp_path / "impasto.toml"
    file.write_text(f"{field} = {written}\n")
    with pytest.raises(InvalidRequest) as refused:
        load_config(file)
    assert str(refused.value) == f"{file}: {field}: found {found}; allowed is {ALLOWED}"


@pytest.mark.parametrize("field", FIELDS)
def test_the_command_refuses_it_in_one_line(field: str) -> None:
    result = CliRunner().invoke(app, ["serve", f"--{field.replace('_', '-')}", "foo"])
    assert result.exit_code == 1
    assert result.stderr == f"impasto: configuration: {field}: found 'foo'; allowed is {ALLOWED}\n"
    assert result.stdout == ""


def test_a_port_that_is_taken_is_one_line_and_none_of_grpcs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        command = [sys.executable, "-m", "impasto.cli", "serve", "--listen", address, "--metrics-listen", "127.0.0.1:0"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=GUARD)
    found = f"impasto: listen: found {address!r}; allowed is an address of this machine that is free"
    assert result.returncode == 1
    assert result.stderr == f"{found} ([Errno 98] Address already in use)\n"


def test_an_address_of_a_kind_that_the_machine_lacks_is_left_to_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = 99
    with pytest.raises(OSError, match="not supported"):
        socket.socket(lacking, socket.SOCK_STREAM)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(lacking, socket.SOCK_STREAM, 0, "", ("::1", 8001))])
    _check_free("localhost", 8001, "localhost:8001")


@pytest.mark.parametrize("address", ["127.0.0.1:65536", "localhost:99999", "[::1]:123456", "127.0.0.1:0", "a:b:70000"])
async def test_a_client_refuses_a_port_that_is_none(address: str) -> None:
    for client in (Client, AsyncClient):
        with pytest.raises(InvalidRequest) as refused:
            client(address)
        assert str(refused.value) == f"server: found {address!r}; allowed is a port from 1 to 65535"


@pytest.mark.parametrize(
    "address", ["127.0.0.1:65535", "localhost", "unix:/tmp/impasto", "dns:///host:8001", "[::1]:1"]
)
def test_a_client_takes_every_other_address_that_grpc_takes(address: str) -> None:
    with Client(address) as client:
        assert client.target == address
