"""Ray as a run needs it: no reports to its makers, no dashboard, and by default nothing that others could reach.

Ray Data: https://docs.ray.io/en/latest/data/data.html.
"""

import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from phaseveil.engines.packages import need
from phaseveil.errors import ConfigError, InputError

PREFIX = "phaseveil-ray-"
MAX_BLOCKS = 4096
OBJECT_STORE = 80 << 20  # bytes, the least that Ray takes; only names of files go through it

SILENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
# Loopback only: what Ray does by itself on macOS and Windows, by the switch that it has for them. The token keeps other
# users of the machine out.
ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}


@contextmanager
def local_ray(workers: int) -> Iterator[None]:
    """A Ray of its own on this machine while the block runs; its files lie in a private temporary folder.

    Args:
        workers: Workers that may run at once.

    Raises:
        ConfigError: Ray is not installed or does not start.
    """
    need("ray", "pyarrow", extra="cluster")
    with _environment(SILENT | ALONE | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}), _private_folder() as folder:
        (folder / "objects").mkdir()
        options = {
            "num_cpus": workers,
            "object_store_memory": OBJECT_STORE,
            "_temp_dir": str(folder),
            "_plasma_directory": str(folder / "objects"),  # shared memory may be small
        }
        with _connected(address="local", **options):
            yield


@contextmanager
def cluster_ray(address: str) -> Iterator[None]:
    """A connection to a running cluster while the block runs.

    Args:
        address: ``HOST:PORT``, ``ray://HOST:PORT`` or ``auto``.

    Raises:
        ConfigError: Ray is not installed, or no cluster answers.
    """
    need("ray", "pyarrow", extra="cluster")
    with _environment(SILENT), _connected(address=address):
        yield


@contextmanager
def _connected(**options: Any) -> Iterator[None]:
    import ray
    import ray.data

    try:
        ray.init(
            include_dashboard=False if options["address"] == "local" else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **options,
        )
    except (OSError, ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"Ray does not start ({_first_line(error)}); check --address, RAY_AUTH_MODE, TMPDIR"
        ) from error
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        yield
    finally:
        ray.shutdown()


def capacity(kind: str) -> int:
    """How many workers the cluster has room for, at least 1.

    Args:
        kind: What a worker takes one of, ``CPU`` or ``GPU``.
    """
    import ray

    return max(1, int(ray.cluster_resources().get(kind, 0)))


def map_units(
    units: Sequence[str], worker: Callable[..., Any], arguments: tuple[Any, ...], workers: int, device: str
) -> Iterator[tuple[int, str]]:
    """Have units done by actors, in any order; a unit whose actor dies is given to the next one, without limit.

    Args:
        units: What the worker's column ``unit`` holds.
        worker: Class of the actors.
        arguments: Of its constructor.
        workers: Actors.
        device: A worker takes a GPU of its own if this is one, else a processor core.

    Yields:
        The worker's ``inputs`` and ``error`` for each unit.

    Raises:
        InputError: The cluster is lost.
    """
    import ray
    from ray.data import ActorPoolStrategy

    gpus = 1 if device.startswith("cuda") else 0
    data = ray.data.from_items([{"unit": unit} for unit in units], override_num_blocks=min(len(units), MAX_BLOCKS))
    answers = data.map_batches(
        worker,
        fn_constructor_args=arguments,
        batch_size=1,
        compute=ActorPoolStrategy(size=workers),
        num_cpus=1 - gpus,
        num_gpus=gpus,
    )
    try:
        for row in answers.iter_rows():
            yield int(row["inputs"]), str(row["error"])
    except (ray.exceptions.RayActorError, ray.exceptions.RaySystemError, ray.exceptions.WorkerCrashedError) as error:
        raise InputError(
            f"workers died ({_first_line(error)}); the finished outputs are intact, run the command again to go on"
        ) from error


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables, which Ray reads when it is imported and when it starts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A temporary folder that only this user can read, and that is removed; so are those of killed runs."""
    place = Path(tempfile.gettempdir())
    for stale in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), (stale / "lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its driver lives
            shutil.rmtree(stale, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
