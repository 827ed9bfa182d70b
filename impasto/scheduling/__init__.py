"""What runs next: queues, the dynamic and the step batcher, admission and deadlines. Plain Python, clock passed in."""

from impasto.scheduling.batcher import Batch, DynamicBatcher
from impasto.scheduling.policy import BatchPolicy
from impasto.scheduling.step_batcher import StepBatcher
from impasto.scheduling.step_policy import StepPolicy
from impasto.scheduling.step_tick import Ended, Tick
from impasto.scheduling.step_ticket import StepRow, StepTicket
from impasto.scheduling.ticket import Ticket

__all__ = [
    "Batch",
    "BatchPolicy",
    "DynamicBatcher",
    "Ended",
    "StepBatcher",
    "StepPolicy",
    "StepRow",
    "StepTicket",
    "Tick",
    "Ticket",
]
