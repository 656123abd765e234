"""Steps that keep a document, reject it with a reason, or mask a part of it: none of them writes text of its own."""
