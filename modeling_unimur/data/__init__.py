"""Readers: raw files -> `datasets.Dataset` in the project's schemas, and the packages that bring real files."""
