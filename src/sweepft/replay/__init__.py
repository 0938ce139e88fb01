"""Replay: early-stopping rules on recorded runs, with the objects that stop live trials."""
