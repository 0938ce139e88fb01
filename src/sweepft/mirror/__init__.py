"""A copy of the run folder on an object store, updated while the sweep runs, and fetched when the folder is lost.

An object that the newest manifest names is never overwritten, and a manifest is written once, under its own digest.
Whatever fails in between, the copy is what its newest complete manifest lists.

pyarrow is loaded by the processes that copy and fetch, never by the driver.
"""
