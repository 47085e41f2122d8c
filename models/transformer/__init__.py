"""The transformer of DINO: encoder, query selection, denoising, decoder."""
