"""From a spec to a Ray Tuner: search, scheduler, slots, and the recorder that writes what happens."""
