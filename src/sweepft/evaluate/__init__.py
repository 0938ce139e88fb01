"""What finalists are scored on: benchmarks and judged answers."""
