"""Conversations and preference pairs as rows of packed units, epoch after epoch."""
