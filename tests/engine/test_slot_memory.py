from __future__ import annotations

import numpy as np

from impasto.engine.slot_memory import SlotMemory

LARGE, SMALL, HIGH = (4, 6, 6), (4, 2, 3), (4, 6, 2)


def test_every_size_is_a_view_of_the_same_memory() -> None:
    memory = SlotMemory(3, 6, LARGE)
    large, small = memory.view(LARGE), memory.view(SMALL)
    assert (large.state.latent.shape, small.state.latent.shape) == ((3, *LARGE), (3, *SMALL))
    assert (small.state.history.shape, small.state.saved.shape) == ((3, 3, *SMALL), (3, *SMALL))
    assert (small.state.scratch.shape, small.inputs.shape) == ((4, *SMALL), (6, *SMALL))
    assert np.shares_memory(large.inputs, small.inputs)
    for field in ("latent", "history", "saved", "scratch"):
        assert np.shares_memory(getattr(large.state, field), getattr(small.state, field)), field


def test_slots_of_several_sizes_do_not_touch_each_other() -> None:
    memory = SlotMemory(3, 6, LARGE)
    views = [memory.view(shape) for shape in (SMALL, LARGE, HIGH)]
    for slot, view in enumerate(views):
        for tensor in (view.state.latent, view.state.history, view.state.saved, view.inputs):
            tensor[slot] = slot + 1
    for slot, view in enumerate(views):
        for tensor in (view.state.latent, view.state.history, view.state.saved, view.inputs):
            assert (tensor[slot] == slot + 1).all()
        assert view.inputs[slot : slot + 1].flags.c_contiguous, "as the graphs take it, without a copy"
