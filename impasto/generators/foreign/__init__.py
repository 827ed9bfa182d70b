"""Checkpoints that other programs wrote, read as data: nothing in them is imported or run."""
