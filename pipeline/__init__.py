"""The library: pure functions and models. Knows neither the stages nor the labeling application."""
