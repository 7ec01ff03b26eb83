"""Training a continuous VAE from images alone: what a tokenizer is then adapted from."""
