"""The synchronous and asynchronous Python clients: grpc, numpy and Pillow only."""

from impasto.client.aio import AsyncClient
from impasto.client.channel import Tls
from impasto.client.models import ModelInfo
from impasto.client.retry import RetryPolicy
from impasto.client.sync import Client

__all__ = ["AsyncClient", "Client", "ModelInfo", "RetryPolicy", "Tls"]
