"""Hooks on the modules of a model. They pass values between the model and `forward/`, and decide nothing."""
