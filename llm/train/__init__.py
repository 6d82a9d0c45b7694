"""Chapter 5 and appendix D: the training loop, losses, optimizer, resuming."""
