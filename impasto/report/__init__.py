"""What benchmarks measured, for readers: `impasto report`, a page of figures and tables or a check for regressions."""
