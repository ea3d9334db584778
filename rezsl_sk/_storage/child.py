"""Reading a file in a process of its own, with limits.

The HDF5 library trusts what it reads: a damaged or malicious file can crash it, let it
take all memory or never end. A process that only looks at the file may die of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

from .hdf5 import CacheError, format_bytes

try:
    import resource
except ImportError:  # Windows: no limit of memory
    resource = None

__all__ = ["in_child"]

# What a child may take that reads a small file; more for larger ones, which are read
# in blocks. Reading and hashing 10 MB takes a second on the slowest of disks.
_SECONDS = 60
_BYTES_PER_SECOND = 10_000_000
_MEMORY = 2**31
_START = (
    "import sys; sys.path[:0] = sys.argv[1:2]; "
    "from rezsl_sk._storage.child import main; main(*sys.argv[2:])"
)


def in_child(function: str, path: Path) -> Any:
    """Call ``function(path)`` in a new process and hand on what it returns.

    Parameters
    ----------
    function : str
        ``module:name`` of a function of one path, which returns what JSON can hold.
    path : Path
        The file that the function reads.

    Returns
    -------
    object
        What the function returned.

    Raises
    ------
    CacheError
        If the function raised it, or the process crashed, or needed more memory or
        time than a whole file of that size needs.
    OSError
        If the function raised it.

    Warns
    -----
    UserWarning
        Of what the function warned.
    """
    size = os.stat(path).st_size
    seconds = _SECONDS + size // _BYTES_PER_SECOND
    memory = _MEMORY + size // 8
    command = [
        *(sys.executable, "-P", "-c", _START),
        # Where this package was found, also if it is not installed.
        str(Path(__file__).resolve().parents[2]),
        *(function, os.fspath(path), str(memory)),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            env=environment,
        )
        answer = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise CacheError(
            f"{path} could not be read within {seconds} s: it is damaged, or its disk "
            f"is very slow. Delete it and write it again, or copy it to another disk."
        ) from None
    except (ValueError, RecursionError):
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise CacheError(
            f"{path} is damaged: the process that read it ended without an answer "
            f"({'; '.join([f'exit code {done.returncode}', *last])}). Delete the file "
            f"and write it again."
        ) from None
    for message in answer["warnings"]:
        warnings.warn(message, UserWarning, stacklevel=3)
    if "os_error" in answer:
        raise OSError(*answer["os_error"])
    if "error" in answer:
        raise CacheError(answer["error"])
    return answer["result"]


def main(function: str, path: str, memory: str) -> None:
    """The child: print the answer as JSON.

    Parameters
    ----------
    function, path : str
        As for `in_child`.
    memory : str
        Bytes of address space that may be taken.
    """
    module, _, name = function.partition(":")
    call = getattr(import_module(module), name)
    if resource is not None:
        # Where the system has no such limit, the limit of time is left.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    answer: dict[str, Any] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            answer["result"] = call(Path(path))
        except OSError as error:
            answer["os_error"] = [error.errno, error.strerror, error.filename]
        except MemoryError:
            answer["error"] = (
                f"{path} is damaged: reading it takes more than "
                f"{format_bytes(int(memory))} of memory. Delete it and write it again."
            )
        except CacheError as error:
            answer["error"] = str(error)
        except Exception as error:
            answer["error"] = (
                f"{path} is damaged and cannot be read ({type(error).__name__}). "
                f"Delete it and write it again."
            )
    answer["warnings"] = [str(warning.message) for warning in caught]
    print(json.dumps(answer))
