"""Formats that pandoc reads: DOCX, ePub, JATS; and pandoc itself, run within limits."""
