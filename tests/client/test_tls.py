from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import impasto
from impasto.client import RetryPolicy
from impasto.errors import InvalidRequest, Unavailable
from tests.client.conftest import running
from tests.support.certificates import Authority

ONCE = RetryPolicy(attempts=1)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


def test_a_server_with_a_signed_certificate_is_trusted(models: Path, authority: Authority) -> None:
    cert = authority.sign("server")
    with (
        running(models, load=("null",), tls={"cert": cert, "key": cert.with_suffix(".key")}) as address,
        impasto.Client(address, tls=impasto.Tls(ca=authority.ca)) as client,
    ):
        assert len(client.generate("null", seeds=1)) == 1


def test_a_server_signed_by_another_is_not_trusted(models: Path, authority: Authority) -> None:
    cert = authority.sign("server")
    stranger = Authority(authority.folder, "stranger")
    with (
        running(models, load=("null",), tls={"cert": cert, "key": cert.with_suffix(".key")}) as address,
        impasto.Client(address, tls=impasto.Tls(ca=stranger.ca), retries=ONCE) as client,
        pytest.raises(Unavailable, match=address),
    ):
        client.generate("null", seeds=1)


def test_mutual_tls_asks_for_a_certificate_of_the_client(models: Path, authority: Authority) -> None:
    cert, mine = authority.sign("server"), authority.sign("client")
    tls = {"cert": cert, "key": cert.with_suffix(".key"), "client_ca": authority.ca}
    known = impasto.Tls(ca=authority.ca, cert=mine, key=mine.with_suffix(".key"))

    async def generate(address: str, tls: impasto.Tls) -> int:
        async with impasto.AsyncClient(address, tls=tls, retries=ONCE) as client:
            return len(await client.generate("null", seeds=1))

    with running(models, load=("null",), tls=tls) as address:
        assert asyncio.run(generate(address, known)) == 1
        with pytest.raises(Unavailable):
            asyncio.run(generate(address, impasto.Tls(ca=authority.ca)))


@pytest.mark.parametrize(
    ("tls", "message"),
    [
        (impasto.Tls(ca="/nowhere/ca.pem"), "tls.ca: found '/nowhere/ca.pem'; allowed is a readable PEM file"),
        (impasto.Tls(cert="client.pem"), "tls: found 'only one of cert and key'"),
    ],
)
def test_files_that_do_not_do_are_named(tls: impasto.Tls, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        impasto.Client("127.0.0.1:1", tls=tls)
