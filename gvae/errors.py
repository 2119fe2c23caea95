"""The one error a user's model or training mistake raises."""


class ModelError(ValueError):
    """Something about a network, objective, checkpoint or training is wrong: what was given and the fix."""
