"""A server that answers dialogues over HTTP: FastAPI and uvicorn around the pipeline.

`connections` closes idle connections, `requests`, `openai_requests` and `encoded_image` read and check requests by
`limits`, `batching` puts requests together, `answers` runs the pipeline on them, `public_names` hides paths, and `app`
is the application with its health check and metrics.
"""
