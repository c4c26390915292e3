"""Errors that a user can act on; only ``cli.py`` turns them into text and exit codes."""


class PhaseVeilError(Exception):
    """Base of every error that PhaseVeil raises on purpose: one sentence with the cause and the way out."""


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
