"""One slot of a sweep: a Ray trainable that drives its ranks through trial after trial."""
