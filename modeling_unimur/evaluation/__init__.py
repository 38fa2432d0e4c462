"""Metrics, systems and the tasks that they are measured on."""
