"""openjepa: one library and command line for the JEPA family of self-supervised models."""

__version__ = "0.1.0"
