"""The error a person can mend."""


class UserError(ValueError):
    """Bad input. The message names the field or file, its value, and the remedy."""
