"""Corpora to vectors in an index: by one process or many, resumable, each content once."""
