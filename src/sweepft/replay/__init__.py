"""Rules tried on recorded runs, by the very objects that stop live trials."""
