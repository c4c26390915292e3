"""Errors that a user can act on; only ``cli.py`` turns them into text and exit codes."""

MAX_MESSAGE = 1500  # characters; what was read from a file may be any size


def printable(text: str) -> str:
    r"""One line without control characters, for terminals and logs: ``a\nb`` and escape sequences are spelled out.

    File names and contents from strangers end up in messages; printed raw they could move the cursor, colour the
    screen or forge a line.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class PhaseVeilError(Exception):
    """Base of every error that PhaseVeil raises on purpose: one sentence with the cause and the way out.

    As text it is one printable line of limited length, whatever names and contents it quotes.
    """

    def __str__(self) -> str:
        message = printable(super().__str__())
        return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…"

    def without(self, name: object) -> str:
        """The message without the input's name in front, for places that name it themselves."""
        return str(self).removeprefix(printable(f"{name}: "))


class InputError(PhaseVeilError):
    """An image, folder or archive cannot be used."""


class ConfigError(PhaseVeilError):
    """A configuration value is unknown, missing or impossible."""


class CheckpointError(PhaseVeilError):
    """A weights or camera file is damaged, or does not fit what it is loaded into."""


class DownloadError(PhaseVeilError):
    """A file could not be fetched, or what came is not what was asked for."""


class TrainingError(PhaseVeilError):
    """A training run cannot go on."""


class OpticsError(ConfigError):
    """An optical design cannot be simulated as it is sampled."""
