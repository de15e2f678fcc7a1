"""Compiled programs on disk: what one process compiled, a later one loads.

JAX has the keys, by the program's operations with every constant, the releases of JAX and XLA, the
compiler's options and the devices, and leaves out programs that call back into Python. Its own
files are not used: they are written in place, so that a process that ends early, or another one
that reads meanwhile, leaves or finds a part of a program, and their size is bounded only with a
further package. `ProgramFiles` takes their place, for the programs of this library only; if JAX
has a cache folder of its own, by its options or the environment, all programs are left to it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import tempfile
import threading
import time
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax

from vijax.runtime.device_layout import available_cpus

VARIABLE = "VIJAX_CACHE"
MAX_BYTES = 2**29
_OFF = ("0", "off", "false", "no")
_KEPT = 0.8  # share of the largest size that is left when old programs are deleted
_SUFFIX, _PART = ".program", ".part"
_STALE = 3600.0  # seconds after which what a process did not finish writing is deleted
# XLA takes these hints for instructions that the processor lacks when it loads a program, and
# complains about each (github.com/openxla/xla/issues/44565)
_UNLOADABLE = b"+prefer-no-"
_local = threading.local()


class ProgramFiles:
    """Programs in a folder, with the interface that JAX has for its caches.

    A file appears at once and whole, and has a checksum. The programs that were not used for the
    longest time are deleted where all are larger than `max_bytes`. Nothing raises: a folder that
    cannot be read or written is `problem`, and programs are compiled.

    Args:
        folder: of the files; made when the first one is written.
        max_bytes: of all files.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self.problem = ""
        self._path = str(folder)  # JAX logs it
        self._read: set[str] = set()
        self._unchecked = max_bytes  # bytes written since the size of all was last checked

    def get(self, key: str) -> bytes | None:
        """The program, `None` if there is none."""
        block = getattr(_local, "block", None)
        if block is None or self.problem or not _is_ours(self):
            return None
        path = self._file(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        value = content[4:]
        if content[:4] != _checksum(value):
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # it was used now
        self._read.add(key)
        block.loaded = True
        return value

    def put(self, key: str, value: bytes) -> None:
        """Keeps a program."""
        block = getattr(_local, "block", None)
        if block is None or self.problem:
            return
        path = self._file(key)
        if key in self._read:  # and yet it was compiled
            self.problem, block.loaded = "JAX cannot load its programs", False
            with contextlib.suppress(OSError):
                path.unlink()
        elif _UNLOADABLE in _jax().cache.decompress_executable(value):
            self.problem = "XLA cannot load programs of this type of processor"
        else:
            self._write(path, value)

    def clear(self) -> None:
        """Deletes all programs."""
        for _, _, path in self.files():
            with contextlib.suppress(OSError):
                os.unlink(path)

    def files(self) -> list[tuple[float, int, str]]:
        """Time of the last use, bytes, and path of each program."""
        found = []
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # another process may have deleted it
                    stat = entry.stat()
                    if entry.name.endswith(_SUFFIX):
                        found.append((stat.st_mtime, stat.st_size, entry.path))
                    elif entry.name.endswith(_PART) and stat.st_mtime < time.time() - _STALE:
                        os.unlink(entry.path)
        return found

    def _file(self, key: str) -> Path:
        """Programs are for one type of machine; names of models are not shown."""
        return self.folder / (hashlib.sha256(f"{_machine()} {key}".encode()).hexdigest() + _SUFFIX)

    def _write(self, path: Path, value: bytes) -> None:
        part = None
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(_PART, dir=self.folder)
            with os.fdopen(handle, "wb") as file:
                file.write(_checksum(value) + value)
            os.replace(part, path)
        except OSError as error:
            if not path.exists():  # written by another process, and in use
                self.problem = f"it cannot be written: {error.strerror or error}"
            if part is not None:
                with contextlib.suppress(OSError):
                    os.unlink(part)
            return
        self._unchecked += len(value)
        if self._unchecked > self.max_bytes / 8:
            self._unchecked = 0
            self._delete_old()

    def _delete_old(self) -> None:
        found = sorted(self.files())
        total = sum(size for _, size, _ in found)
        if total <= self.max_bytes:
            return
        for _, size, path in found:
            with contextlib.suppress(OSError):
                os.unlink(path)
            total -= size
            if total <= _KEPT * self.max_bytes:
                return


class OnDisk:
    """Inside the block this thread loads what it would compile, or keeps what it compiles.

    Attributes:
        loaded: whether a program was loaded.
    """

    __slots__ = ("_outer", "_setting", "loaded")

    def __enter__(self) -> OnDisk:
        self.loaded, self._setting = False, None
        self._outer = getattr(_local, "block", None)
        if _install():
            _local.block = self
            self._setting = _jax().shortest(0.0)  # JAX keeps only what takes a second by default
            self._setting.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self._setting is not None:
            self._setting.__exit__(*error)
            _local.block = self._outer


def describe() -> str:
    """The cache in words: its folder, and how many programs and bytes; or why there is none."""
    if os.environ.get(VARIABLE, "").strip().lower() in _OFF:
        return f"off, by {VARIABLE}={os.environ[VARIABLE].strip()}"
    if not _setting("jax_enable_compilation_cache"):
        return "off, by jax_enable_compilation_cache"
    own = _setting("jax_compilation_cache_dir")
    if own:
        return f"that of JAX, {own}"
    files = program_files()
    if files is None:
        return "off, there is no folder for it" if _jax() else "off, not known for this JAX"
    if files.problem:
        return f"off, {files.folder}: {files.problem}"
    found = files.files()
    size = sum(size for _, size, _ in found)
    count = f"{len(found)} program{'s' * (len(found) != 1)}"
    limit = f"{files.max_bytes / 2**20:.0f} MB"
    return f"{files.folder}, {count}, {size / 2**20:.1f} of at most {limit}"


@functools.cache
def program_files() -> ProgramFiles | None:
    """The programs on disk, `None` if they are not to be kept."""
    wanted = os.environ.get(VARIABLE, "").strip()
    if wanted.lower() in _OFF or _jax() is None:
        return None
    try:
        folder = Path(wanted).expanduser().absolute() if wanted else _user_folder() / "vijax"
    except (OSError, RuntimeError):  # no home
        return None
    limit = _setting("jax_compilation_cache_max_size")
    return ProgramFiles(folder, limit if limit is not None and limit >= 0 else MAX_BYTES)


def _user_folder() -> Path:
    """Where this platform has caches of the user."""
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"])
    if platform.system() == "Windows" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"])
    if platform.system() == "Darwin":
        return Path.home() / "Library" / "Caches"
    return Path.home() / ".cache"


class _Jax(NamedTuple):
    """What JAX does not export: the module with its cache, and the shortest compilation to keep."""

    cache: Any
    shortest: Any


@functools.cache
def _jax() -> Any:
    """Those of this release, `None` if it has others."""
    try:
        from jax._src import compilation_cache as cache
        from jax._src.config import persistent_cache_min_compile_time_secs as shortest
    except ImportError:
        return None
    known = hasattr(cache, "_cache") and hasattr(cache, "decompress_executable")
    return _Jax(cache, shortest) if known and callable(shortest) else None


def _install() -> bool:
    """Whether programs are kept on disk; lets JAX know."""
    files = program_files()
    if files is None or files.problem or not _setting("jax_enable_compilation_cache"):
        return False
    if _setting("jax_compilation_cache_dir"):
        return _is_ours(files)
    module = _jax().cache
    if module._cache is None:
        module._cache = files
    return module._cache is files


def _is_ours(files: ProgramFiles) -> bool:
    """Whether JAX has no folder of its own; if it was given one since, it gets its cache back."""
    if not _setting("jax_compilation_cache_dir"):
        return True
    if _jax().cache._cache is files:
        _jax().cache._cache = None
    return False


def _setting(name: str) -> Any:
    return getattr(jax.config, name, None)


def _checksum(value: bytes) -> bytes:
    return zlib.crc32(value).to_bytes(4, "little")


@functools.cache
def _machine() -> str:
    """The type of processor, and the number of cores that programs are divided among.

    A folder may be shared by machines whose processors have other instructions.
    """
    parts = [platform.machine(), str(available_cpus()), os.environ.get("NPROC", "")]
    names = ("vendor_id", "model name", "flags", "Features", "CPU implementer", "CPU part", "isa")
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if not line.strip():  # the end of the first core
                    break
                if line.startswith(names):
                    parts.append(line.strip())
    except OSError:
        parts += [platform.platform(), platform.node()]
    return "\n".join(parts)
