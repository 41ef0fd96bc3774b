"""Standard output that may break, by a reader that has gone or a full disk: what is computed goes on."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO


def open_closed_streams() -> None:
    """Lets what is printed go nowhere where a process was started without standard output or standard error.

    Their descriptors are taken too, so that no file gets what a library prints.
    """
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= 2:
        descriptor = os.dup(descriptor)
    os.close(descriptor)
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  for as long as the process
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


class LastingOutput(io.TextIOBase):
    """Hands on what is printed, and keeps the first error instead of raising it.

    Args:
        stream: standard output as the process got it.

    Attributes:
        error: why something could not be printed, None where all was.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.error: OSError | None = None

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a plain attribute in typeshed
        """That of the stream."""
        return self.stream.encoding

    def isatty(self) -> bool:
        """Tells whether a person reads it."""
        return self.stream.isatty()

    def fileno(self) -> int:
        """Returns the stream's file descriptor."""
        return self.stream.fileno()

    def writable(self) -> bool:
        """Tells that it can be written to."""
        return True

    def write(self, text: str) -> int:
        """Prints a text, if that is still possible; characters that the stream has not, by their numbers."""
        if self.error is None:
            try:
                self.stream.write(text)
            except UnicodeEncodeError as error:
                self.stream.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
            except OSError as error:
                self.error = error
        return len(text)

    def flush(self) -> None:
        """Hands on what is buffered, if that is still possible."""
        if self.error is None:
            try:
                self.stream.flush()
            except OSError as error:
                self.error = error


@contextmanager
def lasting_output() -> Iterator[LastingOutput]:
    """Lets what runs inside print, whatever becomes of standard output."""
    stream, output = sys.stdout, LastingOutput(sys.stdout)
    sys.stdout = output
    try:
        yield output
    finally:
        output.flush()
        sys.stdout = stream
        if output.error is not None:  # what is left in the buffer must not fail once more when the interpreter ends
            with suppress(OSError, io.UnsupportedOperation):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def complaint(error: OSError) -> str | None:
    """Returns what to say of a broken standard output: nothing where its reader has gone, as in `... | head`."""
    if isinstance(error, BrokenPipeError) or error.errno == errno.EPIPE:
        return None
    return f"standard output: cannot be written ({error.strerror}). Send it elsewhere; files are as they should be."
