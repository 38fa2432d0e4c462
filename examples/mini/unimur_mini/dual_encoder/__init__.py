"""Training of the small dual encoder: its images, their views, and the projection between frozen towers."""
