"""Threads of forums and question sites: who wrote what, in order, instead of one text without voices.

The programs that run forums are few, and each names posts, bodies and authors in its own way; what they share is
schema.org's vocabulary. Where at least two posts with text are found, the thread is the content and no library is
asked: they judge posts by their length and drop short ones. Every post gets a heading with its role, author and votes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lxml.etree as etree

from megaphi.curation.extract.html.blocks import PageBlock
from megaphi.curation.extract.html.tree import text_of

FEWEST_POSTS = 2
LONGEST_NAME = 60
_QUESTION, _ANSWER, _POST, _COMMENT = "Question", "Answer", "Post", "Comment"


@dataclass(frozen=True, slots=True)
class ForumProgram:
    """Class names by which one program marks the parts of a thread; the first that is found counts."""

    name: str
    posts: tuple[str, ...]
    bodies: tuple[str, ...]
    authors: tuple[str, ...]
    votes: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    comments: tuple[str, ...] = ()
    """Bodies of short remarks under a post."""
    commenters: tuple[str, ...] = ()


PROGRAMS = (
    ForumProgram(
        "stackexchange",
        posts=("question", "answer"),
        bodies=("js-post-body", "s-prose", "post-text"),
        authors=("owner", "user-details", "post-signature"),
        votes=("js-vote-count", "vote-count-post"),
        accepted=("accepted-answer", "js-accepted-answer"),
        comments=("comment-copy",),
        commenters=("comment-user",),
    ),
    ForumProgram(
        "discourse",
        posts=("topic-post", "crawler-post", "topic-body"),
        bodies=("cooked", "post"),
        authors=("username", "creator", "names"),
        accepted=("accepted-answer",),
    ),
    ForumProgram(
        "phpbb", posts=("postbody",), bodies=("content",), authors=("username", "username-coloured", "author"),
    ),
    ForumProgram(
        "vbulletin",
        posts=("postcontainer", "postbitlegacy", "postbit", "b-post"),
        bodies=("postcontent", "js-post__content-text", "restore", "post_message"),
        authors=("username", "bigusername", "author"),
    ),
    ForumProgram(
        "xenforo",
        posts=("message--post", "message"),
        bodies=("bbwrapper", "messagetext", "message-body"),
        authors=("message-name", "username"),
    ),
    ForumProgram("hackernews", posts=("comtr",), bodies=("commtext",), authors=("hnuser",)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ForumPost:
    """One post of a thread."""

    role: str
    body: Any
    author: str = ""
    votes: str = ""
    is_accepted: bool = False

    @property
    def heading(self) -> str:
        """The line in front of it: `Answer by ada (accepted, 12 votes)`."""
        notes = [note for note in ("accepted" * self.is_accepted, f"{self.votes} votes" * bool(self.votes)) if note]
        author = f" by {self.author}" if self.author else ""
        return f"{self.role}{author}" + (f" ({', '.join(notes)})" if notes else "")


def posts_of(root: Any) -> tuple[str, list[ForumPost]]:
    """The program and the posts of a thread in order; no posts where the page is none."""
    index: dict[str, list[Any]] = {}
    for element in root.iter(etree.Element):
        for name in element.get("class", "").lower().split():
            index.setdefault(name, []).append(element)
    for program in PROGRAMS:
        posts = _posts(root, index, program)
        if len([post for post in posts if post.role != _COMMENT]) >= FEWEST_POSTS:
            return program.name, posts
    posts = _posts_of_schema(root)
    return ("schema.org", posts) if len(posts) >= FEWEST_POSTS else ("", [])


def _posts(root: Any, index: dict[str, list[Any]], program: ForumProgram) -> list[ForumPost]:
    name = next((name for name in program.posts if name in index), None)
    if name is None or not any(body in index for body in program.bodies):
        return []
    names = program.posts if program.name == "stackexchange" else (name,)
    found: list[ForumPost] = []
    bodies: set[Any] = set()
    for element in root.iter(etree.Element):
        own = set(element.get("class", "").lower().split())
        if not own.intersection(names):
            continue
        body = _first(element, program.bodies)
        if body is None or body in bodies or not text_of(body).strip():
            continue
        bodies.add(body)
        found.append(_post(element, body, own, program))
        found += _comments(element, program)
    return found


def _post(element: Any, body: Any, own: set[str], program: ForumProgram) -> ForumPost:
    role = _QUESTION if "question" in own else _ANSWER if "answer" in own else _POST
    votes = _first(element, program.votes)
    is_accepted = bool(own.intersection(program.accepted))
    return ForumPost(role, body, _author(element, program.authors), _number(votes), is_accepted)


def _comments(element: Any, program: ForumProgram) -> list[ForumPost]:
    found = []
    for body in _all(element, program.comments):
        around = body.getparent()
        found.append(ForumPost(_COMMENT, body, _author(around, program.commenters) if around is not None else ""))
    return found


def _author(element: Any, names: tuple[str, ...]) -> str:
    """The author's name: marked by schema.org, in an attribute, or in the first element of a telling class."""
    for path in (".//*[@itemprop='author']//*[@itemprop='name']", ".//*[@itemprop='author']"):
        for author in element.xpath(path):
            text = _line(author)
            if text:
                return text
    if element.get("data-author"):
        return element.get("data-author").strip()[:LONGEST_NAME]
    author = _first(element, names)
    if author is None:
        return ""
    link = next((link for link in author.iter("a") if _line(link)), None)
    return _line(link if link is not None else author)


