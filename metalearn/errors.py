"""Errors a user can cause; the command line prints them without a traceback and exits with status 2."""

from tasks.errors import DataError, unknown, unknown_of_many

__all__ = ["DataError", "UserError", "unknown", "unknown_of_many"]


class UserError(ValueError):
    """A mistake in a config, an option or an environment: what was given, what is allowed, the fix."""
