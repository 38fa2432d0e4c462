"""A server that answers dialogues over HTTP: FastAPI and uvicorn around the pipeline.

`connections` closes those that send nothing, `requests` and `encoded_image` read what clients send and refuse what is
too much, `fair_queue` and `batching` put requests together, `answers` runs the pipeline on them, `public_names` hides
paths, and `app` is the application with its health check and metrics.
"""
