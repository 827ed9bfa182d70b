"""Operations of the generators, one file each: the equation, a torch reference, and later the Triton kernel."""
