"""Every kernel on a card: is it right, and how fast is it? `python -m benchmarks.gpu`

Needs torch, triton and numpy, nothing else.
"""
