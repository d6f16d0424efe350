# Attack written for this project as reference material and copied here unchanged, so that the tests need
# nothing outside the repository. It runs INSIDE a sandbox; every mode is safe only under its limits.
"""Runs INSIDE a sandbox and tries things. One line per attempt: NAME <tab> verdict <tab> detail.
verdict: blocked | REACHED | info.  Nothing here sends a packet off the machine: the only targets are
127.0.0.1 (host canaries passed in argv), and UDP connect(), which is a pure route lookup."""
import ctypes, errno, json, os, resource, signal, socket, stat, struct, subprocess, sys, time
libc = ctypes.CDLL(None, use_errno=True)
CANARY_TCP = int(os.environ.get("CANARY_PORT", "45599"))
HOSTPID = int(os.environ.get("CANARY_PID", "0"))
SECRET = os.environ.get("CANARY_SECRET", "/srv/jobs/other/secret.txt")      # a file that exists on the host and must not be readable
HOSTSOCK = os.environ.get("CANARY_SOCK", "/run/osl/docker.sock")


class Reached(Exception): pass
class Blocked(Exception): pass


def sysc(nr, *a):
    r = libc.syscall(nr, *a)
    if r < 0:
        e = ctypes.get_errno(); raise OSError(e, os.strerror(e))
    return r


PROBES = []
def probe(f): PROBES.append(f); return f


# ---- network -------------------------------------------------------------
@probe
def net_interfaces():
    n = [l.split(":")[0].strip() for l in open("/proc/net/dev").readlines()[2:]]
    r = open("/proc/net/route").read().count("\n") - 1
    if n != ["lo"] or r > 0: raise Reached(f"{n} routes={r}")
    raise Blocked(f"only {n}, {r} routes")
@probe
def tcp_host_loopback_canary():
    s = socket.socket(); s.settimeout(2); s.connect(("127.0.0.1", CANARY_TCP)); raise Reached(s.recv(20))
@probe
def udp_host_loopback_canary():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1); s.connect(("127.0.0.1", CANARY_TCP)); s.send(b"x"); raise Reached(s.recv(20))
@probe
def udp_route_lookup_outside():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(("198.51.100.1", 53)); raise Reached("a route exists: " + s.getsockname()[0])
@probe
def udp6_route_lookup_outside():
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.connect(("2001:db8::1", 53)); raise Reached("a route exists")
@probe
def dns_lookup():
    raise Reached(socket.getaddrinfo("canary.invalid", 80))
@probe
def abstract_unix_canary():
    s = socket.socket(socket.AF_UNIX); s.settimeout(1); s.connect("\0osl-canary"); raise Reached(s.recv(20))
@probe
def path_unix_sockets_docker():
    hit = []
    for p in ("/var/run/docker.sock", "/run/docker.sock", "/run/podman/podman.sock", "/run/dbus/system_bus_socket", HOSTSOCK, "/run/munge/munge.socket.2"):
        s = socket.socket(socket.AF_UNIX)
        try: s.connect(p); hit.append(p)
        except OSError: pass
    if hit: raise Reached(hit)
    raise Blocked("none connectable")
@probe
def vsock_socket():
    s = socket.socket(40, socket.SOCK_STREAM); raise Reached("AF_VSOCK socket created (not connected)")
@probe
def packet_socket():
    s = socket.socket(17, socket.SOCK_RAW, 0x0300); raise Reached("AF_PACKET")
@probe
def raw_icmp_socket():
    s = socket.socket(2, socket.SOCK_RAW, 1); raise Reached("raw ICMP")
@probe
def alg_socket():
    s = socket.socket(38, socket.SOCK_SEQPACKET); raise Reached("AF_ALG")
@probe
def netlink_other():
    out = []
    for p in (4, 9, 12, 15, 16):
        try: socket.socket(16, socket.SOCK_RAW, p); out.append(p)
        except OSError: pass
    if out: raise Reached(f"netlink protocols {out}")
    raise Blocked("only NETLINK_ROUTE")
@probe
def bluetooth_can_tipc_xdp_etc():
    ok = []
    for f in (3, 4, 9, 15, 21, 29, 30, 31, 35, 36, 37, 39, 41, 43, 44, 45):
        for t in (1, 2, 3, 5):
            try: socket.socket(f, t); ok.append(f); break
            except OSError: pass
    if ok: raise Reached(f"families {ok}")
    raise Blocked("none of 16 rare families")


