"""What somebody would take instead of Impasto, with the same graphs, inputs and client: python -m benchmarks.peers"""