def _line(element: Any) -> str:
    text = " ".join(text_of(element).split())
    return text if len(text) <= LONGEST_NAME else ""


def _number(element: Any) -> str:
    text = "" if element is None else element.get("data-value") or element.get("content") or text_of(element).strip()
    return text if text.lstrip("-").isdecimal() else ""


def _first(element: Any, names: tuple[str, ...]) -> Any:
    for name in names:
        found = next(iter(_all(element, (name,))), None)
        if found is not None:
            return found
    return None


def _all(element: Any, names: tuple[str, ...]) -> list[Any]:
    return [
        node for node in element.iterdescendants(etree.Element)
        if not set(names).isdisjoint(node.get("class", "").lower().split())
    ]  # fmt: skip


def _posts_of_schema(root: Any) -> list[ForumPost]:
    """Posts by schema.org's words for questions, answers, postings and comments."""
    kinds = {"Question": _QUESTION, "Answer": _ANSWER, "DiscussionForumPosting": _POST, "Comment": _COMMENT}
    found: list[ForumPost] = []
    bodies: set[Any] = set()
    for element in root.xpath("//*[@itemtype]"):
        kind = element.get("itemtype").rpartition("/")[2]
        if kind not in kinds:
            continue
        body = next(iter(element.xpath(".//*[@itemprop='text' or @itemprop='articleBody']")), None)
        if body is None or body in bodies or not text_of(body).strip():
            continue
        bodies.add(body)
        votes = next(iter(element.xpath(".//*[@itemprop='upvoteCount']")), None)
        accepted = "acceptedAnswer" in element.get("itemprop", "")
        found.append(ForumPost(kinds[kind], body, _author(element, ()), _number(votes), accepted))
    return found


def thread_of(blocks: list[PageBlock], posts: list[ForumPost]) -> list[PageBlock]:
    """The blocks of the posts, each post behind its heading, and the title of the thread before them."""
    post_of = {element: post for post in posts for element in post.body.iter()}
    result: list[PageBlock] = []
    last: ForumPost | None = None
    for number, block in enumerate(blocks):
        post = post_of.get(block.element)
        if post is None:
            continue
        if last is None:
            result += _title(blocks[:number])
        if post is not last:
            kind = "paragraph" if post.role == _COMMENT else "heading"
            text = f"{post.heading}:" if post.role == _COMMENT else post.heading
            result.append(PageBlock(kind, text, post.body, "text", level=2))
        last = post
        result.append(block)
    return result


def _title(before: list[PageBlock]) -> list[PageBlock]:
    titles = [block for block in before if block.kind == "heading" and block.level <= 3]
    return titles[:1]
