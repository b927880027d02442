"""A connection to a share: what its directories list, and which id a file has when it is opened.

smbprotocol speaks the protocol; two things are done here because of what they cost. Ten thousand files are thirty
thousand requests (open, ask, close). So those three of a file travel as one compound, and the compounds of many files
together, as far as the server's credits go. And the requests' bodies, of which nothing differs but the name, are put
together from bytes: the library's own fields take a millisecond a file for it. Entries of directories are read with
`struct` for the same reason.

A file is opened for its attributes only (FILE_READ_ATTRIBUTES), sharing everything: that disturbs nobody who has it
open, breaks no oplock, and works for devices, pipes and files that may not be read.

As a Mac, the connection begins with an open that carries Apple's create context "AAPL", as macOS's client does. From
then on Samba's module fruit treats the connection as a Mac's; other servers ignore it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import struct
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from smbprotocol.connection import Connection
from smbprotocol.create_contexts import SMB2CreateContextRequest
from smbprotocol.exceptions import SMBException, SMBResponseException
from smbprotocol.header import Commands, NtStatus
from smbprotocol.open import (
    CreateDisposition,
    FilePipePrinterAccessMask,
    ImpersonationLevel,
    Open,
    ShareAccess,
    SMB2QueryDirectoryRequest,
)
from smbprotocol.session import Session
from smbprotocol.tree import TreeConnect

from fusemap.errors import Refused
from fusemap.smb.address import Address

SECONDS: Final = 60
"""How long an answer may take."""
GUEST: Final = "guest"

_WINDOW: Final = 64  # files
_CREDITS: Final = 512
_LISTING_BYTES: Final = 1 << 18
_ANY_FILE_ID: Final = b"\xff" * 16  # in a compound: the file that was opened before, MS-SMB2 3.3.5.2.7.2

# Bodies of requests: MS-SMB2 2.2.13 (CREATE, up to its contexts), 2.2.37 (QUERY_INFO), 2.2.15 (CLOSE)
_CREATE: Final = struct.Struct("<HBBIQQIIIIIHHII")
_QUERY: Final = struct.Struct("<HBBIHHIII16s")
_CLOSE: Final = struct.Struct("<HHI16s")
_NAME_OFFSET: Final = 64 + _CREATE.size
_FILE_ID_AT: Final = 64  # in the body of a CREATE response, 2.2.14
_BUFFER: Final = struct.Struct("<HHI")  # offset and length of what a response brings, 2.2.34 and 2.2.38
_INFO_FILE: Final = 1  # SMB2_0_INFO_FILE
_FILE_INTERNAL: Final = 6  # FileInternalInformation, MS-FSCC 2.4.22
_ID: Final = struct.Struct("<Q")
_DIRECTORY: Final = 0x10  # FILE_ATTRIBUTE_DIRECTORY
_LISTING: Final = 37  # FileIdBothDirectoryInformation, MS-FSCC 2.4.17, what Windows and macOS ask for
# next entry, index; creation, access, write, change; size, allocated; attributes, length of the name; ea size; the
# short name with its length; the id; then the name
_ENTRY: Final = struct.Struct("<II4Q2QIII26s2xQ")
_AAPL: Final = struct.Struct("<IIQQ")  # SMB2_CRTCTX_AAPL_SERVER_QUERY in Samba's libcli/smb/smb2_create_ctx.h
_ATTRIBUTES: Final = FilePipePrinterAccessMask.FILE_READ_ATTRIBUTES
_LIST: Final = FilePipePrinterAccessMask.FILE_READ_DATA  # FILE_LIST_DIRECTORY of a directory, MS-SMB2 2.2.13.1.2
_SHARING: Final = ShareAccess.FILE_SHARE_READ | ShareAccess.FILE_SHARE_WRITE | ShareAccess.FILE_SHARE_DELETE
# What the library ends with where a server is gone, refuses, or talks nonsense: its thread hands on what it died of
_BROKEN: Final = (SMBException, OSError, LookupError, ValueError, TypeError, struct.error)
logging.getLogger("smbprotocol").addHandler(logging.NullHandler())  # it is told in a sentence
_GONE: Final = frozenset(
    {
        NtStatus.STATUS_OBJECT_NAME_NOT_FOUND,
        NtStatus.STATUS_OBJECT_PATH_NOT_FOUND,
        NtStatus.STATUS_NO_SUCH_FILE,
        NtStatus.STATUS_DELETE_PENDING,
    }
)


class Entry(NamedTuple):
    """An entry of a directory. `stamp` is all that is told of the file but its id and when it was last looked at."""

    name: str
    number: int
    directory: bool
    stamp: tuple[int, ...]


class Unopened(NamedTuple):
    """A file that could not be opened: it is gone, or there is another reason."""

    gone: bool
    reason: str


class _Body:
    """The body of a request as the library sends it."""

    __slots__ = ("COMMAND", "_data")

    def __init__(self, command: int, data: bytes) -> None:
        self.COMMAND = command
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def pack(self) -> bytes:
        """The bytes of it."""
        return self._data


_ASK: Final = _Body(
    Commands.SMB2_QUERY_INFO, _QUERY.pack(41, _INFO_FILE, _FILE_INTERNAL, _ID.size, 0, 0, 0, 0, 0, _ANY_FILE_ID)
)


class Share:
    """A share that is connected to; names in it are separated by backslashes, its root is the empty name.

    Messages are signed where the server demands it: what is asked for here is no secret, and it takes a third longer.
    Raises Refused when there is nothing to connect to, or nobody is let in.
    """

    def __init__(self, address: Address, user: str | None = None, password: str = "", as_mac: bool = False) -> None:
        self.address: Final = address
        self._connection: Any = Connection(uuid.uuid4(), address.host, address.port, require_signing=False)
        try:
            try:
                self._connection.connect(timeout=SECONDS)
            except _BROKEN as error:
                reason = error.__cause__ if isinstance(error.__cause__, OSError) else error
                raise Refused(
                    f"cannot connect to {address}: {_reason(reason)}; is Samba running there, on port {address.port}?"
                ) from error
            self._tree: Any = self._log_in(user, password)
            self._session = self._tree.session.session_id
            try:
                self._ask(lambda: self._connection.echo(sid=self._session, timeout=SECONDS, credit_request=_CREDITS))
                if as_mac:
                    self._become_mac()
            except SMBResponseException as error:
                raise Refused(f"{address} does not go on: {_reason(error)}; see what Samba has logged") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the connection; the server closes what is open."""
        if self._connection.transport is not None:
            self._connection.disconnect(close=False)

    def __enter__(self) -> Share:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ids(self, names: Sequence[str]) -> list[int | Unopened]:
        """The id of each file by opening it. Raises Refused when the server is gone."""
        found: list[int | Unopened] = []
        at = 0
        while at < len(names):
            window = self._connection.sequence_window
            free = max(1, min(_WINDOW, (window["high"] - window["low"]) // 3))
            part = names[at : at + free]
            at += free
            sent = [self._ask(lambda name=name: self._compound(*_look(name))) for name in part]
            found += [self._id(requests) for requests in sent]
        return found

    def entries(self, name: str) -> list[Entry]:
        """What a directory lists, "." and ".." too. Raises OSError, Refused when the server is gone."""
        opening, asking = self._ask(lambda: self._compound(_open(name, _ATTRIBUTES | _LIST), _list(_ANY_FILE_ID)))
        try:
            file_id = self._answer(opening)[_FILE_ID_AT : _FILE_ID_AT + 16]
        except SMBResponseException as error:
            self._settle(asking)
            raise _error(error, name) from None
        found: list[Entry] = []
        try:
            while True:
                found += _entries(_brought(self._answer(asking)))
                (asking,) = self._ask(lambda: self._compound(_list(file_id)))
        except SMBResponseException as error:
            if error.status not in (NtStatus.STATUS_NO_MORE_FILES, NtStatus.STATUS_NO_SUCH_FILE):
                raise _error(error, name) from None
            return found
        except (struct.error, UnicodeDecodeError) as error:
            raise Refused(f"{self.address} lists {name or 'its root'} in a form that is none ({error})") from error
        finally:
            self._settle(*self._ask(lambda: self._compound(_close(file_id))))

    # The conversation

    def _log_in(self, user: str | None, password: str) -> Any:
        where = f"{self.address} as {user or 'guest'}"
        session: Any = Session(self._connection, user or GUEST, password, require_encryption=False)
        try:
            session.connect()
        except _BROKEN as error:
            if user is None:
                advice = "name a user with --user, or let guests in (guest ok = yes, map to guest = bad user)"
            else:
                advice = "check the name and the password"
            raise Refused(f"cannot log in to {where}: {_reason(error)}; {advice}") from error
        session.signing_required = user is not None  # SMB 3.1.1 wants this one request signed, whatever was agreed
        tree: Any = TreeConnect(session, rf"\\{self.address.host}\{self.address.share}")
        try:
            tree.connect(require_secure_negotiate=user is not None)
        except _BROKEN as error:
            raise Refused(
                f"cannot enter {where}: {_reason(error)}; check the share's name and who is let in (valid users, "
                "guest ok)"
            ) from error
        session.signing_required = self._connection.require_signing
        tree.is_dfs_share = False  # names are those in this share; where its links lead to is not asked for
        return tree

    def _become_mac(self) -> None:
        """Opens the root with the create context by which macOS's client makes itself known."""
        context: Any = SMB2CreateContextRequest()
        context["buffer_name"] = b"AAPL"
        context["buffer_data"] = _AAPL.pack(1, 0, 7, 7)  # a query for all there is, by a client that can do all
        root: Any = Open(self._tree, "")
        self._ask(
            lambda: root.create(
                ImpersonationLevel.Impersonation,
                _ATTRIBUTES,
                0,
                _SHARING,
                CreateDisposition.FILE_OPEN,
                0,
                [context],
            )
        )
        self._ask(root.close)

    def _compound(self, *bodies: Any) -> list[Any]:
        requests: list[Any] = self._connection.send_compound(
            list(bodies), self._session, self._tree.tree_connect_id, related=len(bodies) > 1
        )
        return requests

    def _id(self, requests: Sequence[Any]) -> int | Unopened:
        opening, asking, closing = requests
        try:
            self._answer(opening)
        except SMBResponseException as error:
            self._settle(asking, closing)
            return Unopened(error.status in _GONE, _reason(error))
        try:
            (number,) = _ID.unpack(_brought(self._answer(asking)))
            return int(number)
        except SMBResponseException as error:
            return Unopened(error.status in _GONE, _reason(error))
        except struct.error as error:
            raise Refused(f"{self.address} tells a file's id in a form that is none ({error})") from error
        finally:
            self._settle(closing)

    def _answer(self, request: Any) -> bytes:
        """The body of the answer. Raises SMBResponseException for another status than success."""
        data: bytes = self._ask(lambda: self._connection.receive(request, timeout=SECONDS))["data"].get_value()
        return data

    def _settle(self, *requests: Any) -> None:
        """Takes answers that tell nothing: the library keeps them until somebody does."""
        for request in requests:
            with contextlib.suppress(SMBResponseException):
                self._answer(request)

    def _ask(self, call: Any) -> Any:
        """The result of a call into the library; whatever means that the server is gone is Refused."""
        try:
            return call()
        except SMBResponseException:
            raise
        except _BROKEN as error:
            raise Refused(
                f"{self.address} has ended the connection ({_reason(error)}): see what Samba has logged"
            ) from error


def _open(name: str, access: int) -> _Body:
    path = name.encode("utf-16-le", "surrogatepass")
    head = _CREATE.pack(
        57, 0, 0, ImpersonationLevel.Impersonation, 0, 0, access, 0, _SHARING, CreateDisposition.FILE_OPEN, 0,
        _NAME_OFFSET, len(path), 0, 0,
    )  # fmt: skip
    return _Body(Commands.SMB2_CREATE, head + (path or b"\0\0"))


def _look(name: str) -> tuple[_Body, _Body, _Body]:
    return _open(name, _ATTRIBUTES), _ASK, _close(_ANY_FILE_ID)


def _close(file_id: bytes) -> _Body:
    return _Body(Commands.SMB2_CLOSE, _CLOSE.pack(24, 0, 0, file_id))


def _list(file_id: bytes) -> Any:
    query: Any = SMB2QueryDirectoryRequest()
    query["file_information_class"] = _LISTING
    query["file_id"] = file_id
    query["output_buffer_length"] = _LISTING_BYTES
    query["buffer"] = "*".encode("utf-16-le")
    return query


def _brought(body: bytes) -> bytes:
    """What a response to a query brings."""
    _, offset, length = _BUFFER.unpack_from(body)
    return body[offset - 64 : offset - 64 + length]  # offsets are those of the whole message, with its header


def _entries(data: bytes) -> Iterator[Entry]:
    at = 0
    while True:
        step, _, created, _, written, changed, size, _, attributes, length, _, _, number = _ENTRY.unpack_from(data, at)
        begin = at + _ENTRY.size
        name = data[begin : begin + length].decode("utf-16-le", "surrogatepass")
        stamp = (created, written, changed, size, attributes)
        yield Entry(name, number, bool(attributes & _DIRECTORY), stamp)
        if not step:
            return
        at += step


def _error(error: Any, name: str) -> OSError:
    if error.status in _GONE:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    if error.status == NtStatus.STATUS_ACCESS_DENIED:
        return PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
    return OSError(errno.EIO, _reason(error), name)


def _reason(error: object) -> str:
    """What went wrong, in as few words as can be."""
    if isinstance(error, SMBResponseException):
        names = (name for name, status in vars(NtStatus).items() if status == error.status)
        return next(names, f"status {error.status:#010x}").removeprefix("STATUS_")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).partition("\n")[0].rstrip(".") or type(error).__name__
