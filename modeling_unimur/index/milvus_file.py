"""A Milvus file served inside this process, on a socket that nobody else may connect to."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import threading

# Of a socket's path, on every system.
_LONGEST_PATH = 100


class MilvusFile:
    """milvus-lite with one file open, shared by all that open it in this process, and closed by the last of them.

    pymilvus itself would serve the file on a port of the loopback interface, without a password, until the process
    ends; see `open`.
    """

    _opened: dict[str, MilvusFile] = {}
    _guard = threading.Lock()

    def __init__(self, path: str):
        from milvus_lite.adapter.grpc.server import start_server_in_thread

        self.path, self._users, self._process = path, 1, os.getpid()
        self._folder = tempfile.mkdtemp(prefix="milvus-")  # of mode 0700
        if len(self._folder) > _LONGEST_PATH - len("/socket:0"):
            os.rmdir(self._folder)
            self._folder = tempfile.mkdtemp(prefix="milvus-", dir="/tmp")
        try:
            socket = f"unix:{self._folder}/socket"
            self._server, self._database, _ = start_server_in_thread(path, host=socket, port=0)
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self.address = f"{socket}:0"
        atexit.register(self._stop)

    @classmethod
    def open(cls, uri: str) -> MilvusFile:
        """Opens a file, or shares it with those of this process that have it open.

        Raises:
            FileNotFoundError: there is no folder for it.
            ImportError: milvus-lite is not installed.
            BlockingIOError: another process has the file.
            ValueError: it is no Milvus file.
        """
        try:
            from milvus_lite import DataDirLockedError
        except ImportError as error:
            raise ImportError(f"{uri} is opened by milvus-lite: `pip install unimur[milvus]`.") from error
        path = os.path.realpath(uri)
        if not os.path.isdir(os.path.dirname(path)):
            raise FileNotFoundError(f"There is no folder {os.path.dirname(path)} for {uri}.")
        with cls._guard:
            found = cls._opened.get(path)
            if found is not None:
                found._users += 1
                return found
            try:
                cls._opened[path] = cls(path)
            except DataDirLockedError as error:
                raise BlockingIOError(
                    f"Another process has {uri} open; a file has one process at a time. Wait until it closes it, or "
                    "run a Milvus server."
                ) from error
            except Exception as error:  # damaged files make it raise nearly anything
                raise ValueError(f"Milvus cannot open {uri}: {error}.") from error
            return cls._opened[path]

    def release(self) -> None:
        """Closes the file if nobody else of this process has it open: another process may open it then."""
        with self._guard:
            self._users -= 1
            if self._users:
                return
            del self._opened[self.path]
            atexit.unregister(self._stop)
            self._stop()

    def _stop(self) -> None:
        if os.getpid() == self._process:  # a fork has the object and not the server
            self._server.stop(grace=2).wait()
            self._database.close()
            shutil.rmtree(self._folder, ignore_errors=True)


__all__ = ["MilvusFile"]
