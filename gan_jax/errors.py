"""The error class for bad user input."""


class UserError(ValueError):
    """An error the user can fix. The message names the field or file, its value and the remedy."""
