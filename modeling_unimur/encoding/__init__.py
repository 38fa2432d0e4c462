"""Corpora to vectors in an index: by one process or many, resumable, each content once.

`items` and the readers beside it list a source, `decoding` reads and prepares it in worker processes, `encoder` runs
the model, `manifest` knows what is done, and `build` puts them together.
"""
