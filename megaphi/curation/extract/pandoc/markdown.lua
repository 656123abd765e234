-- Turns what pandoc read into plain Markdown for training: text without escapes, formulas between dollar signs, code in
-- fences, no attributes, no HTML. What the LaTeX reader does not know it hands on as raw LaTeX: the arguments of an
-- unknown command and the inside of an unknown environment are read again, so that no sentence is lost in them.
-- Pictures, layout and bibliographies are left out. Before each formula stands the character 2, by which Python counts
-- them; what was taken out before pandoc it puts back where the marks stand.

local dropped = {}
for name in ([[maketitle label index vspace hspace includegraphics setlength addtolength setcounter addtocounter
  bibliography bibliographystyle usepackage documentclass pagestyle thispagestyle newpage clearpage cleardoublepage
  nocite hypersetup graphicspath input include rule vskip hskip tableofcontents listoffigures listoftables printbibliography
  lstset definecolor color pagecolor newtheorem newcommand renewcommand providecommand def let newenvironment
  renewenvironment theoremstyle allowdisplaybreaks numberwithin selectlanguage addcontentsline markboth markright
  fontsize usetikzlibrary tikzset tikzstyle pgfplotsset geometry captionsetup bibitem vfill hfill kern penalty break
  nobreak parskip parindent baselineskip hsize vsize font catcode magnification nopagenumbers eject bgroup egroup
  phantom hphantom vphantom phantomsection institute affiliation email thanks keywords ccsdesc acmConference]]):gmatch("%S+") do
  dropped[name] = true
end
local kept = {}  -- references stay as they are written: their labels stand in the formulas
for name in ("ref eqref autoref cref Cref pageref nameref vref cite citep citet citealp citeauthor citeyear citenum textcite parencite autocite"):gmatch("%S+") do
  kept[name] = true
end
local pictures = {}
for name in ([[tikzpicture pspicture picture thebibliography filecontents comment pgfpicture circuitikz forest
  CCSXML bibdiv feynman axopicture asy luacode sagesilent]]):gmatch("%S+") do
  pictures[name] = true
end

local function markdown(text) return pandoc.RawInline("markdown", text) end

local clean  -- the filter itself, for what is read again

local function read_again(tex)
  local ok, doc = pcall(pandoc.read, tex, "latex+raw_tex")
  if not ok then return nil end
  return doc:walk(clean).blocks
end

