"""Device, precision, threads, kernels, and free memory and disk space."""