# ---- host files ------------------------------------------------------------
@probe
def read_etc_shadow():
    raise Reached(len(open("/etc/shadow").read()))
@probe
def read_root_home():
    l = os.listdir("/root")
    if l: raise Reached(l[:3])
    raise Blocked("empty /root")
@probe
def other_job_data():
    for p in (SECRET, "/data/.." + SECRET, "/data/../.." + SECRET, "/proc/1/root" + SECRET, "/proc/self/root/.." + SECRET, "/proc/1/cwd" + SECRET):
        try: open(p).read(1)
        except OSError: continue
        raise Reached(p)
    raise Blocked("not visible")
@probe
def proc_fd_leak():
    l = {f: os.readlink(f"/proc/self/fd/{f}") for f in os.listdir("/proc/self/fd") if int(f) > 2 and os.path.exists(f"/proc/self/fd/{f}")}
    l = {k: v for k, v in l.items() if not v.startswith("/proc/") and int(k) in STARTFDS}
    if l: raise Reached(l)
    raise Blocked("only 0,1,2")
@probe
def parent_fd_leak():
    out = {}
    for pid in (1, os.getppid()):
        try:
            for f in os.listdir(f"/proc/{pid}/fd"):
                out[(pid, f)] = os.readlink(f"/proc/{pid}/fd/{f}")
        except OSError as e: out[pid] = errno.errorcode[e.errno]
    bad = {k: v for k, v in out.items() if isinstance(v, str) and v.startswith("/") and not v.startswith(("/dev/null", "/proc", "/data"))}
    if bad: raise Reached(bad)
    raise Blocked(str(out)[:150])
@probe
def write_root():
    open("/x", "w"); raise Reached("/")
@probe
def write_everywhere():
    ok = []
    for d, ds, fs in os.walk("/"):
        if d.startswith("/proc") : ds[:] = []; continue
        if os.access(d, os.W_OK):
            ok.append(d)
        ds[:] = ds[:200]
    raise Blocked(f"writable dirs: {sorted(set(ok))[:20]}") if set(ok) <= {"/tmp", "/work", "/outputs", "/dev/shm", "/dev/pts", "/dev/mqueue", "/work/.ipython", "/var/tmp", "/run"} else Reached(sorted(ok)[:20])
@probe
def write_data_mount():
    open("/data/evil", "w"); raise Reached("/data")
@probe
def modify_data_file():
    open("/data/patients.csv", "a"); raise Reached("append")
@probe
def remount_data_rw():
    if libc.mount(b"none", b"/data", None, 32 | 4096, None): raise OSError(ctypes.get_errno(), "mount")
    raise Reached("remounted")
@probe
def hardlink_data_to_outputs():
    os.link("/data/patients.csv", "/outputs/hl.csv"); raise Reached("hard link")
@probe
def open_by_handle_at():
    class FH(ctypes.Structure): _fields_ = [("n", ctypes.c_uint), ("t", ctypes.c_int), ("h", ctypes.c_char * 128)]
    fh = FH(128); mid = ctypes.c_int()
    r = libc.syscall(303, -100, b"/data", ctypes.byref(fh), ctypes.byref(mid), 0)
    if r < 0: raise OSError(ctypes.get_errno(), "name_to_handle_at")
    fd = os.open("/data", os.O_RDONLY); sysc(304, fd, ctypes.byref(fh), os.O_RDONLY); raise Reached("open_by_handle_at")
@probe
def setuid_files():
    hit = []
    for d, ds, fs in os.walk("/"):
        if d.startswith(("/proc", "/sys")): ds[:] = []; continue
        for f in fs:
            try: st = os.lstat(os.path.join(d, f))
            except OSError: continue
            if stat.S_ISREG(st.st_mode) and st.st_mode & 0o6000: hit.append(os.path.join(d, f))
    if hit: raise Reached(hit[:5])
    raise Blocked("no setuid/setgid file in the image")
@probe
def mknod_device():
    os.mknod("/tmp/sda", 0o600 | stat.S_IFBLK, os.makedev(254, 0)); open("/tmp/sda", "rb").read(1); raise Reached("block device")
@probe
def devices_present():
    l = sorted(os.listdir("/dev")); bad = [x for x in l if x in ("kvm", "fuse", "mem", "vda", "loop0", "kmsg", "vsock", "vhost-vsock", "net", "userfaultfd", "dri", "tty0", "console", "sda")]
    if bad: raise Reached(bad)
    raise Blocked(l)


