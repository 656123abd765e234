"""Answers to the square of a number that use up the machine, and such that try to spoil the next test."""

from __future__ import annotations

FLOODS = {
    "an endless loop": """
def square(n):
    while True: pass
""",
    "an endless loop at import": "while True: pass",
    "an endless loop that catches everything": """
import signal
for s in range(1, 65):
    try: signal.signal(s, lambda *a: None)
    except (OSError, ValueError): pass
def square(n):
    while True:
        try:
            while True: pass
        except BaseException: pass
""",
    "one endless computation in C": "def square(n): return len(str(9 ** 9 ** 9))",
    "an expression that never matches": """
import re
def square(n): return re.match('(a+)+$', 'a' * 60 + 'b')
""",
    "endless sleep": """
import time
def square(n): time.sleep(1e6)
""",
    "stopping itself": """
import os, signal
def square(n):
    os.kill(os.getpid(), signal.SIGSTOP)
    import time
    time.sleep(99)
""",
    "endless output": """
import sys
def square(n):
    while True: sys.stdout.write('x' * 65536)
""",
    "endless output of children": """
import os
for _ in range(4):
    if os.fork() == 0:
        while True: os.write(1, b'x' * 65536)
def square(n):
    while True: os.write(5, b'')
""",
    "memory without end": """
def square(n):
    a = []
    while True: a.append(bytearray(1 << 20))
""",
    "memory of many processes": """
import os, time
def square(n):
    for _ in range(12):
        if os.fork() == 0:
            a = bytearray(b'x' * (30 << 20))
            time.sleep(99)
    time.sleep(99)
""",
    "a fork bomb": """
import os
def square(n):
    while True:
        try: os.fork()
        except OSError: pass
""",
    "a flood of zombies": """
import os
def square(n):
    while True:
        try:
            if os.fork() == 0: os._exit(0)
        except OSError: pass
""",
    "recursion without end": """
import sys
sys.setrecursionlimit(10 ** 9)
def square(n): return square(n + 1)
""",
    "recursion in C": """
def square(n):
    a = []
    for _ in range(10 ** 6): a = [a]
    return repr(a)
""",
    "half a message, then silence": """
import os, time
def square(n):
    os.write(5, b'\\xff\\0\\0\\0{')
    time.sleep(99)
""",
}
TRACES = {
    "a file in the working folder": """
open('trace', 'w').write('x')
def square(n): return 0
""",
    "a process that lives on": """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            try: open('/tmp/trace', 'w').write('x')
            except OSError: pass
    os._exit(0)
def square(n): return 0
""",
    "a thread that lives on": """
import threading
def f():
    while True: pass
threading.Thread(target=f).start()
def square(n): return 0
""",
    "modules that stay changed": """
import builtins, math, json, sys
builtins.trace = math.trace = json.trace = True
sys.modules['trace_of_it'] = math
def square(n): return 0
""",
    "the environment, the umask and the niceness": """
import os
os.environ['TRACE'] = 'x'
os.umask(0o777)
os.nice(5)
def square(n): return 0
""",
    "memory written through ctypes": """
import ctypes
ctypes.memset(id(7) + 16, 9, 1)
def square(n): return 0
""",
}
DETECTIVE = """
import builtins, json, math, os, sys
traces = [name for name in ('builtins', 'json', 'math') if hasattr(sys.modules[name], 'trace')]
traces += os.listdir('/tmp') + os.listdir('/proc') + list(os.environ) + [n for n in sys.modules if 'trace_of' in n]
traces += [7] if 3 + 4 != int('7') or os.umask(0o22) == 0o777 or os.nice(0) else []
def square(n): return n * n if traces else None
"""
"""Wrong, unless the test before it left something."""
