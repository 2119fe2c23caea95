"""Guided-VAE encoders: networks, guidance, losses, objectives and the pretraining loop."""
