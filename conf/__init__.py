"""The Hydra configuration of cooper, shipped as the package ``cooper.conf``."""
