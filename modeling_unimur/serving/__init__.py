"""A server that answers dialogues over HTTP: FastAPI and uvicorn around the pipeline.

`requests` reads what clients send and refuses what is too much, `batching` puts requests together, `answers` runs the
pipeline on them, and `app` is the application with its health check and metrics.
"""
