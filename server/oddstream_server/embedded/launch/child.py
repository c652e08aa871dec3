"""Runs between fork and exec of an embedded server: drops the identity, then asks for the death signal.

A program of its own, started by path and never imported: `identity uid gid death_signal parent_pid folder command…`.
The order is forced by the kernel: every change of uid or capabilities clears PR_SET_PDEATHSIG, an exec keeps it,
so it comes last. Doing this in a fresh interpreter and not in a `preexec_fn` keeps the forked copy of an asyncio
and gRPC process, whose other threads' locks are gone, from running any Python.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
CLONE_NEWUSER = 0x10000000
EXIT_IDENTITY = 71
EXIT_FOLDER = 72
EXIT_ORPHANED = 73
EXIT_COMMAND = 74


def refuse(status: int, reason: object) -> None:
    sys.stderr.write(f"{reason}\n")
    sys.stderr.flush()
    os._exit(status)


def libc_call(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode("ascii"))
    finally:
        os.close(descriptor)


def enter_user_namespace(uid: int, gid: int) -> None:
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    libc_call("unshare", CLONE_NEWUSER)
    write("/proc/self/setgroups", "deny")
    write("/proc/self/uid_map", f"{uid} {outer_uid} 1")
    write("/proc/self/gid_map", f"{gid} {outer_gid} 1")


def switch_user(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def main() -> None:
    identity, uid, gid, death_signal, parent_pid, folder, *command = sys.argv[1:]
    os.umask(0o077)
    try:
        if identity == "user-namespace":
            enter_user_namespace(int(uid), int(gid))
        elif identity == "switched-user":
            switch_user(int(uid), int(gid))
        libc_call("prctl", PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
    except OSError as error:
        refuse(EXIT_IDENTITY, error)
    # The parent may have died before the request above: then no signal will ever come.
    if os.getppid() != int(parent_pid):
        refuse(EXIT_ORPHANED, "the server that asked for this process is gone")
    try:
        os.chdir(folder)
    except OSError as error:
        refuse(EXIT_FOLDER, error)
    try:
        os.execv(command[0], command)  # noqa: S606 - becoming that program, with no shell, is the point
    except OSError as error:
        refuse(EXIT_COMMAND, error)


if __name__ == "__main__":
    main()
