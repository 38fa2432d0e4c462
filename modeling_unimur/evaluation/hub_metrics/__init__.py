"""Measures as modules of the library `evaluate`: each folder loads with `evaluate.load(folder)`, and can be pushed to
the Hub as it is. They only wrap the functions of this package, which they need installed."""
