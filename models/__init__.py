"""Provide the networks: a stem for any set of channels, the backbones behind it, and the shallow networks."""
