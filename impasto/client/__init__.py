"""The synchronous and asynchronous Python clients: grpc, numpy and Pillow only."""

from impasto.client.aio import AsyncClient
from impasto.client.aio_session import AsyncSession
from impasto.client.channel import Tls
from impasto.client.frames import Frame
from impasto.client.models import ModelInfo, ModelInput
from impasto.client.retry import RetryPolicy
from impasto.client.session import Session
from impasto.client.sync import Client

__all__ = ["AsyncClient", "AsyncSession", "Client", "Frame", "ModelInfo", "ModelInput", "RetryPolicy", "Session", "Tls"]
