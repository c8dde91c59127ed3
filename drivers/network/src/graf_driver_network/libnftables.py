"""A minimal binding of libnftables: transactions of nft commands without starting a process.

Debian's own binding is a module of the system's Python and starts nothing either, but it cannot be installed
into a virtual environment; the C interface is small and stable (``nft_ctx_*``, libnftables(3)).
"""

from __future__ import annotations

import ctypes
import threading

from graf_driver_network.elements import NftError

_LIBRARY = "libnftables.so.1"


class Nftables:
    """One libnftables context: a netlink socket in the network namespace in which it was made.

    Each call of :meth:`run` is one transaction: the kernel carries it out completely or not at all. Calls are
    serialised, so that threads may share the object.
    """

    def __init__(self) -> None:
        """Opens the context.

        Raises:
            NftError: the library is missing, or the context could not be made.
        """
        try:
            library = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise NftError(
                f"{_LIBRARY} cannot be loaded ({error}); install the package libnftables1 (Debian) in the "
                "driver's image"
            ) from error
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        library.nft_ctx_free.restype = None
        for name in ("nft_ctx_free", "nft_ctx_buffer_output", "nft_ctx_buffer_error"):
            getattr(library, name).argtypes = [ctypes.c_void_p]
        for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(library, name).argtypes = [ctypes.c_void_p]
            getattr(library, name).restype = ctypes.c_char_p
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self._library = library
        self._lock = threading.Lock()
        self._context: int | None = library.nft_ctx_new(0)
        if not self._context:
            raise NftError("libnftables gave no context: is the process allowed to open netlink sockets (NET_ADMIN)?")
        library.nft_ctx_buffer_output(self._context)
        library.nft_ctx_buffer_error(self._context)

    def run(self, commands: str) -> str:
        """Carries out ``commands`` (nft syntax, one or more lines) as one transaction and returns the output.

        Raises:
            NftError: the kernel or the parser refused; nothing was changed.
        """
        with self._lock:
            if self._context is None:
                raise NftError("the nftables context is closed")
            result = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
            output: bytes = self._library.nft_ctx_get_output_buffer(self._context)
            problem: bytes = self._library.nft_ctx_get_error_buffer(self._context)
        if result != 0:
            first = problem.decode(errors="replace").strip().splitlines()
            raise NftError(first[0].removeprefix("Error: ") if first else "nftables refused, without a reason")
        return output.decode(errors="replace")

    def close(self) -> None:
        """Frees the context; what it put into the kernel stays there."""
        with self._lock:
            if self._context is not None:
                self._library.nft_ctx_free(self._context)
                self._context = None