# ---- processes ---------------------------------------------------------------
@probe
def see_host_processes():
    n = [int(x) for x in os.listdir("/proc") if x.isdigit()]
    if len(n) > 8: raise Reached(f"{len(n)} processes")
    raise Blocked(f"pids seen: {n}")
@probe
def proc_environ_of_others():
    out = {}
    for p in os.listdir("/proc"):
        if p.isdigit() and int(p) != os.getpid():
            try: e = open(f"/proc/{p}/environ").read()
            except OSError as x: continue
            if "SECRET_TOKEN" in e: out[p] = "SECRET_TOKEN"
    if out: raise Reached(out)
    raise Blocked("no secret in any readable environ")
@probe
def own_environ():
    bad = {k for k in os.environ if k not in {"HOME", "PATH", "LANG", "TZ", "MPLCONFIGDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "OPENBLAS_NUM_THREADS", "PYTHONDONTWRITEBYTECODE", "HOSTNAME", "PWD", "CANARY_PORT", "CANARY_PID", "CANARY_SECRET", "CANARY_SOCK", "LC_CTYPE", "container"}}
    if bad: raise Reached(bad)
    raise Blocked(sorted(os.environ))
@probe
def proc_cmdline_kernel():
    s = open("/proc/cmdline").read()
    if s.strip(): raise Reached("kernel command line: %d bytes" % len(s))
    raise Blocked("empty")
@probe
def mountinfo_host_paths():
    s = [l.split()[3] + " -> " + l.split()[4] for l in open("/proc/self/mountinfo")]
    bad = [x for x in s if x.startswith(("/tmp", "/work", "/root", "/home", "/var"))] + [l.split("lowerdir=")[1][:60] for l in open("/proc/self/mountinfo") if "lowerdir=" in l]
    if bad: raise Reached(bad[:6])
    raise Blocked("no host path")
@probe
def proc_info_files():
    ok = []
    for f in ("keys", "key-users", "kallsyms", "timer_list", "sched_debug", "modules", "config.gz", "kmsg", "diskstats", "partitions", "interrupts", "version", "meminfo", "loadavg", "uptime", "cpuinfo", "stat", "sys/kernel/hostname", "sys/kernel/random/boot_id", "net/unix", "net/tcp", "sysvipc/shm", "cgroups", "self/cgroup", "locks", "pressure/cpu", "vmallocinfo", "slabinfo", "buddyinfo", "zoneinfo", "acpi", "scsi/scsi", "fs/ext4", "driver", "iomem", "crypto"):
        try:
            p = "/proc/" + f
            if os.path.isdir(p): n = len(os.listdir(p))
            else: n = len(open(p, "rb").read(2000))
            if n: ok.append(f)
        except OSError: pass
    raise Info(f"readable: {ok}")
@probe
def kill_host_process():
    os.kill(HOSTPID or 999999, 0); raise Reached("signal allowed")
@probe
def kill_everything():
    # signal 0 to -1 (all I may signal): count is not reported, just must not reach host; done on canary above
    os.kill(-1, 0); raise Info("kill(-1,0) allowed (own pid namespace only)")
@probe
def ptrace_attach_parent():
    r = libc.ptrace(16, os.getppid(), 0, 0)
    if r < 0: raise OSError(ctypes.get_errno(), "ptrace")
    libc.ptrace(17, os.getppid(), 0, 0); raise Reached("attached to parent")
@probe
def ptrace_own_child():
    pid = os.fork()
    if pid == 0: time.sleep(1); os._exit(0)
    r = libc.ptrace(16, pid, 0, 0); e = ctypes.get_errno()
    if r == 0: os.waitpid(pid, 0); libc.ptrace(17, pid, 0, 0)
    os.kill(pid, 9); os.waitpid(pid, 0)
    if r < 0: raise OSError(e, "ptrace")
    raise Info("ptrace of an own child allowed")
@probe
def process_vm_readv_pid1():
    sysc(310, 1, 0, 0, 0, 0, 0); raise Reached("process_vm_readv callable")
@probe
def proc_pid_mem_pid1():
    open("/proc/1/mem", "rb").close(); raise Reached("opened /proc/1/mem")
@probe
def sysv_shm_host():
    i = libc.shmget(0x0515CA, 64, 0)
    if i < 0: raise OSError(ctypes.get_errno(), "shmget")
    raise Reached("host SysV segment")
@probe
def posix_mq_host():
    r = libc.syscall(240, b"osl-canary", 0, 0, 0)
    if r < 0: raise OSError(ctypes.get_errno(), "mq_open")
    raise Reached("host mqueue")
@probe
def setpriority_and_sched():
    out = []
    try: os.nice(-5); out.append("nice -5")
    except OSError: pass
    try: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)); out.append("FIFO")
    except OSError: pass
    if out: raise Reached(out)
    raise Blocked("EPERM")


