"""Arrays, devices, memory, random bits and BLAS: the only room that knows CuPy."""
