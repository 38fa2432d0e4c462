"""Releases: a clean folder, what may not be in one, its card, a trial in a fresh process, and the way to the Hub."""
