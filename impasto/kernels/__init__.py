"""Operations of the generators, one file each: the equation, a torch reference, the Triton kernel and its launcher."""
