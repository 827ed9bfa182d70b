"""How near two sets of pictures are: pair by pair, and as distributions."""
