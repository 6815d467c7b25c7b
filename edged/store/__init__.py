"""State on disk: bundles by content, what is committed, and images compiled before.

A `Store` survives a crash at any point: what it has acknowledged is there afterwards, and what it
was in the middle of is either whole or absent. What it cannot read it keeps and talks about.
"""

from edged.store._catalogue import Commit
from edged.store._compiled import CompiledKey, read_remarks
from edged.store._durable import translated
from edged.store._store import BundleRecord, Store

__all__ = ["BundleRecord", "Commit", "CompiledKey", "Store", "read_remarks", "translated"]
