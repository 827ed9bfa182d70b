"""What runs next: queues, the dynamic batcher, admission and deadlines. Plain Python, with its clock passed in."""

from impasto.scheduling.batcher import Batch, DynamicBatcher
from impasto.scheduling.policy import BatchPolicy
from impasto.scheduling.ticket import Ticket

__all__ = ["Batch", "BatchPolicy", "DynamicBatcher", "Ticket"]
