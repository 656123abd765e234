"""Languages by file name, and names of what was not written in a repository.

The table holds languages that people write, as GitHub's linguist calls them; data formats are none. Vendored folders
and generated names are the plain ones of linguist's `vendor.yml` and `generated.rb`.
"""

from __future__ import annotations

import re

ENDINGS = {
    "Ada": "adb ads",
    "Assembly": "asm s",
    "Awk": "awk",
    "C": "c h",
    "C#": "cs",
    "C++": "cpp cc cxx hpp hh hxx ipp inl",
    "CMake": "cmake",
    "CSS": "css",
    "CUDA": "cu cuh",
    "Clojure": "clj cljs cljc",
    "CoffeeScript": "coffee",
    "Common Lisp": "lisp cl",
    "D": "d",
    "Dart": "dart",
    "Elixir": "ex exs",
    "Elm": "elm",
    "Emacs Lisp": "el",
    "Erlang": "erl hrl",
    "F#": "fs fsi fsx",
    "Fortran": "f f77 f90 f95 f03 f08 for",
    "Go": "go",
    "Groovy": "groovy gradle",
    "HTML": "html htm",
    "Haskell": "hs lhs",
    "Java": "java",
    "JavaScript": "js mjs cjs jsx",
    "Julia": "jl",
    "Kotlin": "kt kts",
    "Lean": "lean",
    "Lua": "lua",
    "MATLAB": "m",
    "Makefile": "mk mak",
    "Markdown": "md markdown",
    "Nim": "nim",
    "OCaml": "ml mli",
    "PHP": "php",
    "Pascal": "pas pp",
    "Perl": "pl pm",
    "PowerShell": "ps1 psm1",
    "Prolog": "pro",
    "Python": "py pyi pyx pxd",
    "R": "r",
    "Racket": "rkt",
    "Ruby": "rb rake",
    "Rust": "rs",
    "SQL": "sql",
    "Scala": "scala sc",
    "Scheme": "scm ss",
    "Shell": "sh bash zsh",
    "Solidity": "sol",
    "Standard ML": "sml sig",
    "Swift": "swift",
    "SystemVerilog": "sv svh",
    "Tcl": "tcl",
    "TeX": "tex sty cls",
    "TypeScript": "ts tsx",
    "VHDL": "vhd vhdl",
    "Verilog": "v vh",
    "Vue": "vue",
    "Zig": "zig",
    "reStructuredText": "rst",
}
NAMES = {
    "makefile": "Makefile",
    "gnumakefile": "Makefile",
    "dockerfile": "Dockerfile",
    "cmakelists.txt": "CMake",
    "rakefile": "Ruby",
    "gemfile": "Ruby",
    "build": "Starlark",
    "build.bazel": "Starlark",
}
SHEBANGS = {
    "python": "Python",
    "sh": "Shell",
    "bash": "Shell",
    "zsh": "Shell",
    "dash": "Shell",
    "perl": "Perl",
    "ruby": "Ruby",
    "node": "JavaScript",
    "lua": "Lua",
    "Rscript": "R",
    "awk": "Awk",
    "gawk": "Awk",
    "tclsh": "Tcl",
    "php": "PHP",
    "julia": "Julia",
}
VENDORED = frozenset(
    """vendor vendored third_party thirdparty 3rdparty external node_modules bower_components site-packages __pycache__
    dist build deps _vendor extern jspm_packages .eggs carthage pods""".split()
)
GENERATED = re.compile(
    r"[.-]min\.(?:js|css|mjs)$|\.bundle\.js$|\.pb\.(?:go|cc|h|cpp)$|_pb2(?:_grpc)?\.pyi?$|\.designer\.cs$|\.g\.(?:cs|dart)$"
    r"|\.freezed\.dart$|^package-lock\.|^yarn\.|^go\.sum$|\.generated\.\w+$|_generated\.\w+$|^zz_generated|\.tab\.[ch]$"
    r"|^lex\.yy\.c$|^configure$|^aclocal\.m4$|\.d\.ts\.map$|_string\.go$|\.gen\.go$"
)
_LANGUAGE_OF_ENDING = {ending: language for language, endings in ENDINGS.items() for ending in endings.split()}


def language_of_name(name: str) -> str | None:
    """The language of a file, by its name; None if the name does not say it."""
    lower = name.lower()
    return NAMES.get(lower) or _LANGUAGE_OF_ENDING.get(lower.rpartition(".")[2] if "." in lower else "")
