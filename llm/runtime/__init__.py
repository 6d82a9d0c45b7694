"""Where tensors are computed: device, precision, threads, free memory."""
