"""What a run would do before it does it: stages, minutes and memory here, and a training on several GPUs on paper."""
