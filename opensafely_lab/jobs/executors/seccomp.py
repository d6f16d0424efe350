"""The system calls a run may make: one allow-list, compiled beforehand to BPF for each architecture.

The compiled filters are package data (`filters/`), so that a user's machine needs no libseccomp.
To make them again (needs libseccomp and `pyseccomp`): `python -m opensafely_lab.jobs.executors.seccomp`.
A test does so and compares, where the same libseccomp is there.

Two filters are stacked. The first allows what is listed; anything else answers ENOSYS, so that libc
falls back instead of crashing, and what programs try in earnest answers EPERM. The second denies
single arguments, which a libseccomp allow-list cannot say ("every ioctl but these").
"""

from __future__ import annotations

import errno
import hashlib
import json
import platform
import tempfile
from pathlib import Path
from typing import Any

FILTERS = Path(__file__).with_name("filters")
MACHINES = {"x86_64": "X86_64", "aarch64": "AARCH64"}

FILES = """
access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64
fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fstat fstatfs
fsync ftruncate getcwd getdents getdents64 getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch
lchown lgetxattr link linkat listxattr llistxattr lseek lstat mkdir mkdirat newfstatat open openat openat2 pipe pipe2
pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv rename renameat renameat2
rmdir sendfile splice stat statfs statx symlink symlinkat sync sync_file_range syncfs tee truncate umask unlink
unlinkat utime utimensat utimes futimesat write writev
"""
MEMORY = """
brk cachestat get_mempolicy madvise map_shadow_stack mbind membarrier memfd_create mincore mlock mlock2 mmap mprotect
mremap msync munlock munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages set_mempolicy
"""
PROCESSES = """
alarm arch_prctl capget capset execve execveat exit exit_group fork futex futex_requeue futex_wait futex_waitv
futex_wake get_robust_list get_thread_area getcpu getegid geteuid getgid getgroups getitimer getpgid getpgrp getpid
getppid getpriority getresgid getresuid getrlimit getrusage getsid gettid getuid ioprio_get kill pause pidfd_open
pidfd_send_signal prctl prlimit64 restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity
sched_setattr sched_setparam sched_setscheduler sched_yield set_robust_list set_thread_area set_tid_address setfsgid
setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit setsid setuid
sigaltstack signalfd signalfd4 sysinfo tgkill times tkill uname vfork wait4 waitid
"""
TALK = """
accept accept4 bind connect epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2
getpeername getsockname getsockopt listen poll ppoll pselect6 recvfrom recvmmsg recvmsg select semctl semget semop
semtimedop sendmmsg sendmsg sendto setsockopt shmat shmctl shmdt shmget shutdown socketpair
"""
TIME_AND_CHANCE = """
clock_getres clock_gettime clock_nanosleep getrandom gettimeofday nanosleep time timer_create timer_delete
timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime
"""
RESTRICT_ONESELF = "landlock_add_rule landlock_create_ruleset landlock_restrict_self"

# What a program may try in earnest answers EPERM, as it would for want of a capability.
REFUSED = """
acct add_key adjtimex bpf chroot clock_settime delete_module finit_module init_module io_uring_enter
io_uring_register io_uring_setup kcmp kexec_load keyctl mknod mknodat mount open_by_handle_at perf_event_open
pidfd_getfd pivot_root process_vm_readv process_vm_writev ptrace quotactl reboot request_key setns settimeofday
swapoff swapon umount2 unshare userfaultfd
"""

# Memory that is in nobody's RSS. Where memory is policed by polling (no cgroup), these go.
UNSEEN_MEMORY = frozenset({"memfd_create", "shmget", "shmat"})

