"""The style sheet of `megaphi report`, in light and dark."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --quiet: #68717c; --line: #d9dee4; --paper: #fff; --tile: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --quiet: #98a2ad; --line: #363d45; --paper: #15181c; --tile: #1f242a; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2em auto;
  padding: 0 1em; max-width: 1500px; }
h1 { font-size: 1.5em; margin: 0; } h2 { font-size: 1.1em; margin: 2em 0 .4em; }
.quiet, figcaption { color: var(--quiet); } .warning, .problem { color: #c0392b; }
.tiles { display: flex; flex-wrap: wrap; gap: .6em; }
.tiles div { background: var(--tile); border-radius: 6px; padding: .4em .9em; }
.tiles b { display: block; font-size: 1.2em; } .tiles span { color: var(--quiet); font-size: .85em; }
.state { border-radius: 4px; padding: .1em .5em; background: var(--tile); font-weight: 600; }
.running, .finished { color: #2a9d76; } .failed, .lost, .silent { color: #c0392b; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 560px), 1fr));
  gap: 1.2em; margin-top: 1.5em; }
figure { margin: 0; } figcaption b { color: var(--ink); } figcaption span { margin-left: .9em; white-space: nowrap; }
figcaption i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .35em; }
svg { width: 100%; height: auto; } svg text { font-size: 11px; fill: var(--quiet); }
polyline { fill: none; stroke-width: 1.3; stroke-linejoin: round; }
line.grid { stroke: var(--line); stroke-width: 1; }
line.event { stroke: var(--quiet); stroke-width: 2; stroke-dasharray: 2 4; }
line.problem { stroke: #c0392b; stroke-width: 2; stroke-dasharray: 4 3; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .9em; }
td, th { border-bottom: 1px solid var(--line); padding: .25em .8em .25em 0; text-align: left; vertical-align: top; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
details { margin: 1em 0; } summary { cursor: pointer; color: var(--quiet); }
"""
