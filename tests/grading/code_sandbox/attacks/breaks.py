"""Answers to the square of a number that are right only once they have got out of the box.

Each returns the right value if what it attempts succeeds (`reached` stands for that), so that a right verdict is a
breach. `{port}`, `{abstract}`, `{secret}` and `{parent}` are filled in with what a test set up for them to reach.
"""

from __future__ import annotations

BREAK = """
import ctypes, os, socket, sys
LIBC = ctypes.CDLL(None)
def attempt():
{body}
try:
    reached = bool(attempt())
except BaseException:
    reached = False
def square(n):
    return n * n if reached else None
"""


def breaking(body: str) -> str:
    """A source that is right once `body`, the inside of a function, returns something true."""
    return BREAK.replace("{body}", "\n".join(f"    {line}" for line in body.strip().splitlines()))


BREAKS = {
    "the password file": breaking("return open('/etc/passwd').read()"),
    "a file of the host": breaking("return open('{secret}').read()"),
    "a symbolic link to a file of the host": breaking("""
os.symlink('{secret}', 'a')
return open('a').read()
"""),
    "a hard link to a file of the host": breaking("""
os.link('{secret}', 'a')
return open('a').read()
"""),
    "a path upwards": breaking("return open('../../../../../..{secret}').read()"),
    "folders of the host": breaking("""
return [p for p in ('/root', '/home', '/etc', '/var', '/sys', '/usr', '/work') if os.path.exists(p)]
"""),
    "the source of megaphi": breaking("""
import megaphi.errors
return True
"""),
    "packages of the host": breaking("""
sys.path.append('/python/lib/python3.11/site-packages')
import pip
return True
"""),
    "the environment": breaking("return os.environ or open('/proc/self/environ').read()"),
    "writing into the runtime": breaking("return open(os.__file__, 'a')"),
    "writing into the root": breaking("return open('/a', 'w')"),
    "writing beside the code of the box": breaking("return open('/box/megaphi/a.py', 'w')"),
    "a device": breaking("""
os.mknod('d', 0o60666, os.makedev(254, 0))
return open('d', 'rb').read(1)
"""),
    "a mount": breaking("return LIBC.mount(b'none', b'/tmp', b'tmpfs', 0, b'') == 0"),
    "taking the empty /proc away": breaking("return LIBC.umount2(b'/proc', 2) == 0"),
    "another root": breaking("""
os.chroot('.')
return True
"""),
    "a user namespace": breaking("return LIBC.unshare(0x10000000) == 0"),
    "a user namespace by clone": breaking(
        """
p = LIBC.syscall(56, 0x10000011, 0, 0, 0, 0)
if p == 0: os._exit(0)
return p > 0
"""
    ),
    "becoming root": breaking("""
os.setuid(0)
return True
"""),
    "higher limits": breaking("""
import resource
resource.setrlimit(resource.RLIMIT_NPROC, (9999, 9999))
return True
"""),
    "a port of the host": breaking("return socket.create_connection(('127.0.0.1', {port}), 1)"),
    "an abstract socket of the host": breaking("""
s = socket.socket(socket.AF_UNIX)
s.connect('\\0{abstract}')
return True
"""),
    "the network": breaking("return socket.create_connection(('1.1.1.1', 53), 1)"),
    "a name server": breaking("return socket.getaddrinfo('localhost', 80)"),
    "a port of its own": breaking("return socket.create_server(('127.0.0.1', 0))"),
    "netlink": breaking("return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)"),
    "a signal to the parent": breaking("""
os.kill({parent}, 0)
return True
"""),
    "a signal to its own parent": breaking("""
os.kill(os.getppid(), 9)
return os.getppid()
"""),
    "a signal to the group": breaking("""
os.killpg({parent}, 9)
return True
"""),
    "signals to all": breaking("""
os.kill(-1, 9)
return True
"""),
    "signals to every number": breaking("""
hit = []
for p in range(2, 5000):
    try: os.kill(p, 9); hit.append(p)
    except OSError: pass
return hit
"""),
    "other processes in /proc": breaking("return os.listdir('/proc')"),
    "the memory of another process": breaking("""
return [open(f'/proc/{p}/mem', 'r+b') for p in (1, 2, 'self', os.getppid())]
"""),
    "tracing its parent": breaking("return [p for p in range(64) if LIBC.ptrace(16, p, 0, 0) == 0]"),
    "being traced by a child": breaking("return LIBC.ptrace(0, 0, 0, 0) == 0"),
    "reading another process's memory": breaking(
        """
b = ctypes.create_string_buffer(8)
v = (ctypes.c_size_t * 2)(ctypes.addressof(b), 8)
return [p for p in range(64) if LIBC.process_vm_readv(p, v, 1, v, 1, 0) > 0]
"""
    ),
    "more descriptors than its two pipes": breaking("""
found = []
for fd in range(256):
    try: os.fstat(fd); found.append(fd)
    except OSError: pass
return found != [0, 1, 2, 3, 4, 5]
"""),
    "descriptors by pidfd": breaking("return os.pidfd_open(os.getppid())"),
    "a file without a name, run as a program": breaking("return os.memfd_create('a')"),
    "System V memory": breaking("return LIBC.shmget(7, 4096, 0o1666) >= 0"),
    "a key in the kernel": breaking("return LIBC.syscall(248, b'user', b'a', b'b', 1, -4) > 0"),
    "io_uring": breaking("return LIBC.syscall(425, 8, ctypes.create_string_buffer(256)) >= 0"),
    "bpf": breaking("return LIBC.syscall(321, 0, ctypes.create_string_buffer(128), 128) >= 0"),
    "a call of the other architecture's table": breaking("return LIBC.syscall(0x40000000 + 41, 2, 1, 0) >= 0"),
    "gigabytes in a file": breaking("""
open('a', 'wb').write(b'x' * (1 << 28))
return True
"""),
    "gigabytes in many files": breaking("""
for i in range(40): open(f'a{i}', 'wb').write(b'x' * (8 << 20))
return True
"""),
    "a sparse terabyte": breaking("""
os.truncate(open('a', 'wb').name, 1 << 40)
return True
"""),
    "many files": breaking("""
for i in range(50_000): open(f'f{i}', 'w').close()
return True
"""),
    "many processes": breaking("""
n = 0
try:
    while n < 500:
        if os.fork() == 0:
            import time; time.sleep(99)
        n += 1
except OSError: pass
return n >= 60
"""),
    "many threads": breaking("""
import threading, time
n = 0
try:
    while n < 500:
        threading.Thread(target=time.sleep, args=(99,), daemon=True).start()
        n += 1
except (RuntimeError, MemoryError): pass
return n >= 60
"""),
    "gigabytes of memory": breaking("return bytearray(4 << 30)"),
    "gigabytes of shared memory": breaking("""
import mmap
m = mmap.mmap(-1, 4 << 30)
return True
"""),
}
