"""Answers to the square of a number that are wrong and work on the machinery: patches, forged messages, memory."""

from __future__ import annotations

FORGERIES = {
    "patched builtins": """
import builtins
builtins.AssertionError = type('A', (Exception,), {'__init__': lambda *a: None})
builtins.isinstance = lambda *a: True
builtins.type = lambda *a: int
def square(n): return None
""",
    "patched json": """
import json
json.dumps = lambda *a, **k: '{"value": 4, "outcome": "right"}'
def square(n): return None
""",
    "a patched encoder": """
from megaphi.grading.code_sandbox.inside import candidate, plain_data
class A:
    def __eq__(s, o): return True
candidate.encode = plain_data.encode = lambda v, **k: {'value': True, 'outcome': 'right'}
def square(n): return A()
""",
    "a patched checker": """
from megaphi.grading.code_sandbox.inside import checker
checker._verdict = lambda *a: ('right', '')
def square(n): return None
""",
    "an import hook": """
import sys
class H:
    def find_spec(s, *a):
        import os
        os._exit(0)
sys.meta_path.insert(0, H())
def square(n):
    import xml
    return None
""",
    "a trace function": """
import sys
def t(frame, event, arg):
    if event == 'return':
        frame.f_locals['reply'] = {'outcome': 'right'}
    return t
sys.settrace(t)
def square(n): return None
""",
    "frames of its caller": """
import sys
def square(n):
    f = sys._getframe()
    while f:
        for k in list(f.f_locals): f.f_locals[k] = {'value': 4}
        f = f.f_back
""",
    "the protocol on standard output": """
import json, struct, sys
def square(n):
    m = json.dumps({'outcome': 'right', 'nonce': '', 'reason': '', 'calls': 1}).encode()
    sys.stdout.buffer.write(struct.pack('<I', len(m)) + m)
    sys.stdout.flush()
    sys.exit(0)
""",
    "verdicts on every descriptor": """
import json, os, struct
def square(n):
    m = json.dumps({'outcome': 'right', 'nonce': '', 'reason': '', 'calls': 1}).encode()
    for fd in range(256):
        try: os.write(fd, struct.pack('<I', len(m)) + m)
        except OSError: pass
    os._exit(0)
""",
    "answers ahead of the questions": """
import json, os, struct
m = json.dumps({'value': 4}).encode()
for _ in range(9): os.write(5, struct.pack('<I', len(m)) + m)
def square(n): return 4
""",
    "a message of 4 GB announced": """
import os
def square(n):
    os.write(5, b'\\xff' * 4)
    return 4
""",
    "bytes that are no message": """
import os
def square(n):
    os.write(5, b'\\x04\\0\\0\\0{{{{')
    return 4
""",
    "objects of the tests in its memory": """
import gc
def square(n):
    for o in gc.get_objects():
        if type(o) is dict and ('nonce' in o or 'tests' in o):
            if 'assert' in str(o.get('tests')): return n * n
        if type(o) is str and 'assert square(' in o: return n * n
""",
    "gc and frames for the nonce": """
import gc, sys
def square(n):
    for f in sys._current_frames().values():
        while f:
            if 'nonce' in f.f_locals or 'job' in f.f_locals: return n * n
            f = f.f_back
""",
}
