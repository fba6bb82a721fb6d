"""Finding things by their features: the most alike, near duplicates, moments within videos."""

from openjepa.searching.duplicates import THRESHOLD, Duplicates, Group, group_duplicates
from openjepa.searching.hits import Asked, Hit, Hits
from openjepa.searching.index import Index, open_table
from openjepa.searching.search import find_duplicates, open_index, search
from openjepa.searching.sheets import seconds, write_duplicates, write_sheet
from openjepa.searching.table import Store, Table, table_of

__all__ = [
    "THRESHOLD",
    "Asked",
    "Duplicates",
    "Group",
    "Hit",
    "Hits",
    "Index",
    "Store",
    "Table",
    "find_duplicates",
    "group_duplicates",
    "open_index",
    "open_table",
    "search",
    "seconds",
    "table_of",
    "write_duplicates",
    "write_sheet",
]
