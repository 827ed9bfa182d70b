"""Loads on servers and engines, and what they measure: `impasto bench`. Needs the client, and the engine in-process."""
