"""Metrics, systems, and the tasks that evaluate them."""
