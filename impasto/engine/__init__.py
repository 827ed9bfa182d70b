"""Engines: a bundle, on a device, with one backend."""
