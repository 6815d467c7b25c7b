"""The system calls of a process that computes, and no others.

The list is what Python, numpy, Pillow, ONNX Runtime and the driver were seen to use after their
imports (strace), with the siblings that another libc or processor uses instead.

libseccomp takes 40 ms to be found, loaded and to compile the list. The process that starts others
does it once and hands them the program, 2 KB; they give it to the kernel.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import termios
from functools import cache
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Final

from edged.errors import SandboxError

if TYPE_CHECKING:
    import pyseccomp

__all__ = ["compile_filter", "install", "why_not"]

_ALLOWED: Final = """
brk mmap munmap mremap mprotect madvise msync mincore membarrier
read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 lseek close close_range
open openat openat2 stat lstat fstat newfstatat statx statfs fstatfs access faccessat faccessat2
readlink readlinkat getdents64 getcwd fadvise64 fsync fdatasync ftruncate fallocate copy_file_range
dup dup2 dup3 fcntl pipe pipe2 eventfd2 memfd_create
poll ppoll select pselect6 epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2
recvfrom recvmsg recvmmsg sendto sendmsg sendmmsg getsockopt setsockopt getsockname getpeername
shutdown
futex futex_waitv set_robust_list get_robust_list rseq set_tid_address arch_prctl
rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait sigaltstack restart_syscall
clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times getrusage
getpid gettid getppid getuid geteuid getgid getegid getpgrp getsid uname sysinfo getcpu
sched_yield sched_getaffinity sched_getparam sched_getscheduler getpriority getrlimit
getrandom exit exit_group
"""

_TO_CHANGE_FOLDERS: Final = "mkdir mkdirat rename renameat renameat2 rmdir unlink unlinkat"

# No honest code comes near these: the process that tries has been taken over, and ends.
_FATAL: Final = """
execve execveat fork vfork ptrace process_vm_readv process_vm_writev pidfd_getfd kcmp
bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register
mount umount2 pivot_root chroot unshare setns fsopen fsmount move_mount open_tree mount_setattr
init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff
add_key request_key keyctl open_by_handle_at quotactl acct iopl ioperm modify_ldt personality
setuid setgid setreuid setregid setresuid setresgid setgroups capset
"""

_CLONE_THREAD: Final = 0x0001_0000
_PR_SET_NAME: Final = 15
_PR_GET_NAME: Final = 16
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_FIOCLEX: Final = 0x5451
_FIONCLEX: Final = 0x5450


@cache
def compile_filter(*, changes_folders: bool) -> bytes:
    """The filter as the kernel takes it: an array of ``struct sock_filter``.

    What is not allowed fails with EPERM; what only an intruder would do ends the process (SIGSYS).
    Sockets that are open stay of use, none can be made or connected. Threads can be started,
    processes cannot, and no process can be signalled, not even by abort(3), which then ends by
    SIGSEGV.

    Args:
        changes_folders: whether files may be made, renamed and removed (where Landlock lets it).

    Raises:
        SandboxError: libseccomp is not there.
    """
    missing = why_not()
    if missing:
        raise SandboxError(
            f"cannot confine processes: {missing}; install libseccomp (Debian: libseccomp2)"
        )
    import pyseccomp

    rules = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    rules.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
    # Rules are a list by default; a tree finds a call in a few steps (libseccomp 2.5).
    rules.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, 2)
    allowed = f"{_ALLOWED} {_TO_CHANGE_FOLDERS}" if changes_folders else _ALLOWED
    for name in allowed.split():
        _add(rules, pyseccomp.ALLOW, name)
    for name in _FATAL.split():
        _add(rules, pyseccomp.KILL_PROCESS, name)
    # The flags of clone3 are out of a filter's sight: libc takes this answer and uses clone.
    _add(rules, pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    thread = pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _CLONE_THREAD, _CLONE_THREAD)
    _add(rules, pyseccomp.ALLOW, "clone", thread)
    for request in (termios.TCGETS, termios.FIONBIO, termios.FIONREAD, _FIOCLEX, _FIONCLEX):
        _add(rules, pyseccomp.ALLOW, "ioctl", _equals(1, request))
    for option in (_PR_SET_NAME, _PR_GET_NAME):
        _add(rules, pyseccomp.ALLOW, "prctl", _equals(0, option))
    _add(rules, pyseccomp.ALLOW, "prlimit64", _equals(0, 0))
    with TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def install(program: bytes) -> None:
    """Filter the system calls of this thread and of those it starts, from now on.

    Raises:
        SandboxError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of instructions, of 8 bytes each, and where they are.
    pointer = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, pointer, 0, 0):
        reason = os.strerror(ctypes.get_errno())
        raise SandboxError(f"cannot lock down: the kernel refuses the syscall filter, {reason}")


@cache
def why_not() -> str | None:
    """Why there is no filter here, None if there is. pyseccomp looks for its library at import."""
    try:
        import pyseccomp  # noqa: F401
    except (ImportError, RuntimeError, OSError) as error:
        return f"libseccomp cannot be loaded: {error}"
    return None


def _equals(argument: int, value: int) -> pyseccomp.Arg:
    import pyseccomp

    return pyseccomp.Arg(argument, pyseccomp.EQ, value)


def _add(rules: pyseccomp.SyscallFilter, action: int, name: str, *arguments: pyseccomp.Arg) -> None:
    import pyseccomp

    number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
    # -1: this libseccomp is older than the call. Below: another processor's call, ignored.
    if number != -1:
        rules.add_rule(action, number, *arguments)