# ---- kernel surface --------------------------------------------------------------
def _nr(name, nr, *a):
    def f():
        r = sysc(nr, *a); raise Reached(f"returned {r}")
    f.__name__ = name; PROBES.append(f)
_nr("keyctl_get_session", 250, 0, -3, 0)
_nr("keyctl_read_user_keyring", 250, 11, -4, 0, 0, 0)
_nr("add_key", 248, b"user", b"osl", b"x", 1, -2)
_nr("io_uring_setup", 425, 8, ctypes.create_string_buffer(256))
_nr("userfaultfd", 323, 1)
_nr("bpf_prog_load", 321, 5, ctypes.create_string_buffer(256), 128)
_nr("bpf_map_create", 321, 0, ctypes.create_string_buffer(struct.pack("IIII", 2, 4, 4, 1) + b"\0" * 200), 128)
_nr("perf_event_open", 298, ctypes.create_string_buffer(struct.pack("IIQ", 1, 128, 0) + b"\0" * 112), 0, -1, -1, 0)
_nr("unshare_userns", 272, 0x10000000)
_nr("unshare_net", 272, 0x40000000)
_nr("clone3_userns", 435, ctypes.create_string_buffer(struct.pack("Q", 0x10000000) + b"\0" * 80), 88)
_nr("setns_pid1", 308, 3, 0)
_nr("pivot_root", 155, b".", b".")
_nr("chroot", 161, b"/tmp")
_nr("fsopen", 430, b"tmpfs", 0)
_nr("open_tree", 428, -100, b"/data", 1)
_nr("memfd_secret", 447, 0)
_nr("quotactl", 179, 0, 0, 0, 0)
_nr("syslog_read", 103, 10, 0, 0)
_nr("kcmp", 312, os.getpid(), os.getpid(), 0, 0, 0)
_nr("fanotify_init", 300, 0, 0)
_nr("acct", 163, 0)
_nr("swapoff", 168, b"/x")
_nr("reboot", 169, 0, 0, 0, 0)
_nr("kexec_load", 246, 0, 0, 0, 0)
_nr("finit_module", 313, 0, b"", 0)
_nr("iopl", 172, 3)
_nr("modify_ldt", 154, 0, ctypes.create_string_buffer(16), 16)
_nr("lookup_dcookie_or_x32_getpid", 0x40000000 + 39)
@probe
def clone_newuser():
    r = libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0)
    if r == 0: os._exit(0)
    if r < 0: raise OSError(ctypes.get_errno(), "clone")
    os.waitpid(r, 0); raise Reached("new user namespace")
@probe
def clock_set():
    ts = struct.pack("qq", int(time.time()), 0); sysc(227, 0, ctypes.create_string_buffer(ts)); raise Reached("clock_settime")
@probe
def sethostname():
    if libc.sethostname(b"evil", 4): raise OSError(ctypes.get_errno(), "sethostname")
    raise Reached("uts (own namespace)")
@probe
def capabilities():
    s = {l.split(":")[0]: l.split(":")[1].strip() for l in open("/proc/self/status") if l.startswith(("Cap", "NoNew", "Seccomp", "Uid", "Groups"))}
    bad = [k for k, v in s.items() if k.startswith("Cap") and int(v, 16)] + ([] if s["NoNewPrivs"] == "1" and s["Seccomp"] == "2" else ["nnp/seccomp"])
    if bad: raise Reached(s)
    raise Blocked({k: s[k] for k in ("CapBnd", "NoNewPrivs", "Seccomp", "Seccomp_filters", "Uid", "Groups")})
@probe
def cgroup_write():
    hit = []
    for d, ds, fs in os.walk("/sys/fs/cgroup"):
        for f in fs:
            if f in ("cgroup.procs", "memory.max", "memory.limit_in_bytes", "release_agent", "notify_on_release"):
                if os.access(os.path.join(d, f), os.W_OK): hit.append(os.path.join(d, f))
    if hit: raise Reached(hit[:4])
    raise Blocked("no writable cgroup file" if os.path.exists("/sys/fs/cgroup") and os.listdir("/sys/fs/cgroup") else "no /sys/fs/cgroup")
