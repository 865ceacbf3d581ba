"""Hydra finds launchers in the namespace package hydra_plugins only."""
