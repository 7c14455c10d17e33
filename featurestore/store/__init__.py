"""The tables: schemas, transactional append, snapshot reads, the DuckDB catalogue."""

from featurestore.store.store import Store, connect

__all__ = ["Store", "connect"]