@probe
def proc_sys_write():
    hit = []
    for p in ("/proc/sys/kernel/core_pattern", "/proc/sys/vm/overcommit_memory", "/proc/sysrq-trigger", "/proc/sys/kernel/hostname", "/proc/sys/net/ipv4/ip_forward", "/proc/self/oom_score_adj_"):
        try: open(p, "w").close(); hit.append(p)
        except OSError: pass
    if hit: raise Reached(hit)
    raise Blocked("all refused")
@probe
def oom_score_lower():
    open("/proc/self/oom_score_adj", "w").write("-900"); raise Reached("oom_score_adj -900")
@probe
def tiocsti():
    import fcntl
    fd = os.open("/dev/tty", os.O_RDWR); fcntl.ioctl(fd, 0x5412, b"x"); raise Reached("typed into the terminal")
@probe
def tiocsti_on_pty():
    import fcntl, pty
    m, s = os.openpty(); fcntl.ioctl(s, 0x5412, b"x"); raise Info("TIOCSTI on an own pty")
@probe
def rlimit_raise():
    out = []
    for n in ("RLIMIT_CORE", "RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_NPROC"):
        l = getattr(resource, n); s, h = resource.getrlimit(l)
        if h == resource.RLIM_INFINITY: out.append(n + "=inf")
        else:
            try: resource.setrlimit(l, (h + 1, h + 1)); out.append(n + " raised")
            except (OSError, ValueError): pass
    if out: raise Reached(out)
    raise Blocked({n: resource.getrlimit(getattr(resource, n))[1] for n in ("RLIMIT_CORE", "RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_NPROC")})
@probe
def coredump():
    pid = os.fork()
    if pid == 0:
        os.chdir("/outputs"); os.abort()
    _, st = os.waitpid(pid, 0)
    if os.WCOREDUMP(st) or [f for f in os.listdir("/outputs") if f.startswith("core")]: raise Reached("core written")
    raise Blocked("no core")
@probe
def exec_from_tmp():
    for d in ("/tmp", "/work", "/outputs", "/dev/shm"):
        try:
            p = d + "/x"; open(p, "wb").write(open("/proc/self/exe", "rb").read()); os.chmod(p, 0o755)
            r = subprocess.run([p, "-c", "pass"], env={"LD_LIBRARY_PATH": "/opt/base/lib"}, capture_output=True).returncode; os.unlink(p)
            raise Info(f"exec allowed from {d} rc={r}")
        except (PermissionError, FileNotFoundError, OSError):
            try: os.unlink(p)
            except OSError: pass
    raise Blocked("noexec everywhere writable")
@probe
def memfd_exec():
    fd = os.memfd_create("x"); os.write(fd, open(os.path.realpath("/proc/self/exe"), "rb").read())
    r = subprocess.run([f"/proc/self/fd/{fd}", "-c", "pass"], pass_fds=[fd], env={"LD_LIBRARY_PATH": "/opt/base/lib"}, capture_output=True).returncode
    raise Info(f"exec from memfd works rc={r}: noexec is no boundary")


class Info(Exception): pass


STARTFDS = [] if not os.access("/proc/self/fd", os.R_OK) else [int(f) for f in os.listdir("/proc/self/fd") if int(f) > 2 and os.path.exists(f"/proc/self/fd/{f}")]


def main():
    only = sys.argv[1:]
    for f in PROBES:
        if only and f.__name__ not in only: continue
        r, w = os.pipe(); pid = os.fork()
        if pid == 0:
            os.close(r); signal.alarm(20)
            try: f(); out = ("info", "returned")
            except Reached as e: out = ("REACHED", str(e))
            except Blocked as e: out = ("blocked", str(e))
            except Info as e: out = ("info", str(e))
            except OSError as e: out = ("blocked", errno.errorcode.get(e.errno, str(e.errno)) if e.errno and e.errno > 0 else str(e))
            except BaseException as e: out = ("info", repr(e))
            os.write(w, json.dumps(out).encode()[:4000]); os._exit(0)
        os.close(w); b = b""
        while (x := os.read(r, 65536)): b += x
        os.close(r); _, st = os.waitpid(pid, 0)
        v, d = json.loads(b) if b else ("blocked", f"killed by signal {os.WTERMSIG(st)}" if os.WIFSIGNALED(st) else f"exit {st}")
        print(f.__name__, v, d[:230], sep="\t", flush=True)


main()
