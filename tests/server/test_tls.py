"""TLS and mutual TLS: who is trusted, and what a bad file is told."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

import impasto
from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.api.impasto.v1.generation_pb2_grpc import GenerationServiceStub
from impasto.client import RetryPolicy
from impasto.errors import InvalidRequest, Unavailable
from impasto.server.server import Server
from tests.support.certificates import Authority
from tests.support.inference import serving

Tls = dict[str, Path]
Call = Callable[[Server, impasto.Tls], Any]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "stranger")


@pytest.fixture
def tls(authority: Authority) -> Tls:
    """What the server needs for TLS."""
    cert = authority.sign("server")
    return {"cert": cert, "key": cert.with_suffix(".key")}


def shown_by(authority: Authority, trusted: Authority) -> impasto.Tls:
    """A client's files: a certificate that the first has signed, and trust in the second."""
    cert = authority.sign("client")
    return impasto.Tls(ca=trusted.ca, cert=cert, key=cert.with_suffix(".key"))


async def with_grpc(server: Server, tls: impasto.Tls) -> int:
    """The number of pictures that a plain gRPC client gets for two seeds."""
    async with grpc.aio.secure_channel(server.address, tls.credentials()) as channel:
        reply = await GenerationServiceStub(channel).Generate(pb.GenerateRequest(model="null", seeds=[1, 2]))
    return len(reply.pictures)


async def with_client(server: Server, tls: impasto.Tls) -> int:
    """The same with our client."""

    def generate() -> int:
        with impasto.Client(server.address, tls=tls, retries=RetryPolicy(attempts=1)) as client:
            return len(client.generate("null", seeds=[1, 2]))

    return await asyncio.to_thread(generate)


def is_unavailable(error: BaseException) -> bool:
    return isinstance(error, Unavailable) or (
        isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.UNAVAILABLE
    )


either_client = pytest.mark.parametrize("call", [with_grpc, with_client])


@either_client
async def test_a_client_that_trusts_the_authority_gets_pictures(
    call: Call, null_models: Path, authority: Authority, tls: Tls
) -> None:
    async with serving(null_models, "null", tls=tls) as server:
        assert await call(server, impasto.Tls(ca=authority.ca)) == 2


@either_client
async def test_a_client_that_trusts_another_authority_refuses_the_server(
    call: Call, null_models: Path, stranger: Authority, tls: Tls
) -> None:
    async with serving(null_models, "null", tls=tls) as server:
        with pytest.raises((Unavailable, grpc.aio.AioRpcError)) as refused:
            await call(server, impasto.Tls(ca=stranger.ca))
        assert is_unavailable(refused.value)


async def test_a_client_without_tls_is_refused(null_models: Path, tls: Tls) -> None:
    async with serving(null_models, "null", tls=tls) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await GenerationServiceStub(channel).Generate(pb.GenerateRequest(model="null", seeds=[1]))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


@either_client
async def test_mutual_tls_takes_a_client_with_a_signed_certificate(
    call: Call, null_models: Path, authority: Authority, tls: Tls
) -> None:
    async with serving(null_models, "null", tls=tls | {"client_ca": authority.ca}) as server:
        assert await call(server, shown_by(authority, trusted=authority)) == 2


@either_client
async def test_mutual_tls_refuses_a_client_without_a_certificate_and_serves_on(
    call: Call, null_models: Path, authority: Authority, tls: Tls
) -> None:
    async with serving(null_models, "null", tls=tls | {"client_ca": authority.ca}) as server:
        with pytest.raises((Unavailable, grpc.aio.AioRpcError)) as refused:
            await call(server, impasto.Tls(ca=authority.ca))
        assert is_unavailable(refused.value)
        assert await call(server, shown_by(authority, trusted=authority)) == 2


@either_client
async def test_mutual_tls_refuses_a_certificate_that_another_authority_signed(
    call: Call, null_models: Path, authority: Authority, stranger: Authority, tls: Tls
) -> None:
    async with serving(null_models, "null", tls=tls | {"client_ca": authority.ca}) as server:
        with pytest.raises((Unavailable, grpc.aio.AioRpcError)) as refused:
            await call(server, shown_by(stranger, trusted=authority))
        assert is_unavailable(refused.value)


@pytest.mark.parametrize("field", ["cert", "key", "client_ca"])
async def test_a_file_that_is_missing_is_one_line_that_names_its_field(
    field: str, null_models: Path, authority: Authority, tls: Tls
) -> None:
    files = {**tls, "client_ca": authority.ca, field: null_models / "none.pem"}
    line = rf"^tls\.{field}: found '.*; allowed is a readable PEM file \(No such file or directory\)$"
    with pytest.raises(InvalidRequest, match=line):
        async with serving(null_models, "null", tls=files):
            pass


async def test_a_key_that_cannot_be_read_is_one_line_that_names_it(null_models: Path, tls: Tls) -> None:
    with pytest.raises(InvalidRequest, match=r"^tls\.key: .*readable PEM file \(Is a directory\)$"):
        async with serving(null_models, "null", tls=tls | {"key": null_models}):
            pass


@pytest.mark.parametrize("field", ["cert", "key", "client_ca"])
async def test_a_file_that_is_no_pem_is_one_line_that_names_its_field(field: str, null_models: Path, tls: Tls) -> None:
    garbage = null_models / "garbage.pem"
    garbage.write_text("no certificate")
    shown = re.escape(str(garbage)[:60])  # a longer path is cut short
    with pytest.raises(InvalidRequest, match=rf"^tls\.{field}: found '{shown}"):
        async with serving(null_models, "null", tls=tls | {field: garbage}):
            pass
