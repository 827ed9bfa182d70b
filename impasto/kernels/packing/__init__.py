"""What `aot.pack` packs, and how it looks to a program in C: lists of kernels, and the header's text."""
