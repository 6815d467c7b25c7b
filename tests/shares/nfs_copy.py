"""Copies standard input to a file on an NFS share as it comes, with libnfs, which needs no mount.

python nfs_copy.py nfs://HOST/EXPORT?nfsport=PORT&mountport=PORT NAME
"""

from __future__ import annotations

import ctypes
import os
import sys

_CHUNK = 64 << 10


class _Url(ctypes.Structure):
    _fields_ = (
        ("server", ctypes.c_char_p),
        ("path", ctypes.c_char_p),
        ("file", ctypes.c_char_p),
    )


def main() -> None:
    url, name = sys.argv[1:]
    nfs = ctypes.CDLL("libnfs.so.13")
    nfs.nfs_init_context.restype = ctypes.c_void_p
    nfs.nfs_parse_url_dir.restype = ctypes.POINTER(_Url)
    nfs.nfs_get_error.restype = ctypes.c_char_p
    context = ctypes.c_void_p(nfs.nfs_init_context())

    def check(result: int) -> None:
        if result < 0:
            sys.exit(f"{nfs.nfs_get_error(context).decode()} ({os.strerror(-result)})")

    where = nfs.nfs_parse_url_dir(context, url.encode()).contents
    check(nfs.nfs_mount(context, where.server, where.path))
    file = ctypes.c_void_p()
    check(nfs.nfs_creat(context, f"/{name}".encode(), 0o660, ctypes.byref(file)))
    while part := os.read(0, _CHUNK):
        check(nfs.nfs_write(context, file, ctypes.c_uint64(len(part)), part))
    check(nfs.nfs_close(context, file))


if __name__ == "__main__":
    main()
