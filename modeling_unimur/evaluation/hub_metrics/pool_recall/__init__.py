"""A module of the library `evaluate`, in a folder of its name."""
