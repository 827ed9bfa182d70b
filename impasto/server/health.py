"""grpc.health.v1: whether the server serves, as a whole and by service."""

from __future__ import annotations

from collections.abc import Iterable

from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import aio

from impasto.server.interceptor import Router

SERVICE = pb.DESCRIPTOR.services_by_name["Health"].full_name


class Health:
    """NOT_SERVING until `serving`, and again from `not_serving` on; for each service and for "", the whole."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = ("", *services)
        self._servicer = aio.HealthServicer()

    def add_to(self, router: Router) -> None:
        """Register Check and Watch."""
        router.add(health_pb2_grpc.add_HealthServicer_to_server, self._servicer)

    async def serving(self) -> None:
        for service in self._services:
            await self._servicer.set(service, pb.HealthCheckResponse.SERVING)

    async def not_serving(self) -> None:
        for service in self._services:
            await self._servicer.set(service, pb.HealthCheckResponse.NOT_SERVING)