local function groups(text)
  -- The insides of the {...} of a command, one behind the other, and of its [...] where a formula stands in them.
  local found, place = {}, 1
  while true do
    local start = text:find("[%[{]", place)
    if not start then return table.concat(found, " ") end
    local group = text:match(text:sub(start, start) == "{" and "^%b{}" or "^%b[]", start)
    if group and (group:sub(1, 1) == "{" or group:find("\\(", 1, true)) then found[#found + 1] = group:sub(2, -2) end
    place = start + (group and #group or 1)
  end
end

local function fence(text, language)
  local longest = 2
  for run in text:gmatch("`+") do if #run > longest then longest = #run end end
  local ticks = ("`"):rep(longest + 1)
  return pandoc.RawBlock("markdown", ticks .. language .. "\n" .. text .. "\n" .. ticks)
end

local function flat(cell)
  -- One line for a cell: Markdown's tables have no blocks.
  local inlines = pandoc.utils.blocks_to_inlines(cell.contents, {pandoc.Space()})
  cell.contents = {pandoc.Plain(inlines:walk {LineBreak = pandoc.Space, RawInline = function(raw)
    return markdown((raw.text:gsub("\n", " "):gsub("|", "\\|")))
  end})}
  cell.col_span, cell.row_span = 1, 1
  return cell
end

local function flat_rows(rows)
  for _, row in ipairs(rows) do
    local cells = pandoc.List()
    for _, cell in ipairs(row.cells) do
      local span = cell.col_span
      cells:insert(flat(cell))
      for _ = 2, span do cells:insert(pandoc.Cell({})) end
    end
    row.cells = cells
  end
end

local function is_display(inline)
  return inline.t == "RawInline" and inline.text:match("^\1") ~= nil
end

local function split_displays(block)
  -- A displayed formula stands in a paragraph of its own.
  local blocks, held = pandoc.List(), pandoc.List()
  local function close()
    while #held > 0 and (held[1].t == "Space" or held[1].t == "SoftBreak") do held:remove(1) end
    if #held > 0 then blocks:insert(pandoc.Para(held)) end
    held = pandoc.List()
  end
  for _, inline in ipairs(block.content) do
    if is_display(inline) then
      close()
      blocks:insert(pandoc.Para {markdown((inline.text:gsub("\1", "")))})
    else
      held:insert(inline)
    end
  end
  close()
  return blocks
end

clean = {
  Str = function(e) return markdown(e.text) end,
  LineBreak = function() return markdown("\n") end,
  Math = function(e)
    if e.mathtype == "DisplayMath" then return markdown("\1\2$$" .. e.text .. "$$") end
    return markdown("\2$" .. e.text .. "$")
  end,
  Code = function(e)
    local ticks = e.text:find("`") and "``" or "`"
    return markdown(ticks .. e.text .. ticks)
  end,
  CodeBlock = function(e)
    local language = e.classes[1] == "sourceCode" and e.classes[2] or e.classes[1] or ""
    return fence(e.text, language == "sourceCode" and "" or language)
  end,
  Span = function(e) return e.content end,
  Underline = function(e) return e.content end,
  SmallCaps = function(e) return e.content end,
  Superscript = function(e) e.content:insert(1, markdown("^")) return e.content end,
  Subscript = function(e) e.content:insert(1, markdown("_")) return e.content end,
  Cite = function(e) return e.content end,
  Link = function(e)
    local label = e.attributes["reference"]
    if label then return markdown("\\" .. (e.attributes["reference-type"] or "ref") .. "{" .. label .. "}") end
    return e.content
  end,
  Image = function(e)
    local alt = pandoc.utils.stringify(e.caption)
    local is_formula = alt:match("^%$.+%$$") or alt:match("^\\[%a(%[]") or alt:match("[_^]{")
    return is_formula and markdown("\2$" .. alt:gsub("^%$+", ""):gsub("%$+$", "") .. "$") or {}
  end,
  Figure = function(e)
    local blocks = e.content
    blocks:extend(e.caption.long)
    return blocks
  end,
  Header = function(e) return pandoc.Header(e.level, e.content) end,
  Div = function(e) return e.content end,
  Table = function(e)
    flat_rows(e.head.rows)
    flat_rows(e.foot.rows)
    for _, body in ipairs(e.bodies) do flat_rows(body.head) flat_rows(body.body) end
    local caption = e.caption.long
    e.caption = {long = {}}
    for i, column in ipairs(e.colspecs) do e.colspecs[i] = {column[1], nil} end  -- widths would make it a grid
    local blocks = pandoc.List {e}
    blocks:extend(caption)
    return blocks
  end,
  RawInline = function(e)
    if e.format == "markdown" then return nil end
    local name = e.text:match("^\\(%a+)")
    if e.format ~= "latex" and e.format ~= "tex" or not name or dropped[name] then return {} end
    if kept[name] then return markdown(e.text) end
    local inside = groups(e.text)
    if inside == "" then return {} end
    local blocks = read_again(inside)
    return blocks and pandoc.utils.blocks_to_inlines(blocks) or markdown(inside)
  end,
  RawBlock = function(e)
    if e.format == "markdown" then return nil end
    if e.format ~= "latex" and e.format ~= "tex" then return {} end
    local environment, inside = e.text:match("^%s*\\begin%s*{([^}]*)}(.*)\\end%s*{%1}")
    local name = e.text:match("^%s*\\(%a+)")
    if not environment then
      if name and dropped[name] then return {} end
      inside = groups(e.text)
    elseif pictures[(environment:gsub("%*", ""))] then
      return {}
    else
      inside = inside:gsub("^%s*%b[]", "")
      local first = inside:match("^%s*(%b{})") or ""  -- a title, or a width
      if not first:find("\\(", 1, true) and (not first:match("%a%a%a%a") or first:find("width", 1, true)) then
        inside = inside:gsub("^%s*%b{}", "")
      end
    end
    if inside:match("^%s*$") then return {} end
    return read_again(inside) or {pandoc.Para {markdown(inside)}}
  end,
}

local second = {
  Para = split_displays,
  Plain = function(e) return pandoc.Plain(e.content:walk {RawInline = function(raw)
    return markdown((raw.text:gsub("\1", "")))
  end}) end,
}

function Pandoc(doc)
  local blocks = pandoc.List()
  local title, abstract = doc.meta.title, doc.meta.abstract
  if title then
    blocks:insert(pandoc.Header(1, pandoc.utils.type(title) == "Inlines" and title or pandoc.Inlines(pandoc.utils.stringify(title))))
    doc = doc:walk {Header = function(e) e.level = math.min(e.level + 1, 6) return e end}
  end
  if abstract then
    blocks:insert(pandoc.Header(2, "Abstract"))
    if pandoc.utils.type(abstract) == "Blocks" then blocks:extend(abstract) else blocks:insert(pandoc.Para(abstract)) end
  end
  blocks:extend(doc.blocks)
  return pandoc.Pandoc(blocks):walk(clean):walk(second)
end
return {{Pandoc = Pandoc}}
