"""Training by the Hugging Face Trainer: recipes, data, cached features."""

from .. import register

register()  # checkpoints carry the code that loads them
