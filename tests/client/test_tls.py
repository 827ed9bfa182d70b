from __future__ import annotations

import asyncio
import datetime
import ipaddress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import impasto
from impasto.client import RetryPolicy
from impasto.errors import InvalidRequest, Unavailable
from tests.client.conftest import running

ONCE = RetryPolicy(attempts=1)


class Authority:
    """Signs certificates for this machine, written as NAME.pem and NAME.key into a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.ca = self._write(name, self._builder(self.name, self.key, ca=True), self.key)

    def sign(self, name: str) -> Path:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return self._write(name, self._builder(subject, key, ca=False), key)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(names, critical=False)
        )

    def _write(self, name: str, builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> Path:
        certificate = self.folder / f"{name}.pem"
        certificate.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        certificate.with_suffix(".key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate


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