NEW_NAMESPACES = 0x7E020080  # CLONE_NEW{TIME,NS,CGROUP,UTS,IPC,USER,PID,NET}
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
NETLINK_ROUTE = 0  # getifaddrs(); every other netlink protocol is closed
HARMLESS_PERSONALITIES = (0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

TIOCSTI, TIOCLINUX = 0x5412, 0x541C  # typing into somebody's terminal
# A run that clears its own death signal would outlive a supervisor that was killed: bubblewrap's
# --die-with-parent is such a signal, and with --as-pid-1 our payload is who holds it.
PR_SET_PDEATHSIG = 1

KINDS = ("standard", "polled", "denials")


class Libseccomp:
    """Compiles the list for one machine. Only for the generator: nothing of it is needed to run."""

    def __init__(self, machine: str, default: str) -> None:
        import pyseccomp  # type: ignore[import-not-found, import-untyped, unused-ignore]

        self.api: Any = pyseccomp
        action = self.api.ALLOW if default == "allow" else self.api.ERRNO(errno.ENOSYS)
        self.filter = self.api.SyscallFilter(action)
        wanted = getattr(self.api.Arch, MACHINES[machine])
        if not self.filter.exist_arch(wanted):
            self.filter.add_arch(wanted)
        if wanted != getattr(self.api.Arch, MACHINES[platform.machine()]):
            self.filter.remove_arch(self.api.Arch.NATIVE)

    def known(self, name: str) -> bool:
        """Whether this libseccomp knows the call; a newer one than it stays at the default, refused."""
        try:
            self.api.resolve_syscall(self.api.Arch.NATIVE, name)
        except ValueError:
            return False
        return True

    def allow(self, name: str, *arguments: Any) -> None:
        if self.known(name):
            self.filter.add_rule(self.api.ALLOW, name, *arguments)

    def refuse(self, name: str, *arguments: Any) -> None:
        if self.known(name):
            self.filter.add_rule(self.api.ERRNO(errno.EPERM), name, *arguments)

    def equal(self, argument: int, value: int) -> Any:
        return self.api.Arg(argument, self.api.EQ, value)

    def masked(self, argument: int, mask: int, value: int) -> Any:
        return self.api.Arg(argument, self.api.MASKED_EQ, mask, value)

    def program(self) -> bytes:
        with tempfile.TemporaryFile() as file:
            self.filter.export_bpf(file)
            file.seek(0)
            return file.read()


def compile_allowances(machine: str, *, without: frozenset[str] = frozenset()) -> bytes:
    """The first filter: what is listed, with rules on the arguments of clone, socket and personality."""
    made = Libseccomp(machine, "refuse")
    listed = " ".join((FILES, MEMORY, PROCESSES, TALK, TIME_AND_CHANCE, RESTRICT_ONESELF)).split()
    for name in sorted(set(listed) - without):
        made.allow(name)
    for name in REFUSED.split():
        made.refuse(name)
    made.allow("ioctl")
    made.allow("clone", made.masked(0, NEW_NAMESPACES, 0))  # clone3 hides its flags in memory: ENOSYS
    for family in (AF_UNIX, AF_INET, AF_INET6):
        made.allow("socket", made.equal(0, family))
    made.allow("socket", made.equal(0, AF_NETLINK), made.equal(2, NETLINK_ROUTE))
    for persona in HARMLESS_PERSONALITIES:
        made.allow("personality", made.equal(0, persona))
    return made.program()


def compile_denials(machine: str) -> bytes:
    """The second filter. Compared on 32 bits, as the kernel reads these arguments."""
    made = Libseccomp(machine, "allow")
    for request in (TIOCSTI, TIOCLINUX):
        made.refuse("ioctl", made.masked(1, 0xFFFFFFFF, request))
    made.refuse("prctl", made.masked(0, 0xFFFFFFFF, PR_SET_PDEATHSIG))
    return made.program()


def compile_all() -> dict[str, bytes]:
    """Every filter, by file name."""
    filters = {}
    for machine in MACHINES:
        filters[f"{machine}-standard.bpf"] = compile_allowances(machine)
        filters[f"{machine}-polled.bpf"] = compile_allowances(machine, without=UNSEEN_MEMORY)
        filters[f"{machine}-denials.bpf"] = compile_denials(machine)
    return filters


def libseccomp_version() -> str:
    import ctypes

    class Version(ctypes.Structure):
        _fields_ = (("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint))

    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_version.restype = ctypes.POINTER(Version)
    found = library.seccomp_version().contents
    return f"{found.major}.{found.minor}.{found.micro}"


def filter_path(kind: str, machine: str | None = None) -> Path:
    """The file of a compiled filter; raises `FileNotFoundError` on a machine we have none for."""
    path = FILTERS / f"{machine or platform.machine()}-{kind}.bpf"
    if not path.is_file():
        raise FileNotFoundError(path.name)
    return path


def write_filters(folder: Path) -> None:
    filters = compile_all()
    for name, program in filters.items():
        (folder / name).write_bytes(program)
    digests = {name: hashlib.sha256(program).hexdigest() for name, program in sorted(filters.items())}
    manifest = {"libseccomp": libseccomp_version(), "sha256": digests}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
    write_filters(FILTERS)
