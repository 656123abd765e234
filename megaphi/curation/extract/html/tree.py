"""HTML as a tree of lxml: parsed within limits, and freed of what is never content.

Gone after `without_furniture`: scripts, controls, navigation, footers, cookie banners, share buttons, edit links, the
marks that link a heading to itself, and everything hidden. An element that holds half of the page's text stays whatever
its name says: templates do call the whole page `sidebar-layout` or hide it until a script runs.
"""

from __future__ import annotations

import re
from typing import Any

import lxml.etree as etree
from lxml.html import HtmlComment, HtmlElement, HtmlEntity, HTMLParser, HtmlProcessingInstruction, document_fromstring

from megaphi.curation.extract.found import NotExtracted

_CLASSES = etree.ElementDefaultClassLookup(
    element=HtmlElement, comment=HtmlComment, pi=HtmlProcessingInstruction, entity=HtmlEntity
)
"""One class for all elements. lxml.html has others for parts of forms, which are never text, and asks a function of
Python for the class of an element whenever it is touched: 7 % of the time of a page."""
LIBRARY_DEPTH = 256
"""Depth at which libxml2 itself stops, unless it is told that the tree may be huge."""
LARGEST_SHARE = 0.5
"""Share of the page's text; furniture does not hold more."""

NEVER_TEXT = frozenset(
    "head style script template noscript svg iframe object embed canvas audio video button input select textarea "
    "dialog map progress meter link meta frame frameset applet".split()
)
_BROWSING = frozenset({"next", "prev", "previous", "up", "contents", "index", "start", "home", "toc"})
LONGEST_HIDDEN = 200
"""Characters of something hidden; more is text that a click shows, as the solution of an exercise."""
LONGEST_CREDIT = 120
"""Characters of the line that names the program that made a page."""
LONGEST_LINE = 400
"""Characters of a line of links from page to page."""
_ROLES = frozenset("navigation banner contentinfo search dialog alertdialog menu menubar toolbar tablist".split())
_FURNITURE_NAMES = re.compile(
    r"""(?:^|[\s_-])(?:
    headerlink|heading-?anchor|anchor-?link|copiable-anchor|copiable-link|permalink|hash-?link|header-anchor|
    edit-?(?:this-?)?page|edit-?link|mw-editsection|editsection|viewcode-link|viewcode-back|
    copy-?(?:btn|button)|copybtn|clipboard|code-toolbar-item|toolbar-item|
    breadcrumbs?|nav(?:bar|igation)?|nav-?links?|navbox|docnav|site-?nav|menu|menubar|toctree-wrapper-nav|pagination|pager|
    toc|table-of-contents|toc-?(?:container|list|tree|nav)|
    prev-?next(?:-area)?|chlink(?:top|bot|prevnexttop|prevnextbot)|page-?nav(?:igation)?|post-?nav(?:igation)?|
    sphinxsidebar|sphinxsidebarwrapper|sidebar-?(?:toggle|nav|menu|wrapper)|site-?(?:header|footer|search)|
    page-?footer|footer-?(?:nav|links|menu|widgets?)|copyright-?(?:notice|bar)|colophon|skip-?(?:link|to|nav)\w*|
    share(?:-?(?:buttons?|bar|links?|tools|this))?|social(?:-?(?:share|media|links?|icons|buttons))?|addthis\w*|sharedaddy|
    cookie\w*|consent|gdpr|newsletter|subscribe(?:-?(?:box|form))?|sign-?up-?form|paywall-?prompt|
    advert\w*|ads?|adsbygoogle|banner-?ad|sponsor(?:ed|-?box)?|promo(?:tion)?-?(?:box|banner)?|popup|modal|
    noprint|screen-?reader-?text|sr-only|visually-?hidden|jump-?link|back-?to-?top|
    mathjax-?link|MathJax_Message|this-page-menu|searchbox|search-?form
    )(?:$|[\s_-])""",
    re.VERBOSE | re.IGNORECASE,
)
_IDS = re.compile(
    r"mathjaxlink|cookie|consent|MathJax_Message|nav(?:bar|igation)?|breadcrumbs?|footer|searchbox", re.IGNORECASE
)
_BROWSING_LINE = re.compile(r"\s*\[?\s*(?:next|previous|prev|up|back)\s*:", re.IGNORECASE)
_CREDIT = re.compile(r"\s*(?:generated|powered|built|made|created) (?:by|with|using)\b", re.IGNORECASE)
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_CONTROL = re.compile("[\\x00-\\x08\\x0b\\x0e-\\x1f\\ufffe\\uffff]")
_CONTROL_REFERENCE = re.compile(
    r"&#(?:0*(?:[0-8]|1[124-9]|2[0-9]|3[01]|6553[45])(?![0-9])"
    r"|[xX]0*(?:[0-8bBcCeEfF]|1[0-9a-fA-F]|[fF]{3}[eEfF])(?![0-9a-fA-F]));?"
)
_SELF_LINK = re.compile(r"[¶#§🔗\s\u200b]{1,4}\Z")
_BUTTON_TEXT = re.compile(
    r"\s*\[?(?:edit(?: source)?|source|copy(?: code)?|bearbeiten|modifier)\]?\s*\Z", re.IGNORECASE
)


