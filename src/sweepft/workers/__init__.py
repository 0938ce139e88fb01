"""The ranks of one slot: living processes on one placement group, started and torn down together."""
