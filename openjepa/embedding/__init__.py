"""Features of whole data sets on disk: one row per item, resumable, in constant memory."""

from openjepa.embedding.store import Store, open_store

__all__ = ["Store", "open_store"]
