"""What is measured, side by side, and the figures it printed (`results/`)."""
