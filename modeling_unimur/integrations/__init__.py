"""UniMuR in other frameworks. Each module needs its framework, and wraps a pipeline with a filled index."""
