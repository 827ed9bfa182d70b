"""From a torch generator to a bundle on disk: graphs, their rules, parity, manifest."""
