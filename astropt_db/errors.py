"""The errors that a user can cause and mend.

Each one says what was expected, what was found and what to do next. The command line prints
the message without a traceback; ``--debug`` shows it.
"""


class AstroptDbError(Exception):
    """Base of every error that is meant for the user's eyes."""


class ConfigurationError(AstroptDbError):
    """An option, environment variable or folder cannot be used as given."""


class DatabaseError(AstroptDbError):
    """The database cannot be reached, or is not in the state that the code needs."""


class FileError(AstroptDbError):
    """A file cannot be read as what it claims to be.

    Parameters
    ----------
    path
        The file, as the user named it.
    problem
        What was expected and what was found.
    remedy
        What to do next; may be empty.
    """

    def __init__(self, path: object, problem: str, remedy: str = "") -> None:
        self.path = str(path)
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{self.path}: {problem}" + (f" {remedy}" if remedy else ""))

    def __reduce__(self) -> tuple[type["FileError"], tuple[str, str, str]]:
        # Exceptions cross process boundaries in `ingest --jobs N`.
        return type(self), (self.path, self.problem, self.remedy)


class MissingExtraError(AstroptDbError):
    """A feature needs a package that only an extra installs."""

    def __init__(self, package: str, extra: str, feature: str) -> None:
        self.args_tuple = (package, extra, feature)
        super().__init__(
            f"{feature} needs the package {package!r}, which is not installed. "
            f"Install it with: pip install 'astropt-db[{extra}]'"
        )

    def __reduce__(self) -> tuple[type["MissingExtraError"], tuple[str, str, str]]:
        return type(self), self.args_tuple
