"""A copy of the run folder on an object store, kept while the sweep runs, and brought back when the folder is lost.

One idea: an object that the newest manifest names is never written again, and a manifest is written once, under its
own digest. Whatever breaks off in between, the copy is what its newest whole manifest says: as it was a moment before.

pyarrow is loaded by the process that copies and by the one that fetches, never by the driver.
"""

from __future__ import annotations

__all__: list[str] = []
