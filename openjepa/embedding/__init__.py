"""Features of whole data sets on disk: one row per item, resumable, in constant memory."""

from openjepa.embedding.embed import Embedded, embed
from openjepa.embedding.rows import Rows
from openjepa.embedding.store import Store, open_store
from openjepa.embedding.work import iterate, model_fingerprint

__all__ = ["Embedded", "Rows", "Store", "embed", "iterate", "model_fingerprint", "open_store"]
