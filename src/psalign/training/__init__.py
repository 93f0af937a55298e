"""Training of adapters with Diffusion-DPO."""