def parsed(html: str, *, deepest: int) -> Any:
    """The root element, without comments and processing instructions.

    Raises:
        NotExtracted: `too_deep`, `too_large` (one text or attribute above 10 MB), or `empty`.
    """
    parser = HTMLParser(
        encoding="utf-8", huge_tree=deepest > LIBRARY_DEPTH, remove_comments=True, remove_pis=True, no_network=True
    )
    parser.set_element_class_lookup(_CLASSES)
    try:
        root = document_fromstring(_printable(html).encode("utf-8", "replace"), parser=parser)
    except (etree.ParserError, etree.XMLSyntaxError):
        raise NotExtracted("empty", "no elements") from None
    for entry in parser.error_log.filter_from_fatals():
        if entry.type == etree.ErrorTypes.ERR_RESOURCE_LIMIT:
            raise NotExtracted("too_deep" if "depth" in entry.message else "too_large", entry.message[:100])
    return root


def _printable(html: str) -> str:
    """The page without characters that XML has no place for, as such or as references: lxml refuses them."""
    html = _CONTROL.sub("", html.replace("\f", " "))
    return _CONTROL_REFERENCE.sub("", html) if "&#" in html else html


def title_of(root: Any) -> str:
    """The page's title: what it gives to those who link to it, else the one of the window."""
    for path in ("//meta[@property='og:title']/@content", "//head/title//text()", "//title//text()"):
        title = " ".join(" ".join(root.xpath(path)[:1]).split())
        if title:
            return title
    return ""


def without_furniture(root: Any) -> None:
    """Remove from the tree what is never content. Formulas must have been taken out of scripts before."""
    most = LARGEST_SHARE * length_of(root)
    for element in list(root.iter(etree.Element)):
        tag = element.tag
        if tag in ("html", "body", "main", "article"):
            continue
        if tag in NEVER_TEXT:
            remove(element)
        elif tag == "a":
            if _is_mark(element):
                remove(element)
            elif element.get("rel") in _BROWSING or element.get("accesskey") in ("n", "p", "u"):
                _remove_line_of(element)
        elif (tag in ("nav", "footer") or _is_furniture(element)) and length_of(element) < most:
            remove(element)
        elif tag == "p":
            _remove_credit_or_line(element)


def _remove_credit_or_line(paragraph: Any) -> None:
    text, link = paragraph.text or "", paragraph.find("a")
    if _CREDIT.match(text) and length_of(paragraph) < LONGEST_CREDIT:
        remove(paragraph)
    elif _BROWSING_LINE.match(text) and link is not None:
        _remove_line_of(link)


def _remove_line_of(link: Any) -> None:
    """Remove the line of links to the next page, the one before, and the contents, which a link is part of."""
    line = next((node for node in link.iterancestors() if node.tag in ("p", "div", "li", "td", "ul", "tr")), None)
    if line is not None and (length := length_of(line)) < LONGEST_LINE:
        links = sum(length_of(other) for other in line.iter("a"))
        if links > length / 3:
            remove(line)


def _is_furniture(element: Any) -> bool:
    attributes = element.attrib
    if not attributes:
        return False
    if attributes.get("role") in _ROLES or attributes.get("aria-modal") == "true":
        return True
    if "hidden" in attributes or _HIDDEN.search(attributes.get("style", "")):
        return length_of(element) < LONGEST_HIDDEN
    names = attributes.get("class")
    if names and _FURNITURE_NAMES.search(names):
        return True
    name = attributes.get("id")
    return bool(name and _IDS.fullmatch(name))


def _is_mark(link: Any) -> bool:
    """True where a link is furniture: a mark beside a heading, a button to edit or copy."""
    if _is_furniture(link):
        return True
    text = text_of(link) if len(link) else link.text or ""
    if not text or len(text) > 20:
        return False
    return bool((_SELF_LINK.match(text) and link.get("href", "#").startswith("#")) or _BUTTON_TEXT.match(text))


def text_of(element: Any) -> str:
    """All characters inside an element."""
    return "".join(element.itertext())


def length_of(element: Any) -> int:
    """Number of characters inside an element, white space and scripts not counted twice."""
    return sum(len(text.strip()) for text in element.itertext() if not text.isspace())


def remove(element: Any) -> None:
    """Take an element out of the tree; the text behind it stays."""
    parent = element.getparent()
    if parent is None:
        return
    if element.tail:
        before = element.getprevious()
        if before is None:
            parent.text = (parent.text or "") + element.tail
        else:
            before.tail = (before.tail or "") + element.tail
    parent.remove(element)


def replace(element: Any, new: Any) -> None:
    """Put another element in the place of one; the text behind it stays."""
    new.tail = element.tail
    parent = element.getparent()
    if parent is not None:
        parent.replace(element, new)


def classes(element: Any) -> frozenset[str]:
    """Names of the element's classes, in lower case."""
    return frozenset(element.get("class", "").lower().split())
